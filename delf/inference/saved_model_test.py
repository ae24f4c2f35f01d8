import logging
import shutil

import numpy as np
import pytest
import tensorflow as tf

from delf.base import errors
from delf.inference import saved_model, tensors

v1 = tf.compat.v1

_LOCAL = tensors.Request((0.5, 1.0), True, 7, -1.0)
_GLOBAL = tensors.Request((0.5, 1.0, 2.0), False, 7, -1.0, (2, 0))
_BOTH = tensors.Request((0.5, 1.0, 2.0), True, 7, -1.0, (0, 2))

_NAMES = (*tensors.LOCAL_OUTPUTS, "global_descriptors")


def _outputs(image, scales, threshold, most, indices, global_factor):
  """Returns what a model gives, simple enough to follow by hand."""
  pixels = tf.cast(tf.reshape(image, [-1, 3]), tf.float32)[:most]
  brightness = tf.reduce_mean(pixels, axis=1)
  kept = tf.boolean_mask(pixels, brightness >= threshold)
  number = tf.shape(kept)[0]
  descriptors = tf.gather(scales, indices)[:, None] * tf.reduce_mean(
    tf.cast(image, tf.float32), [0, 1]
  )
  return {
    "boxes": tf.tile([[1.0, 2.0, 3.0, 4.0]], [number, 1]),
    "features": kept,
    "scales": tf.fill([number], scales[0]),
    "scores": tf.reduce_mean(kept, axis=1, keepdims=True),
    "global_descriptors": descriptors * global_factor,
  }


def _save_graph(folder, with_signature, names=_NAMES, inputs=tensors.INPUTS):
  """Writes a model as TensorFlow 1 did: a graph whose tensors have names."""
  graph = tf.Graph()
  with graph.as_default(), v1.Session(graph=graph) as session:
    types = {
      "input_image": (tf.uint8, [None, None, 3]),
      "input_scales": (tf.float32, [None]),
      "input_abs_thres": (tf.float32, []),
      "input_max_feature_num": (tf.int32, []),
      "input_global_scales_ind": (tf.int32, [None]),
    }
    values = {
      name: v1.placeholder(*types[name], name=name)
      if name in inputs
      else tf.constant([1] if types[name][1] else 1, types[name][0])
      for name in types
    }
    factor = v1.get_variable("factor", initializer=2.0, use_resource=False)
    found = _outputs(*values.values(), factor)
    outputs = {name: tf.identity(found[name], name) for name in names}
    session.run(v1.global_variables_initializer())
    builder = v1.saved_model.Builder(str(folder))
    signature = v1.saved_model.signature_def_utils.predict_signature_def(
      {name: values[name] for name in inputs}, outputs
    )
    builder.add_meta_graph_and_variables(
      session,
      [tf.saved_model.SERVING],
      {"serving_default": signature} if with_signature else {},
    )
    builder.save()
  return folder


def _save_function(folder, names=_NAMES, inputs=tensors.INPUTS):
  """Writes a model as TensorFlow 2 does: functions."""
  module = tf.Module()
  module.factor = tf.Variable(2.0)
  specs = {
    "input_image": tf.TensorSpec([None, None, 3], tf.uint8, "input_image"),
    "input_scales": tf.TensorSpec([None], tf.float32, "input_scales"),
    "input_abs_thres": tf.TensorSpec([], tf.float32, "input_abs_thres"),
    "input_max_feature_num": tf.TensorSpec(
      [], tf.int32, "input_max_feature_num"
    ),
    "input_global_scales_ind": tf.TensorSpec(
      [None], tf.int32, "input_global_scales_ind"
    ),
  }

  @tf.function(input_signature=[specs[name] for name in inputs])
  def call(*given):
    fixed = {
      "input_scales": tf.constant([1.0, 3.0]),
      "input_abs_thres": tf.constant(0.0),
      "input_max_feature_num": tf.constant(5),
      "input_global_scales_ind": tf.constant([0, 1]),
    }
    values = {"input_image": None} | fixed
    values |= dict(zip(inputs, given, strict=True))
    found = _outputs(*values.values(), module.factor)
    return {name: found[name] for name in names}

  tf.saved_model.save(module, str(folder), signatures=call)
  return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("models")
  return {
    "graph": _save_graph(root / "graph", with_signature=False),
    "graph with signature": _save_graph(root / "both", with_signature=True),
    "functions": _save_function(root / "functions"),
  }


