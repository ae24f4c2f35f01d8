"""Tests of the compact backbone."""

import keras
import numpy as np
import pytest

from delf.networks import compact, heads
from delf.python.training.model import delg_model


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
  np.testing.assert_array_equal(offsets, np.array(heads.offsets(logits)))
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


@pytest.mark.slow
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


def _randomize(model):
  rng = np.random.default_rng(0)
  for variable in model.variables:
    if variable.path.endswith(("gamma", "moving_variance")):
      variable.assign(rng.uniform(0.5, 2, variable.shape))
    elif variable.path.endswith(("beta", "moving_mean", "bias")):
      variable.assign(rng.normal(0, 0.3, variable.shape))


def _outputs(model, images):
  return [
    keras.ops.convert_to_numpy(output)
    for output in model.build_call(images, training=False)
  ]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet50", "compact"])
def test_the_same_comes_out_and_all_is_put_back(backbone):
  # Rounding is of the random weights: the same ones in every run.
  keras.utils.set_random_seed(0)
  model = delg_model.Delg(backbone=backbone, block3_strides=False)
  _randomize(model)
  noise = np.random.default_rng(1).normal(size=[1, 64, 96, 3])
  images = keras.ops.convert_to_tensor(noise.astype(np.float32))
  before = _outputs(model, images)
  weights = [
    keras.ops.convert_to_numpy(variable) for variable in model.variables
  ]
  with compact.folded(model):
    changed = [
      not np.array_equal(keras.ops.convert_to_numpy(variable), weight)
      for variable, weight in zip(model.variables, weights, strict=True)
    ]
    inside = _outputs(model, images)
  after = _outputs(model, images)
  assert sum(changed) > 10
  for variable, weight in zip(model.variables, weights, strict=True):
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), weight)
  for one, other, again in zip(before, inside, after, strict=True):
    scale = np.abs(one).max()
    np.testing.assert_allclose(other / scale, one / scale, atol=2e-5)
    np.testing.assert_array_equal(again, one)


def test_folding_twice_is_folding_once():
  keras.utils.set_random_seed(0)
  model = delg_model.Delg(backbone="compact", block3_strides=False)
  _randomize(model)
  images = keras.ops.ones([1, 64, 64, 3])
  before = _outputs(model, images)
  with compact.folded(model):
    with compact.folded(model):
      inside = _outputs(model, images)
    outside = _outputs(model, images)
  for one, other, again in zip(before, inside, outside, strict=True):
    scale = np.abs(one).max()
    np.testing.assert_allclose(other / scale, one / scale, atol=2e-5)
    np.testing.assert_array_equal(again, other)


def test_weights_are_put_back_after_an_error():
  model = delg_model.Delg(backbone="compact", block3_strides=False)
  _randomize(model)
  weights = [
    keras.ops.convert_to_numpy(variable) for variable in model.variables
  ]
  with pytest.raises(RuntimeError, match="disk"), compact.folded(model):
    raise RuntimeError("disk")
  for variable, weight in zip(model.variables, weights, strict=True):
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), weight)


def test_what_is_no_layer_stays_as_it_is():
  with compact.folded(object()):
    pass


def _expected(features, words, temperature):
  rows = []
  for each in features.reshape(len(features), -1, features.shape[-1]):
    lengths = np.linalg.norm(each, axis=1)
    units = each / lengths[:, None]
    sums = np.zeros_like(words)
    for unit, length in zip(units, lengths, strict=True):
      shares = np.exp(words @ unit / temperature)
      shares = length * shares / shares.sum()
      sums += shares[:, None] * (unit - words)
    sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    rows.append(sums.ravel() / np.sqrt(len(words)))
  return np.array(rows)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_it_is_the_sum_of_weighted_residuals(temperature):
  rng = np.random.default_rng(3)
  features = rng.normal(size=(2, 3, 5, 8)).astype(np.float32)
  layer = compact.SoftVLAD(4, temperature)
  found = np.array(layer(features))
  words = layer.words.numpy()
  np.testing.assert_allclose(np.linalg.norm(words, axis=1), 1, atol=1e-5)
  np.testing.assert_allclose(
    found, _expected(features, words, temperature), atol=1e-5
  )
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)


def test_neither_places_nor_the_size_of_all_features_matter():
  rng = np.random.default_rng(4)
  features = rng.normal(size=(1, 6, 4, 8)).astype(np.float32)
  layer = compact.SoftVLAD(3)
  first = np.array(layer(features))
  moved = rng.permutation(features.reshape(24, 8)).reshape(1, 3, 8, 8)
  np.testing.assert_allclose(np.array(layer(9 * moved)), first, atol=1e-5)


def test_no_texture_gives_finite_values():
  layer = compact.SoftVLAD(3)
  assert np.isfinite(layer(np.zeros([1, 2, 2, 8], np.float32))).all()
