import numpy as np
import pytest
import tensorflow as tf

from delf.base import errors
from delf.formats import network_files
from delf.inference import saved_model, single_file, tensors
from delf.networks import exporting
from tests.stand_ins import tiny_backbone

_SCALES = (0.5, 1.0, 1.5)
# What is asked for -> the model that it is asked of.
_FORMS = {
  "local": "joint",
  "global": "joint",
  "joint": "joint",
  "suppressed": "suppressed",
  "fixed": "fixed",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """Returns {name: (export, the network of it with NumPy code around)}."""
  root, model = tmp_path_factory.mktemp("exports"), tiny_backbone.make()
  paths = {name: root / name for name in set(_FORMS.values())}
  exporting.export(model, paths["joint"])
  exporting.export(model, paths["suppressed"], iou=0.2)
  exporting.export(
    model,
    paths["fixed"],
    "global",
    input_scales=[0.5, 1.0],
    pool_type="average",
    normalize=True,
  )
  return {name: _both(path) for name, path in paths.items()}


def _both(path):
  source = exporting.NetworkSource(path)
  settings = source.settings

  def run(images, names):
    found = source.functions["network"](tf.constant(images))
    return {name: found[name].numpy() for name in names}

  return saved_model.load(path), single_file.SingleFileModel(
    path, settings, run
  )


def _request(form, threshold=0.0, most=30):
  is_local = form != "global" and form != "fixed"
  indices = None if form == "local" else (0, 2)
  if form == "fixed":
    return tensors.Request((), False, global_scales=())
  return tensors.Request(_SCALES, is_local, most, threshold, indices)


@pytest.mark.slow
@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("most", [30, 10_000])
def test_features_are_those_of_the_savedmodel(models, form, most):
  image = tiny_backbone.image(91, 123)
  request = _request(form, most=most)
  one, other = (m.prepare(request)(image) for m in models[_FORMS[form]])
  assert set(one) == set(other)
  for name, values in one.items():
    np.testing.assert_allclose(other[name], values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["joint", "suppressed"])
def test_equal_scores_keep_their_order(models, form):
  image = np.full([96, 96, 3], 50, np.uint8)
  one, other = (m.prepare(_request(form))(image) for m in models[form])
  np.testing.assert_allclose(other["boxes"], one["boxes"])


def test_a_threshold_drops_what_is_under_it(models):
  image = tiny_backbone.image(91, 123)
  scores = models["joint"][1].prepare(_request("joint"))(image)["scores"]
  # Between two, as they differ by rounding.
  request = _request("joint", threshold=float(scores[4:6].mean()))
  for model in models["joint"]:
    assert len(model.prepare(request)(image)["scores"]) == 5


def test_a_threshold_over_all_leaves_none(models):
  found = models["suppressed"][1].prepare(_request("joint", np.inf))
  arrays = found(tiny_backbone.image())
  assert arrays["boxes"].shape == (0, 4)
  assert arrays["features"].shape == (0, 12)


@pytest.mark.parametrize("form", ["joint", "suppressed"])
def test_inputs_and_outputs_are_those_of_the_savedmodel(models, form):
  one, other = models[form]
  assert set(one.inputs) == set(other.inputs)
  assert set(one.outputs) == set(other.outputs)
  assert other.output_size("features") == one.output_size("features") == 12
  assert other.output_size("global_descriptors") == 6
  assert other.prepare(_request(form), batch=True) is None


def test_what_a_network_lacks_is_said(models):
  with pytest.raises(errors.InputError, match="boxes"):
    models["fixed"][1].prepare(_request("joint"))
  with pytest.raises(errors.InputError, match="no pixel left at scale"):
    models["joint"][1].prepare(_request("joint"))(np.zeros([1, 9, 3], np.uint8))


def test_what_a_runtime_raises_is_one_line(models):
  def run(images, names):
    raise RuntimeError("shapes\nof it")

  settings = network_files.Settings("global", input_scales=(1.0,))
  model = single_file.SingleFileModel("m.onnx", settings, run)
  with pytest.raises(errors.InputError, match="m.onnx: .*image: shapes of it"):
    model.prepare(_request("fixed"))(tiny_backbone.image())


@pytest.mark.parametrize("name", ["attention", "features"])
@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 5, 2, 1), (2, 2, 3, 1), ()])
def test_maps_that_do_not_fit_are_named(name, shape):
  maps = {"attention": np.ones([1, 2, 3, 1]), "features": np.ones([1, 2, 3, 4])}
  maps[name] = np.ones(shape, np.float32)
  settings = network_files.Settings("local", receptive=(4, 4, 0))
  model = single_file.SingleFileModel("m.onnx", settings, lambda *_: maps)
  with pytest.raises(errors.InputError, match="m.onnx: .* must have shape"):
    model.prepare(_request("local"))(tiny_backbone.image())


