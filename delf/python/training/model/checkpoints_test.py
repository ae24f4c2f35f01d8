"""Checkpoints: what is written is read, and nothing else."""

import numpy as np
import pytest
import tensorflow as tf

from delf.python import errors
from delf.python.training.model import (
  checkpoints,
  delf_model,
  delg_model,
  layer_tree,
)

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture
def small():
  """A whole model with few weights."""
  model = delg_model.Delg(backbone="compact", use_dim_reduction=True)
  model.init_classifiers(3)
  return model


def _snapshot(model):
  paths = layer_tree.variables_by_path(model)
  return {path: variable.numpy().copy() for path, variable in paths.items()}


def _same(first, second):
  assert first.keys() == second.keys()
  for path, value in first.items():
    np.testing.assert_array_equal(value, second[path], err_msg=path)


def _shuffle(model):
  rng = np.random.default_rng(5)
  for variable in model.variables:
    variable.assign(rng.uniform(size=variable.shape))


def test_optimisers_of_older_releases_are_no_part_of_the_model(small, tmp_path):
  kernel = small.attention.conv1.kernel.value
  optimizer = tf.compat.v1.train.MomentumOptimizer(0.1, 0.9)
  optimizer.apply_gradients([(tf.ones_like(kernel), kernel)])
  checkpoint = tf.train.Checkpoint(
    model=checkpoints.trackables(small), optimizer=optimizer
  )
  prefix = checkpoint.save(str(tmp_path / "ckpt"))
  keys = [key for key, _, _ in checkpoints.describe(prefix)]
  assert any(".OPTIMIZER_SLOT" in key for key in keys)
  assert checkpoints.load_weights(small, prefix).unused == []


def test_round_trip(small, tmp_path):
  _shuffle(small)
  before = _snapshot(small)
  checkpoints.save_weights(small, tmp_path / "weights")
  for variable in small.variables:
    variable.assign(np.zeros(variable.shape))
  for path in (tmp_path / "weights", tmp_path / "weights.index"):
    report = checkpoints.load_weights(small, path)
    assert report.loaded == sorted(before)
  _same(_snapshot(small), before)


def test_round_trip_of_a_training_run(small, tmp_path):
  checkpoint = tf.train.Checkpoint(
    model=checkpoints.trackables(small),
    optimizer={"iterations": tf.Variable(3)},
    epoch=tf.Variable(1),
  )
  manager = tf.train.CheckpointManager(checkpoint, str(tmp_path), 3)
  manager.save()
  _shuffle(small)
  before = _snapshot(small)
  manager.save()
  small.cosine_weights.assign(small.cosine_weights * 0)
  checkpoints.load_weights(small, tmp_path)
  _same(_snapshot(small), before)


def test_overwrites_and_leaves_nothing_behind(small, tmp_path):
  for _ in range(2):
    checkpoints.save_weights(small, tmp_path / "weights")
  assert len(list(tmp_path.iterdir())) == 2


def test_other_models_are_refused(small, tmp_path):
  checkpoints.save_weights(small, tmp_path / "weights")
  other = delf_model.Delf(backbone=small.backbone)
  other.init_classifiers(4)
  before = _snapshot(other)
  with pytest.raises(errors.InputError) as caught:
    checkpoints.load_weights(other, tmp_path / "weights")
  text = str(caught.value)
  assert text.startswith(
    f"{tmp_path / 'weights'}: expected the weights of DELF"
  )
  missing, unused, shapes = text.split("received ")[1].split("; ")
  assert missing == (
    "missing: desc_classification/bias, desc_classification/kernel"
  )
  assert unused == (
    "unused: autoencoder/conv1/bias, autoencoder/conv1/kernel, "
    "autoencoder/conv2/bias, autoencoder/conv2/kernel, cosine_weights, "
    "scale_factor"
  )
  assert shapes.startswith("of another shape: attn_classification/bias [3] in ")
  assert "attn_classification/kernel" in shapes
  _same(_snapshot(other), before)


def test_allowances_are_named(small, tmp_path):
  checkpoints.save_weights(small, tmp_path / "weights")
  headless = delf_model.Delf(backbone=small.backbone)
  with pytest.raises(errors.InputError, match="unused: autoencoder/conv1"):
    checkpoints.load_weights(
      headless, tmp_path / "weights", unused=checkpoints.TRAINING_ONLY
    )
  report = checkpoints.load_weights(
    headless,
    tmp_path / "weights",
    unused=(*checkpoints.TRAINING_ONLY, "autoencoder"),
  )
  assert "autoencoder/conv2/bias" in report.unused
  checkpoints.save_weights(headless, tmp_path / "headless")
  with pytest.raises(errors.InputError, match="missing: attn_classification"):
    checkpoints.load_weights(small, tmp_path / "headless")
  report = checkpoints.load_weights(
    small,
    tmp_path / "headless",
    missing=(*checkpoints.TRAINING_ONLY, "autoencoder"),
  )
  assert "scale_factor" in report.missing


def test_files_that_cannot_be_read(small, tmp_path):
  with pytest.raises(FileNotFoundError, match="none.index"):
    checkpoints.load_weights(small, tmp_path / "none")
  with pytest.raises(FileNotFoundError, match="expected a checkpoint"):
    checkpoints.load_weights(small, tmp_path)
  text = tmp_path / "text.index"
  text.write_text("These are no weights.")
  with pytest.raises(errors.InputError, match="text: expected a whole"):
    checkpoints.describe(tmp_path / "text")
  prefix = checkpoints.save_weights(small, tmp_path / "weights")
  data = tmp_path / "weights.data-00000-of-00001"
  whole = data.read_bytes()
  flipped = bytearray(whole)
  flipped[len(whole) // 2] ^= 255
  before = _snapshot(small)
  for content in (whole[:-1], whole[: len(whole) // 2], b"", bytes(flipped)):
    data.write_bytes(content)
    with pytest.raises(errors.InputError, match="weights: expected a whole"):
      checkpoints.load_weights(small, prefix)
  data.unlink()
  with pytest.raises(errors.InputError, match="weights: expected a whole"):
    checkpoints.load_weights(small, prefix)
  _same(_snapshot(small), before)


def test_describe(small, tmp_path):
  checkpoints.save_weights(small, tmp_path / "weights")
  held = checkpoints.describe(tmp_path / "weights")
  paths = layer_tree.variables_by_path(small)
  assert [key for key, _, _ in held] == sorted(f"{p}{_SUFFIX}" for p in paths)
  shape = tuple(small.cosine_weights.shape)
  assert (f"cosine_weights{_SUFFIX}", shape, "float32") in held
  assert (f"scale_factor{_SUFFIX}", (), "float32") in held
