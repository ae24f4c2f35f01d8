"""Extraction with small models, from a configuration to features."""

import concurrent.futures
import dataclasses
import logging

import keras
import numpy as np
import pytest

from delf.base import errors
from delf.inference import extractor, zoo
from delf.networks import exporting
from delf.protos import delf_config_pb2
from delf.python import datum_io
from delf.python.examples import extractor as examples_extractor
from tests.stand_ins import tiny_backbone

# What `extract_batch` promises, of the largest value.
_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Folder of exports: `joint`, `bare` (one function), and `local`."""
  folder = tmp_path_factory.mktemp("models")
  model = tiny_backbone.make()
  exporting.export(model, folder / "joint")
  exporting.export(model, folder / "bare", variants=False)
  exporting.export(model, folder / "local", "local", variants=False)
  return folder


def _config(path, **fields):
  config = delf_config_pb2.DelfConfig(
    model_path=str(path),
    image_scales=[0.5, 1.0, 1.5],
    use_local_features=True,
    use_global_features=True,
  )
  config.delf_local_config.use_pca = False
  config.delf_local_config.max_feature_num = 30
  config.delf_local_config.score_threshold = 0.0
  config.delf_global_config.use_pca = False
  config.MergeFrom(delf_config_pb2.DelfConfig(**fields))
  return config


def _check_same(actual, expected, tolerance=_TOLERANCE):
  if expected.global_descriptor is None:
    assert actual.global_descriptor is None
  else:
    np.testing.assert_allclose(
      actual.global_descriptor, expected.global_descriptor, atol=tolerance
    )
  if expected.local is None:
    assert actual.local is None
    return
  for field in dataclasses.fields(expected.local):
    value = getattr(expected.local, field.name)
    atol = tolerance * np.abs(value).max(initial=1)
    np.testing.assert_allclose(
      getattr(actual.local, field.name), value, atol=atol
    )


_PARTS = [(True, True), (True, False), (False, True)]


@pytest.mark.slow
@pytest.mark.parametrize("parts", _PARTS)
def test_batches_and_bare_models_give_the_same(folder, parts):
  options = dict(
    zip(("use_local_features", "use_global_features"), parts, strict=True)
  )
  images = [tiny_backbone.image(seed=i) for i in range(3)]
  made = extractor.make_extractor(_config(folder / "joint", **options))
  bare = extractor.make_extractor(_config(folder / "bare", **options))
  batch = made.extract_batch(images)
  assert len(batch) == 3
  for image, found in zip(images, batch, strict=True):
    single = made.extract(image)
    assert (single.local is not None, single.global_descriptor is not None) == (
      parts
    )
    _check_same(found, single)
    _check_same(bare.extract(image), single)
  for found, other in zip(bare.extract_batch(images), batch, strict=True):
    _check_same(found, other)


def test_results_are_what_the_configuration_says(folder):
  found = extractor.make_extractor(_config(folder / "joint")).extract(
    tiny_backbone.image()
  )
  local = found.local
  assert len(local) == 30 and local.descriptors.shape == (30, 12)
  for field in dataclasses.fields(local):
    assert getattr(local, field.name).dtype == np.float32, field.name
  assert found.global_descriptor.dtype == np.float32
  assert np.all(np.diff(local.attention) <= 0)
  norms = np.linalg.norm(local.descriptors, axis=1)
  np.testing.assert_allclose(norms, 1, atol=1e-5)
  assert np.linalg.norm(found.global_descriptor) == pytest.approx(1, abs=1e-5)
  # Boxes of 16 pixels every 16: centres at 7.5 + 16 i of the scaled image.
  cells = (local.locations / local.scales[:, None] - 7.5) / 16
  np.testing.assert_allclose(cells, np.round(cells), atol=1e-3)


def test_unset_global_scales_are_all_scales(folder):
  image = tiny_backbone.image()
  config = _config(folder / "joint")
  unset = extractor.make_extractor(config).extract(image)
  config.delf_global_config.image_scales_ind.extend([2, 0, 1, 1])
  chosen = extractor.make_extractor(config).extract(image)
  _check_same(chosen, unset)
  del config.delf_global_config.image_scales_ind[1:]
  one = extractor.make_extractor(config).extract(image)
  assert not np.allclose(one.global_descriptor, unset.global_descriptor)


def test_locations_are_of_the_image_or_of_the_resized_one(folder):
  config = _config(folder / "joint", max_image_size=60)
  image = tiny_backbone.image(90, 120)
  original = extractor.make_extractor(config).extract(image).local
  config.delf_local_config.use_resized_coordinates = True
  resized = extractor.make_extractor(config).extract(image).local
  np.testing.assert_allclose(original.locations, 2 * resized.locations)
  half = extractor.make_extractor(config).extract(image, 0.5).local
  assert half.locations.max() < resized.locations.max()


@pytest.mark.parametrize("shape", [(9, 50), (50, 9), (1, 1)])
def test_tiny_images_have_no_features(folder, shape):
  image = tiny_backbone.image(*shape)
  made = extractor.make_extractor(_config(folder / "joint"))
  for found in (made.extract(image), *made.extract_batch([image, image])):
    assert found.local.locations.shape == (0, 2)
    assert found.local.descriptors.shape == (0, 12)
    assert found.global_descriptor is None
  config = _config(folder / "joint", use_local_features=False)
  assert extractor.make_extractor(config).extract(image).local is None
  found = examples_extractor.MakeExtractor(config)(image)
  assert set(found) == {"global_descriptor"}
  assert found["global_descriptor"].shape == (0,)
  config = _config(folder / "local", use_global_features=False)
  found = examples_extractor.MakeExtractor(config)(image)
  assert set(found) == {"local_features"}
  assert found["local_features"]["locations"].shape == (0, 2)


@pytest.mark.slow
def test_the_hint_on_the_generation_may_be_wrong(folder):
  image = tiny_backbone.image()
  results = []
  for options in ({}, {"is_tf2_exported": True}, {"is_tf2_exported": False}):
    config = _config(folder / "joint", **options)
    results.append(extractor.make_extractor(config).extract(image))
  for found in results[1:]:
    _check_same(found, results[0], 0)


def _write_pca(folder, size, dim):
  generator = np.random.default_rng(4)
  arrays = {
    "mean": generator.normal(size=size) / 10,
    "matrix": np.linalg.qr(generator.normal(size=[size, size]))[0],
    "variances": generator.uniform(0.5, 2, size),
  }
  for name, array in arrays.items():
    datum_io.WriteToFile(array.astype(np.float32), str(folder / f"{name}.pca"))
  return arrays, delf_config_pb2.DelfPcaParameters(
    mean_path=str(folder / "mean.pca"),
    projection_matrix_path=str(folder / "matrix.pca"),
    pca_variances_path=str(folder / "variances.pca"),
    pca_dim=dim,
    use_whitening=True,
  )


def test_pca_of_local_features(folder, tmp_path):
  arrays, parameters = _write_pca(tmp_path, 12, 4)
  image = tiny_backbone.image()
  config = _config(folder / "joint")
  before = extractor.make_extractor(config).extract(image).local
  config.delf_local_config.use_pca = True
  config.delf_local_config.pca_parameters.CopyFrom(parameters)
  made = extractor.make_extractor(config)
  after = made.extract(image).local
  expected = (before.descriptors - arrays["mean"]) @ arrays["matrix"][:4].T
  expected /= np.sqrt(arrays["variances"][:4])
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  np.testing.assert_allclose(after.descriptors, expected, atol=1e-5)
  assert made.extract(image[:9]).local.descriptors.shape == (0, 4)


def test_pca_of_another_size_is_refused(folder, tmp_path):
  _, parameters = _write_pca(tmp_path, 11, 4)
  for part in ("local", "global"):
    config = _config(folder / "joint")
    chosen = getattr(config, f"delf_{part}_config")
    chosen.use_pca = True
    chosen.pca_parameters.CopyFrom(parameters)
    with pytest.raises(errors.InputError, match=f"{part} PCA.*size 11"):
      made = extractor.make_extractor(config)
      # The tiny model's graph does not tell the size of the other one.
      assert part == "global"
      made.extract(tiny_backbone.image())


def test_an_image_without_a_pixel_at_a_scale_is_one_line(folder):
  image = tiny_backbone.image(10, 50)
  for parts in _PARTS:
    config = _config(
      folder / "joint",
      image_scales=[0.05],
      use_local_features=parts[0],
      use_global_features=parts[1],
    )
    made = extractor.make_extractor(config)
    for run in (made.extract, lambda x, made=made: made.extract_batch([x, x])):
      with pytest.raises(errors.InputError, match=r"10 x 50 .* scale 0\.05"):
        run(image)


def test_an_image_that_fixed_scales_leave_nothing_of_is_one_line(tmp_path):
  path = tmp_path / "fixed"
  exporting.export(tiny_backbone.make(), path, "global", input_scales=[0.05])
  config = _config(path, use_local_features=False)
  made = extractor.make_extractor(config)
  assert made.extract(tiny_backbone.image()).global_descriptor is not None
  with pytest.raises(errors.InputError, match="the model failed on") as error:
    made.extract(tiny_backbone.image(10, 50))
  assert "\n" not in str(error.value)


def test_a_threshold_of_overlap_has_no_effect_and_says_so(folder, caplog):
  config = _config(folder / "joint")
  with caplog.at_level(logging.WARNING, logger="absl"):
    plain = extractor.make_extractor(config)
    assert not caplog.records
    config.delf_local_config.iou_threshold = 0.5
    other = extractor.make_extractor(config)
  assert "iou_threshold 0.5 has no effect" in caplog.text
  image = tiny_backbone.image()
  _check_same(other.extract(image), plain.extract(image), 0)


@pytest.mark.parametrize("part", ["local", "global"])
def test_what_is_not_a_number_is_an_error(tmp_path, part):
  model = tiny_backbone.make()
  layer = model.backbone.dense
  if part == "local":
    layer = model.attention.conv2
  layer.bias.assign(keras.ops.full(layer.bias.shape, float("nan")))
  exporting.export(model, tmp_path / "model", variants=False)
  made = extractor.make_extractor(_config(tmp_path / "model"))
  with pytest.raises(errors.InputError, match="NaN or infinity in") as error:
    made.extract(tiny_backbone.image())
  assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  "image",
  [
    np.zeros([20, 20], np.uint8),
    np.zeros([20, 20, 4], np.uint8),
    np.zeros([20, 20, 3], np.float32),
    np.zeros([0, 20, 3], np.uint8),
  ],
)
def test_what_is_no_image_is_refused(folder, image):
  made = extractor.make_extractor(_config(folder / "joint"))
  with pytest.raises(errors.InputError, match="an image must"):
    made.extract(image)


def test_a_batch_of_several_sizes_is_refused(folder):
  made = extractor.make_extractor(_config(folder / "joint"))
  images = [tiny_backbone.image(40, 50), tiny_backbone.image(40, 51)]
  with pytest.raises(
    errors.InputError, match=r"one size, not .*40, 50.*40, 51"
  ):
    made.extract_batch(images)
  assert made.extract_batch([]) == []


def test_a_model_without_what_is_asked_for(folder):
  with pytest.raises(errors.InputError, match="global_descriptors") as error:
    extractor.make_extractor(_config(folder / "local"))
  assert str(folder / "local") in str(error.value)


def test_a_name_in_place_of_a_folder(folder, monkeypatch):
  monkeypatch.setattr(zoo, "resolve", {"some-model": folder / "joint"}.get)
  made = extractor.make_extractor(_config("some-model"), device="cpu")
  assert made.device == "CPU"
  assert len(made.extract(tiny_backbone.image()).local) == 30


def test_a_name_that_nobody_knows():
  with pytest.raises(errors.InputError, match="no-such-model"):
    extractor.make_extractor(_config("no-such-model"))


def test_several_threads_at_once(folder):
  made = extractor.make_extractor(_config(folder / "joint"))
  images = [tiny_backbone.image(40 + i, 60, i) for i in range(8)]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    together = list(pool.map(made.extract, images))
  for image, found in zip(images, together, strict=True):
    _check_same(found, made.extract(image))