@pytest.fixture
def image():
  generator = np.random.default_rng(1)
  return generator.integers(0, 256, [20, 30, 3], dtype=np.uint8)


def _expected(image, request):
  indices = sorted(set(request.global_scales or ()))
  mean = image.astype(np.float32).mean((0, 1))
  scales = np.array(request.image_scales, np.float32)[indices]
  return {
    "features": image.reshape(-1, 3)[:7].astype(np.float32),
    "global_descriptors": 2 * scales[:, None] * mean,
  }


_GENERATIONS = ["graph", "graph with signature", "functions"]


@pytest.mark.parametrize("generation", _GENERATIONS)
@pytest.mark.parametrize("request_", [_LOCAL, _GLOBAL, _BOTH])
def test_every_generation_gives_what_is_asked_for(
  folders, image, generation, request_
):
  model = saved_model.load(folders[generation])
  assert model.is_tf2 == (generation == "functions")
  assert set(model.inputs) == set(tensors.INPUTS)
  assert set(model.outputs) == set(_NAMES)
  found = model.prepare(request_)(image)
  expected = _expected(image, request_)
  names = set(tensors.LOCAL_OUTPUTS) if request_.use_local else set()
  assert set(found) == names | (
    {"global_descriptors"} if request_.use_global else set()
  )
  for name in set(found) & set(expected):
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
  if request_.use_local:
    assert found["scores"].shape == found["scales"].shape == (7,)
    assert found["boxes"].shape == (7, 4)


def test_a_graph_with_only_a_signature_loads(tmp_path, image):
  """Placeholders of any name, known only through the signature."""
  graph = tf.Graph()
  with graph.as_default(), v1.Session(graph=graph) as session:
    pixels = v1.placeholder(tf.uint8, [None, None, 3], "pixels")
    mean = tf.reduce_mean(tf.cast(pixels, tf.float32), [0, 1])
    v1.saved_model.simple_save(
      session,
      str(tmp_path / "model"),
      {"input_image": pixels},
      {"global_descriptor": mean},
    )
  model = saved_model.load(tmp_path / "model")
  assert model.is_tf2
  found = model.prepare(_GLOBAL)(image)["global_descriptors"]
  np.testing.assert_allclose(found, [image.mean((0, 1))], rtol=1e-5)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
  """A model whose only input is the image, of scales 1 and 3."""
  folder = tmp_path_factory.mktemp("fixed") / "model"
  return saved_model.load(
    _save_function(folder, ("global_descriptors",), ("input_image",))
  )


@pytest.mark.parametrize(
  ("scales", "chosen", "factors"),
  [
    ((), (), [2, 6]),
    ((1.0, 3.0), (0, 1), [2, 6]),
    ((1.0, 3.0), (1,), [6]),
    ((1.0, 3.0), (0, 0), [2]),
    ((1.0,), (0,), [2, 6]),  # All of them.
  ],
)
def test_fixed_scales_need_no_input(fixed, image, scales, chosen, factors):
  request = tensors.Request(scales, use_local=False, global_scales=chosen)
  found = fixed.prepare(request)(image)
  mean = image.astype(np.float32).mean((0, 1))
  np.testing.assert_allclose(
    found["global_descriptors"], np.outer(factors, mean), rtol=1e-5
  )


def test_other_scales_than_the_fixed_ones_cannot_be_chosen_of(fixed, image):
  run = fixed.prepare(_GLOBAL)
  with pytest.raises(
    errors.InputError, match=r"\[0, 2\] .* 3 image_scales.* 2 fixed"
  ):
    run(image)


@pytest.mark.parametrize("generation", _GENERATIONS)
def test_a_model_that_takes_scales_needs_some(folders, generation):
  model = saved_model.load(folders[generation])
  with pytest.raises(errors.InputError, match="image_scales"):
    model.prepare(tensors.Request(()))


@pytest.mark.parametrize("generation", _GENERATIONS)
@pytest.mark.parametrize("request_", [_LOCAL, _GLOBAL])
def test_an_image_without_a_pixel_at_a_scale_is_one_line(
  folders, generation, request_
):
  # One pixel at half the size is none: half is rounded to even.
  run = saved_model.load(folders[generation]).prepare(request_)
  with pytest.raises(errors.InputError, match=r"1 x 30 .* scale 0\.5"):
    run(np.zeros([1, 30, 3], np.uint8))


