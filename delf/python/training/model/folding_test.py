import keras
import numpy as np
import pytest

from delf.python.training.model import delg_model, folding


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
  with folding.folded(model):
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
  with folding.folded(model):
    with folding.folded(model):
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
  with pytest.raises(RuntimeError, match="disk"), folding.folded(model):
    raise RuntimeError("disk")
  for variable, weight in zip(model.variables, weights, strict=True):
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), weight)


def test_what_is_no_layer_stays_as_it_is():
  with folding.folded(object()):
    pass
