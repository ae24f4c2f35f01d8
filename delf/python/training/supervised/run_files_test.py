"""Checkpoints of the original's training runs are gone on from, momenta too."""

import json

import numpy as np
import tensorflow as tf

from delf.python.training.supervised import (
  momentum,
  networks,
  run_files,
  settings,
)

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_CLASSES, _STEP = 5, 3000


def _value(key, shape):
  """Returns an array that tells which key it is of."""
  if key.startswith("optimizer/_iterations"):
    return np.int64(_STEP)
  number = sum(map(ord, key)) % 1000
  return np.full(shape, number, np.float32)


def test_momenta_of_the_original_are_read(goldens, tmp_path):
  inventory = json.loads((goldens / "inventory_variables.json").read_text())
  run = inventory["train.py CheckpointManager(optimizer SGD, model=Delg)"]
  tree = {}
  for key, shape in run["keys"].items():
    if not key.endswith(_SUFFIX) or key.startswith("save_counter"):
      continue
    shape = [_CLASSES if size == 14951 else size for size in shape]
    *parents, leaf = key.removesuffix(_SUFFIX).split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = tf.Variable(_value(key, shape))
  tf.train.CheckpointManager(
    tf.train.Checkpoint(**tree), str(tmp_path / "delf_tf2-ckpt"), 10
  ).save()
  model = networks.make(settings.Network(delg=True), _CLASSES)
  trained = [variable.value for variable in model.trainable_variables]
  optimizer = momentum.Momentum(trained, 0.9)
  files = run_files.RunFiles(tmp_path, model, optimizer)
  assert files.resume().endswith("ckpt-1")
  assert int(optimizer.iterations) == _STEP
  held = optimizer.by_key()
  written = {k.removesuffix(_SUFFIX) for k in run["keys"]}
  assert {k for k in written if k.startswith("optimizer/")} == set(held)
  for path, variable in held.items():
    expected = _value(path + _SUFFIX, variable.shape)
    np.testing.assert_array_equal(variable, expected, err_msg=path)
  # The momentum of each variable is of its shape, in the original's order.
  momenta = [held[f"optimizer/_variables/{i}"] for i in range(1, 228)]
  assert [m.shape for m in momenta] == [v.shape for v in trained]
  kernel = model.backbone.l5c.conv2c.kernel
  key = f"model/backbone/l5c/conv2c/kernel{_SUFFIX}"
  np.testing.assert_array_equal(kernel, _value(key, kernel.shape))
