"""Tests of the compact backbone."""

import keras
import numpy as np
import pytest

from delf.python.training.model import compact, keypoints


@pytest.fixture(scope="module")
def backbone():
  keras.utils.set_random_seed(3)
  model = compact.CompactBackbone()
  model(np.zeros([1, 64, 64, 3], np.float32), training=False)
  return model


def _image(height, width, seed=0):
  random = np.random.default_rng(seed)
  return random.uniform(-1, 1, (1, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (71, 40), (10, 10)])
def test_maps_have_the_stated_strides(backbone, size):
  blocks = {}
  descriptor = backbone.build_call(
    _image(*size), training=False, intermediates_dict=blocks
  )
  assert descriptor.shape == (1, backbone.global_channels)
  for name, stride in {
    "block0": 2,
    "block1": 4,
    "block2": 8,
    "block4": 32,
  }.items():
    expected = [-(-side // stride) for side in size]
    assert list(blocks[name].shape[1:3]) == expected
  expected = [-(-side // backbone.receptive_stride) for side in size]
  assert blocks["block3"].shape == (1, *expected, backbone.local_channels)


def test_feature_is_centred_on_its_receptive_box():
  # For a network of mirrored kernels, the map of a mirrored image of a size of
  # 32 n + 1 is the mirrored map only if cell i is centred on pixel 8 i at every
  # stage. That pixel is where the centre of the box is.
  keras.utils.set_random_seed(3)
  model = compact.CompactBackbone()
  image = _image(161, 225)
  model(image, training=False)
  for variable in model.variables:
    if len(variable.shape) == 4:
      kernel = variable.numpy()
      variable.assign((kernel + kernel[::-1, ::-1]) / 2)
  first, second = (
    np.array(model.cells_call(x, training=False)[0])[0]
    for x in (image, image[:, ::-1, ::-1])
  )
  assert first.std() > 0.01
  np.testing.assert_allclose(
    second[::-1, ::-1], first, atol=1e-4 * np.abs(first).max()
  )
  centre = (model.receptive_field - 1) / 2 - model.receptive_padding
  assert centre == 0 and model.receptive_stride == 8


def test_shift_by_the_coarsest_stride_shifts_the_map(backbone):
  image = _image(512, 512)
  first = np.array(backbone.local_call(image, training=False))
  shifted = np.roll(image, (32, 64), axis=(1, 2))
  second = np.array(backbone.local_call(shifted, training=False))
  np.testing.assert_allclose(
    second[:, 28:40, 28:40], first[:, 24:36, 20:32], atol=1e-3
  )


def test_features_are_taken_at_their_keypoints(backbone):
  blocks, image = {}, _image(72, 88)
  backbone.build_call(image, training=False, intermediates_dict=blocks)
  cells, logits = backbone.cells_call(image, training=False)
  offsets = np.array(blocks["offsets"])
  np.testing.assert_array_equal(offsets, np.array(keypoints.offsets(logits)))
  assert offsets.shape == (1, 9, 11, 2) and offsets.std() > 0.5
  cells, y, x = np.array(cells)[0], 4 + offsets[0, 4, 5, 0] / 8, 5
  x = x + offsets[0, 4, 5, 1] / 8
  top, left = int(y), int(x)
  y, x = y - top, x - left
  expected = (
    (1 - y) * (1 - x) * cells[top, left]
    + (1 - y) * x * cells[top, left + 1]
    + y * (1 - x) * cells[top + 1, left]
    + y * x * cells[top + 1, left + 1]
  )
  np.testing.assert_allclose(
    np.array(blocks["block3"])[0, 4, 5], expected, rtol=1e-3, atol=1e-3
  )


def test_contrast_hardly_matters(backbone):
  image = 0.4 * _image(128, 128)
  maps = [
    np.array(backbone.local_call(x, training=False))
    for x in (image, 0.5 * image + 0.2)
  ]
  units = [m / np.linalg.norm(m, axis=-1, keepdims=True) for m in maps]
  assert (units[0] * units[1]).sum(-1).min() > 0.98


def test_local_call_is_block3(backbone):
  blocks, image = {}, _image(72, 88)
  backbone.build_call(image, training=False, intermediates_dict=blocks)
  local = backbone.local_call(image, training=False)
  np.testing.assert_array_equal(np.array(local), np.array(blocks["block3"]))


def test_weights_come_back_from_a_file(backbone, tmp_path):
  backbone.save_weights(tmp_path / "compact.weights.h5")
  keras.utils.set_random_seed(4)
  other = compact.CompactBackbone()
  image = _image(64, 64)
  other(image, training=False)
  before = np.array(other.build_call(image, training=False))
  other.load_weights(tmp_path / "compact.weights.h5")
  after = np.array(other.build_call(image, training=False))
  expected = np.array(backbone.build_call(image, training=False))
  assert not np.allclose(before, expected)
  np.testing.assert_array_equal(after, expected)


def test_is_small(backbone):
  assert backbone.count_params() < 2_000_000
