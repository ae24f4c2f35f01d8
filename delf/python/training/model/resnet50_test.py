"""ResNets: their blocks and their options."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from delf.base import errors
from delf.networks import backbones
from delf.python.training.model import resnet50


class _Short(resnet50.ResNet50):
  """Every kind of block, in few layers."""

  blocks_by_stage = (1, 2, 3, 2)


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  return rng.standard_normal((2, 70, 100, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
  """With an embedding layer, so that not all weights are of the file."""
  return _Short(
    "channels_last",
    name="backbone",
    include_top=False,
    pooling="gem",
    block3_strides=True,
    average_pooling=False,
    embedding_layer=True,
    embedding_layer_dim=8,
  )


def test_log_weights(model, monkeypatch):
  lines = []
  monkeypatch.setattr(logging, "info", lambda text, *a: lines.append(text % a))
  model.log_weights()
  assert len(lines) == len(model.variables) + 1
  assert any("res5b_branch2c/kernel (1, 1, 512, 2048)" in s for s in lines)


def test_intermediates(model, images):
  blocks = {}
  output = model(images, training=False, intermediates_dict=blocks)
  assert np.isfinite(output).all()
  assert output.shape == (2, 8)
  assert {name: tuple(block.shape[1:]) for name, block in blocks.items()} == {
    "block0": (35, 50, 64),
    "block0mp": (17, 24, 64),
    "block1": (17, 24, 256),
    "block2": (9, 12, 512),
    "block3": (3, 3, 1024),
    "block4": (3, 3, 2048),
  }
  np.testing.assert_array_equal(model(images, training=False), output)
  local = model.local_call(images, training=False)
  np.testing.assert_array_equal(local, blocks["block3"])


def test_local_features_alone_skip_the_last_stage(model, images):
  first = model.bn_conv1.moving_mean.numpy()
  last = model.l5a.bn2a.moving_mean.numpy()
  model.local_call(images, training=True)
  assert np.any(model.bn_conv1.moving_mean != first)
  np.testing.assert_array_equal(model.l5a.bn2a.moving_mean, last)


def test_subsampling_changes_the_local_features_alone(model, images):
  dense = _Short("channels_last", include_top=False, average_pooling=False)
  by_path = backbones.variables_by_path(model)
  for path, variable in backbones.variables_by_path(dense).items():
    variable.assign(by_path[path])
  dense_blocks, blocks = {}, {}
  last = dense.build_call(images, False, dense_blocks)
  model.build_call(images, False, blocks)
  np.testing.assert_array_equal(last, blocks["block4"])
  np.testing.assert_array_equal(
    dense_blocks["block3"][:, ::2, ::2], blocks["block3"]
  )
  assert (dense.receptive_stride, model.receptive_stride) == (16, 32)
  for net in (dense, model):
    assert (net.receptive_field, net.receptive_padding) == (291, 145)
    assert net.local_channels == 1024
  assert (dense.global_channels, model.global_channels) == (2048, 8)


def test_top(goldens):
  recorded = json.loads((goldens / "train_meta.json").read_text())
  model = resnet50.ResNet50("channels_last", classes=11)
  for size in (224, 64):
    logits = model(np.ones((1, size, size, 3), np.float32), training=False)
    assert recorded[f"resnet_include_top_{size}"] == ["ok", list(logits.shape)]
  assert model.bn_conv1.momentum == recorded["bn_resnet"]["momentum"]
  assert model.bn_conv1.epsilon == recorded["bn_resnet"]["epsilon"]
  assert model.global_channels == 11


def test_wrong_pooling():
  with pytest.raises(errors.InputError, match="gem, not 'median'"):
    _Short("channels_last", include_top=False, pooling="median")


def test_channels_first_is_the_same(model, images):
  first = _Short(
    "channels_first", include_top=False, pooling="gem", average_pooling=False
  )
  by_path = backbones.variables_by_path(model)
  for path, variable in backbones.variables_by_path(first).items():
    variable.assign(by_path[path])
  blocks, first_blocks = {}, {}
  model.build_call(images, False, blocks)
  try:
    first.build_call(tf.transpose(images, (0, 3, 1, 2)), False, first_blocks)
  except tf.errors.UnimplementedError:
    pytest.skip("TensorFlow has no channels-first convolution here")
  expected = tf.transpose(blocks["block4"], (0, 3, 1, 2))
  np.testing.assert_allclose(
    first_blocks["block4"], expected, atol=1e-4 * np.abs(expected).max()
  )


def test_resnet101_has_its_blocks(monkeypatch):
  monkeypatch.setattr(  # Random numbers take seconds.
    keras.initializers.GlorotUniform,
    "__call__",
    lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype),
  )
  model = resnet50.ResNet101("channels_last")
  # As many as the ResNet101 of Keras has.
  assert model.count_params() == 44_707_176
  paths = backbones.variables_by_path(model)
  assert len(paths) == len(model.variables)
  assert paths["l4w/conv2c/kernel"].shape == (1, 1, 256, 1024)
  assert model.local_channels == 1024
