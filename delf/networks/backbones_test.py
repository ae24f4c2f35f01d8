"""Backbones by name, and the package's lazy names."""

import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest

from delf.base import errors
from delf.networks import backbones
from delf.python import training
from delf.python.training import model as model_package
from delf.python.training.model import delf_model, resnet50


def test_names():
  assert backbones.names() == ["compact", "resnet101", "resnet50"]
  with pytest.raises(
    errors.InputError, match="no backbone 'vgg16': use one of"
  ):
    backbones.make("vgg16")


@pytest.mark.parametrize(
  "name, options",
  [("compact", {}), ("resnet50", {"pooling": "avg"})],
)
def test_a_backbone_keeps_what_it_promises(name, options):
  backbone = backbones.make(name, **options)
  assert backbone.name == "backbone"
  before = len(backbones.variables_by_path(backbone))
  images = np.random.default_rng(0).standard_normal((2, 65, 97, 3))
  images = images.astype(np.float32)
  blocks = {}
  descriptor = backbone.build_call(images, False, blocks)
  assert len(backbones.variables_by_path(backbone)) == before > 0
  assert descriptor.shape == (2, backbone.global_channels)
  stride = backbone.receptive_stride
  for size, pixels in zip(blocks["block3"].shape[1:3], (65, 97), strict=True):
    assert abs(size - pixels / stride) <= 1
  assert blocks["block3"].shape[-1] == backbone.local_channels
  # Boxes around pixels that are the stride apart, from the first one on.
  assert backbone.receptive_field == 2 * backbone.receptive_padding + 1


def test_a_backbone_that_is_ready():
  backbone = backbones.make("compact")
  model = delf_model.Delf(backbone=backbone)
  assert model.backbone is backbone
  images = keras.ops.ones((1, 64, 64, 3))
  outputs = model.build_call(images, training=False)
  assert outputs[0].shape == (1, backbone.global_channels)
  assert outputs[2].shape[-1] == backbone.local_channels