def _boxes(generator, kind):
  """Returns [N, 4] float32: of any size and place, or of a pyramid's cells."""
  if kind == "any":
    corners = generator.uniform(0, 300, [2500, 2])
    sides = generator.uniform(1, 60, [2500, 2])
    return np.concatenate([corners, corners + sides], 1).astype(np.float32)
  levels = []
  for scale in np.float32([0.5, 0.70710677, 1.0]):
    maps = [np.zeros([1, 30, 40, n], np.float32) for n in (1, 1)]
    # Where cells overlap by just 0.4 at a side of 28 and a distance of 12.
    receptive = (29, 4, 14)
    levels.append(single_file.candidates(maps, scale, 0.0, receptive).boxes)
  return np.concatenate(levels)


@pytest.mark.parametrize("kind", ["any", "pyramid"])
@pytest.mark.parametrize("iou", [0.0, 0.1, 0.4, 0.9])
def test_suppression_is_that_of_tensorflow(kind, iou):
  generator = np.random.default_rng(0)
  boxes = _boxes(generator, kind)
  number = len(boxes)
  scores = generator.integers(0, 500, number).astype(np.float32)
  local = single_file.Candidates(
    boxes, scores, np.arange(number), np.arange(number)[:, None], np.float32(1)
  )
  for most in (20, number):
    kept = tf.image.non_max_suppression(boxes, scores, most, iou).numpy()
    assert 20 <= len(kept) < number or iou == 0.9
    found = single_file.select([local], most, iou)
    np.testing.assert_array_equal(found.features[:, 0], kept)
    np.testing.assert_array_equal(found.boxes, boxes[kept])


@pytest.mark.parametrize("iou", [0.4, 1.0])
def test_features_of_all_scales_are_selected(iou):
  generator = np.random.default_rng(0)
  found = []
  for scale in (0.5, 1.0, 2.0):
    shapes = [1, 9, 11, 1], [1, 9, 11, 5]
    maps = [generator.uniform(size=s).astype(np.float32) for s in shapes]
    found.append(single_file.candidates(maps, scale, 0.3, (30, 8, 12)))
  best = single_file.select(found, 60, iou)
  assert 10 < len(best.scores) <= 60
  assert set(best.scales) == {0.5, 1.0, 2.0}
  scores = np.concatenate([each.scores for each in found])
  rows = np.searchsorted(np.sort(scores), best.scores)
  rows = np.argsort(scores)[rows]
  for name in ("boxes", "features"):
    values = [getattr(each, name) for each in found]
    if name == "features":
      values = [v[f.cells] for v, f in zip(values, found, strict=True)]
    wanted = np.concatenate(values)[rows]
    np.testing.assert_array_equal(getattr(best, name), wanted)


def test_what_is_no_number_is_kept_and_first():
  scores = np.float32([1, np.nan, 3, 2]).reshape(1, 2, 2, 1)
  features = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
  found = single_file.candidates([scores, features], 1.0, 2.0, (4, 4, 0))
  best = single_file.select([found], 2, 1.0)
  np.testing.assert_array_equal(best.scores, [np.nan, 3])


@pytest.mark.parametrize("scale", [0.25, 0.70710677, 1.0, 1.4142135])
def test_images_are_resized_as_tensorflow_does(scale):
  pixels = single_file.normalised(tiny_backbone.image(61, 83))
  found = single_file.resize(pixels, scale)
  size = np.round(np.float32([61, 83]) * np.float32(scale)).astype(int)
  np.testing.assert_allclose(found[0], tf.image.resize(pixels, size), atol=1e-4)


def test_offsets_move_features_inside_their_cells():
  maps = [np.ones([1, 2, 2, n], np.float32) for n in (1, 3, 2)]
  maps[2] *= np.float32([2, -1])
  one = single_file.candidates(maps[:2], 0.5, 0.0, (4, 8, 2))
  other = single_file.candidates(maps, 0.5, 0.0, (4, 8, 2))
  np.testing.assert_allclose(other.boxes - one.boxes, [[4, -2, 4, -2]] * 4)