def test_computing_both_parts_for_one_is_logged(folders, caplog):
  model = saved_model.load(folders["functions"])
  with caplog.at_level(logging.INFO, logger="absl"):
    model.prepare(_BOTH)
    assert not caplog.records
    model.prepare(_LOCAL)
  (record,) = caplog.records
  assert record.levelno == logging.INFO
  assert "local and global features together" in record.getMessage()


@pytest.mark.parametrize("save", [_save_function, _save_graph])
def test_what_is_not_requested_may_be_missing(tmp_path, image, save):
  options = {} if save is _save_function else {"with_signature": False}
  local_inputs = tensors.INPUTS[:4]
  folder = save(
    tmp_path / "local",
    names=tensors.LOCAL_OUTPUTS,
    inputs=local_inputs if save is _save_graph else tensors.INPUTS,
    **options,
  )
  model = saved_model.load(folder)
  assert len(model.prepare(_LOCAL)(image)["scores"]) == 7
  for request in (_GLOBAL, _BOTH):
    with pytest.raises(errors.InputError) as error:
      model.prepare(request)
    text = str(error.value)
    assert str(folder) in text and "\n" not in text
    assert "global_descriptors or global_descriptor" in text
    assert text.index("this model has") < text.rindex("boxes")


def test_a_model_of_another_kind_is_refused(tmp_path):
  module = tf.Module()

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
  def call(x):
    return {"y": x + 1}

  tf.saved_model.save(module, str(tmp_path / "other"), signatures=call)
  model = saved_model.load(tmp_path / "other")
  with pytest.raises(errors.InputError, match="but this model has x, y"):
    model.prepare(_LOCAL)
  tf.saved_model.save(module, str(tmp_path / "empty"))
  model = saved_model.load(tmp_path / "empty")
  with pytest.raises(errors.InputError, match="this model has none of them"):
    model.prepare(_GLOBAL)


def test_models_without_batches_say_so(folders):
  for folder in folders.values():
    assert saved_model.load(folder).prepare(_LOCAL, batch=True) is None


def test_missing_folder():
  with pytest.raises(FileNotFoundError, match="/nowhere/model"):
    saved_model.load("/nowhere/model")


def test_folder_without_a_model(tmp_path):
  with pytest.raises(errors.InputError, match="saved_model.pb") as error:
    saved_model.load(tmp_path)
  assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
  "name", ["saved_model.pb", "variables.index", "variables.data-00000-of-00001"]
)
@pytest.mark.parametrize("damage", ["cut", "gone", "noise"])
@pytest.mark.parametrize("generation", ["graph", "functions"])
def test_damaged_models_are_one_line(
  folders, tmp_path, name, damage, generation
):
  folder = shutil.copytree(folders[generation], tmp_path / "model")
  (file,) = folder.rglob(name)
  content = file.read_bytes()
  if damage == "gone":
    file.unlink()
  elif damage == "cut":
    # Half of the data still holds the one variable there is.
    rest = 2 if "data" in name else len(content) // 2
    file.write_bytes(content[:rest])
  else:
    file.write_bytes(bytes(255 - byte for byte in content))
  with pytest.raises(errors.InputError) as error:
    saved_model.load(folder)
  assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  "name", [None, "cpu", "CPU", "CPU:0", "/CPU:0", "/device:CPU:0", " cpu "]
)
def test_device_names(name):
  assert saved_model.resolve(name) == "/CPU:0"
  assert saved_model.describe("/CPU:0") == "CPU"


@pytest.mark.parametrize("name", ["gpu:7", "cpu:9", "", "a b", "tpu", "cpu:"])
def test_devices_that_are_not_there(name):
  with pytest.raises(
    errors.InputError, match=f"no device {name!r}.*one of CPU:0"
  ):
    saved_model.resolve(name)


def test_a_model_is_on_the_requested_device(folders, image):
  model = saved_model.load(folders["functions"], "cpu")
  assert model.device == "/CPU:0"
  assert len(model.prepare(_LOCAL)(image)["scores"]) == 7