def test_the_package_loads_its_modules_when_they_are_used():
  code = """
import sys
from delf.python import training
model = training.model
assert {"delf_model", "delg_model", "export_model_utils", "resnet50"} <= set(
  dir(model))
assert "keras" not in sys.modules and "tensorflow" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], check=True)
  assert training.model is model_package
  assert model_package.delf_model is delf_model
  assert model_package.resnet50.ResNet50.__name__ == "ResNet50"
  with pytest.raises(AttributeError, match="nothing"):
    _ = model_package.nothing


_ATTRIBUTES = {
  "Conv2D": ("kernel", "bias"),
  "BatchNormalization": ("gamma", "beta", "running_mean", "running_std"),
}


class _Short(resnet50.ResNet50):
  """Every kind of block, in few layers."""

  blocks_by_stage = (1, 2, 3, 2)


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


@pytest.fixture(scope="module")
def arrays(model):
  """Layer name -> arrays in the order of a file of Keras 1 and 2."""
  rng = np.random.default_rng(1)

  def array(shape):
    if len(shape) == 1:
      return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = np.sqrt(1 / np.prod(shape[:-1]))
    return (scale * rng.standard_normal(shape)).astype(np.float32)

  return {
    layer.name: [array(tuple(v.shape)) for v in layer.variables]
    for layer in backbones.layers_by_path(model).values()
    if type(layer).__name__ in _ATTRIBUTES
  }


def _write(path, arrays, group=None, suffix="_1:0"):
  """Writes a weight file as Keras 2 did, names as in the public one."""
  with h5py.File(path, "w") as file:
    root = file.create_group(group) if group else file
    layers = ["input_1", *arrays, "activation_1"]
    root.attrs["layer_names"] = [name.encode() for name in layers]
    root.attrs["backend"] = b"tensorflow"
    for layer in layers:
      values = arrays.get(layer, ())
      names = [f"{layer}_{i}{suffix}" for i in range(len(values))]
      folder = root.create_group(layer)
      folder.attrs["weight_names"] = [name.encode() for name in names]
      for name, value in zip(names, values, strict=True):
        folder[name] = value


def _snapshot(model):
  return {
    path: variable.numpy()
    for path, variable in backbones.variables_by_path(model).items()
  }


@pytest.mark.parametrize("group", [None, "model_weights"])
def test_restore_weights(model, arrays, tmp_path, group):
  path = tmp_path / "weights.h5"
  _write(path, arrays, group)
  embedding = model.embedding_layer.kernel.numpy()
  model.conv1.kernel.assign(np.zeros(model.conv1.kernel.shape))
  model.restore_weights(str(path))
  np.testing.assert_array_equal(model.embedding_layer.kernel, embedding)
  layers = {v.name: v for v in backbones.layers_by_path(model).values()}
  for name, values in arrays.items():
    for variable, value in zip(layers[name].variables, values, strict=True):
      np.testing.assert_array_equal(variable, value, err_msg=name)


def test_restore_weights_of_a_file_with_the_top(model, arrays, tmp_path):
  path = tmp_path / "weights.h5"
  top = [np.zeros((2048, 1000), np.float32), np.zeros(1000, np.float32)]
  _write(path, arrays | {"fc1000": top})
  model.restore_weights(path)
  np.testing.assert_array_equal(model.conv1.kernel, arrays["conv1"][0])


def _without(arrays, name):
  return {k: v for k, v in arrays.items() if k != name}


@pytest.mark.parametrize(
  "change, words",
  [
    (lambda a: _without(a, "res4c_branch2b"), ["no layer res4c_branch2b"]),
    (
      lambda a: a | {"res6a_branch1": a["conv1"]},
      ["unknown layer res6a_branch1"],
    ),
    (
      lambda a: a | {"conv1": [a["conv1"][0][:5], a["conv1"][1]]},
      ["conv1 has shapes", "(5, 7, 3, 64)", "(7, 7, 3, 64)"],
    ),
    (lambda a: a | {"bn_conv1": a["bn_conv1"][:3]}, ["bn_conv1 has shapes"]),
    (
      lambda a: _without(a, "conv1") | {"conv_1": a["conv1"]},
      ["no layer conv1", "unknown layer conv_1"],
    ),
  ],
)
def test_restore_weights_is_all_or_nothing(
  model, arrays, tmp_path, change, words
):
  before = _snapshot(model)
  path = tmp_path / "weights.h5"
  _write(path, change(arrays))
  with pytest.raises(errors.InputError) as caught:
    model.restore_weights(path)
  text = str(caught.value)
  assert all(word in text for word in [*words, str(path)])
  assert "\n" not in text
  after = _snapshot(model)
  assert all(np.array_equal(before[path], after[path]) for path in before)


@pytest.mark.parametrize("dtype", ["S1", "c8", "i4", "?"])
def test_other_types_are_refused_before_anything_changes(
  model, arrays, tmp_path, dtype
):
  before = _snapshot(model)
  path = tmp_path / "weights.h5"
  kernel, bias = arrays["conv1"]
  _write(path, arrays | {"conv1": [kernel, np.zeros(bias.shape, dtype)]})
  with pytest.raises(errors.InputError, match="conv1 has types .* not floats"):
    model.restore_weights(path)
  after = _snapshot(model)
  assert all(np.array_equal(before[path], after[path]) for path in before)


def test_arrays_of_another_shape_are_not_read(model, arrays, tmp_path):
  # The first is declared but not there; read, it would take 2 PB.
  path = tmp_path / "weights.h5"
  _write(path, arrays)
  with h5py.File(path, "r+") as file:
    del file["conv1"]["conv1_1_1:0"]
    file["conv1"].create_dataset("conv1_1_1:0", (1 << 24, 1 << 25), "f4")
  with pytest.raises(errors.InputError, match="conv1 has shapes .*16777216"):
    model.restore_weights(path)


@pytest.mark.parametrize("names", [[1, 2], [b"\xff\xfe"], b"conv1", 3])
def test_names_that_are_no_text(model, arrays, tmp_path, names):
  path = tmp_path / "weights.h5"
  _write(path, arrays)
  with h5py.File(path, "r+") as file:
    file.attrs["layer_names"] = names
  with pytest.raises(
    errors.InputError, match="h5: not a .h5 file of"
  ) as caught:
    model.restore_weights(path)
  assert "\n" not in str(caught.value)


def test_weights_that_are_groups(model, arrays, tmp_path):
  path = tmp_path / "weights.h5"
  _write(path, arrays)
  with h5py.File(path, "r+") as file:
    del file["conv1"]["conv1_1_1:0"]
    file["conv1"].create_group("conv1_1_1:0")
  with pytest.raises(errors.InputError, match="h5: not a .h5 file of"):
    model.restore_weights(path)


def test_restore_weights_of_other_files(model, arrays, tmp_path):
  with pytest.raises(FileNotFoundError, match="none.h5"):
    model.restore_weights(tmp_path / "none.h5")
  text = tmp_path / "text.h5"
  text.write_text("These are no weights.")
  other = tmp_path / "other.h5"
  with h5py.File(other, "w") as file:
    file["data"] = np.zeros(3)
  whole = tmp_path / "whole.h5"
  _write(whole, arrays)
  cut = tmp_path / "cut.h5"
  cut.write_bytes(whole.read_bytes()[:1_000_000])
  for path in (text, other, cut):
    with pytest.raises(errors.InputError, match=f"{path.name}: not a .h5 file"):
      model.restore_weights(path)
