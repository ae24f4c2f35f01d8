"""Checkpoints that the original wrote, and those that it reads."""

import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from delf.networks import backbones, model_checkpoints
from delf.python.training.model import delg_model

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture(scope="module")
def delg():
  """The model of the original checkpoint, of 5 classes."""
  model = delg_model.Delg(use_dim_reduction=True)
  model.init_classifiers(5)
  return model


@pytest.fixture(scope="module")
def original(goldens, tmp_path_factory):
  """Prefix of the checkpoint that the original wrote."""
  folder = tmp_path_factory.mktemp("original")
  with tarfile.open(goldens / "original" / "checkpoint.tar.xz") as archive:
    archive.extractall(folder, filter="data")
  return folder / "ckpt" / "delf_weights"


def test_reads_the_original(goldens, delg, original):
  report = model_checkpoints.load_weights(delg, original)
  assert report.unused == report.missing == []
  reader = tf.train.load_checkpoint(str(original))
  paths = backbones.variables_by_path(delg)
  assert report.loaded == sorted(paths)
  for path, variable in paths.items():
    stored = reader.get_tensor(path + _SUFFIX)
    np.testing.assert_array_equal(variable, stored, err_msg=path)
  names = json.loads((goldens / "original" / "variables.json").read_text())
  assert sorted(
    (name.split(":")[0].split("/")[-1], tuple(shape), trainable)
    for name, shape, _, trainable in names
  ) == sorted((v.name, tuple(v.shape), v.trainable) for v in delg.variables)
  with np.load(goldens / "original" / "features.npz") as features:
    image = features["image0"]
  outputs = delg.build_call((image[None] - 128.0) / 128.0, training=False)
  height, width = (-(-side // 32) for side in image.shape[:2])
  for output, shape in zip(
    outputs, [(2048,), (height, width, 1), (height, width, 128)], strict=True
  ):
    assert abs(output.shape[1] - shape[0]) <= 1
    assert output.shape[-1] == shape[-1]
    assert np.isfinite(output).all()


def test_writes_what_the_original_reads(goldens, delg, original, tmp_path):
  model_checkpoints.load_weights(delg, original)
  prefix = tmp_path / "new" / "delf_weights"
  assert model_checkpoints.save_weights(delg, prefix) == str(prefix)
  assert sorted(path.name for path in prefix.parent.iterdir()) == [
    "delf_weights.data-00000-of-00001",
    "delf_weights.index",
  ]
  golden = json.loads(
    (goldens / "original" / "checkpoint_keys.json").read_text()
  )
  reader = tf.train.load_checkpoint(str(prefix))
  assert reader.get_variable_to_shape_map() == dict(golden)
  first, second = (tf.train.load_checkpoint(str(p)) for p in (prefix, original))
  for key, _, _ in model_checkpoints.describe(prefix):
    stored = second.get_tensor(key)
    np.testing.assert_array_equal(first.get_tensor(key), stored, err_msg=key)


def test_reads_a_training_run_of_the_original(goldens, delg, tmp_path):
  inventory = json.loads((goldens / "inventory_variables.json").read_text())
  run = inventory["train.py CheckpointManager(optimizer SGD, model=Delg)"]
  tree = {}
  rng = np.random.default_rng(0)
  for key, shape in run["keys"].items():
    if not key.endswith(_SUFFIX) or key.startswith("save_counter"):
      continue
    # 5 classes in place of 14951; slots of momentum are not read.
    shape = [5 if size == 14951 else size for size in shape]
    shape = [] if key.startswith("optimizer") else shape
    *parents, leaf = key.removesuffix(_SUFFIX).split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = tf.Variable(rng.random(shape, np.float32))
  manager = tf.train.CheckpointManager(
    tf.train.Checkpoint(**tree), str(tmp_path), max_to_keep=2
  )
  manager.save()
  written = {key for key, _, _ in model_checkpoints.describe(tmp_path)}
  assert written == set(run["keys"]) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
  report = model_checkpoints.load_weights(delg, tmp_path)
  assert report.unused == report.missing == []
  for path, variable in backbones.variables_by_path(delg).items():
    node = tree["model"]
    for part in path.split("/"):
      node = node[part]
    np.testing.assert_array_equal(variable, node, err_msg=path)
