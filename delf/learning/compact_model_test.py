import pathlib

import keras
import numpy as np
import pytest

from delf.base import errors
from delf.inference import zoo
from delf.learning import compact_model


def _model(seed=0, **options):
  keras.utils.set_random_seed(seed)
  return compact_model.create(**options)


@pytest.fixture(scope="module")
def model():
  return _model()


def _arrays(model):
  return [
    keras.ops.convert_to_numpy(v).copy()
    for v in model.backbone.variables + model.attention.variables
  ]


def test_weights_come_back_to_half_precision(tmp_path):
  model, other = _model(), _model(seed=1)
  model.backbone.norm1.moving_variance.assign(np.full([48], 1e-9))
  model.backbone.embedding_layer.kernel.assign(
    1e6 * model.backbone.embedding_layer.kernel
  )
  compact_model.save(model, tmp_path)
  compact_model.load(other, tmp_path)
  for one, two in zip(_arrays(model), _arrays(other), strict=True):
    np.testing.assert_allclose(one, two, rtol=5e-4, atol=3e-8)
    if one.ndim < 2:
      np.testing.assert_array_equal(one, two)


def test_the_packaged_model_can_be_trained_on(model):
  folder = pathlib.Path(zoo.resolve("delf-compact"))
  if not (folder / compact_model.WEIGHTS).exists():
    pytest.skip("the embedded model comes without training weights")
  compact_model.load(model, folder)
  assert np.ptp(_arrays(model)[0]) > 0


def test_weights_of_another_size_change_nothing(model, tmp_path):
  compact_model.save(_model(embedding_layer_dim=32), tmp_path)
  before = _arrays(model)
  with pytest.raises(errors.InputError, match="embedding_layer.*256.*32"):
    compact_model.load(model, tmp_path)
  for one, two in zip(before, _arrays(model), strict=True):
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("change", ["missing", "nan", "objects", "other"])
def test_damaged_weights_are_refused(model, tmp_path, change):
  compact_model.save(model, tmp_path)
  path = tmp_path / compact_model.WEIGHTS
  with np.load(path) as found:
    arrays = dict(found)
  name = "backbone/stem/kernel"
  if change == "missing":
    del arrays[name]
  elif change == "nan":
    arrays[name] = arrays[name] * np.nan
  elif change == "objects":
    arrays[name] = np.full(arrays[name].shape, "x")
  else:
    arrays["architecture"] = "resnet50"
  np.savez(path, **arrays)
  with pytest.raises(errors.InputError, match="weights.npz: expected"):
    compact_model.load(model, tmp_path)


def test_a_folder_without_weights_is_named(model, tmp_path):
  with pytest.raises(FileNotFoundError, match="weights.npz"):
    compact_model.load(model, tmp_path)
