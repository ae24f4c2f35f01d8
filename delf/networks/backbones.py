"""Backbones by name, Keras's networks, `.h5` weights, and paths of layers.

A backbone is a Keras model with

- `build_call(inputs, training=True, intermediates_dict=None)`: takes images,
  float [B, H, W, 3], returns global descriptors, float [B, `global_channels`],
  and stores the local features, float [B, H', W', `local_channels`], in the
  dict as `block3`;
- optionally `local_call(inputs, training=True)`: returns the local features
  without computing the descriptors;
- `local_channels`, `global_channels`;
- `receptive_field`, `receptive_stride`, `receptive_padding` of a position of
  the local features, in pixels of the input.
"""

from __future__ import annotations

import glob
import importlib
import io
import os
import typing
from collections.abc import Iterable
from typing import Any

import numpy as np

from delf.base import errors, files

if typing.TYPE_CHECKING:
  import keras

# Preprocessing of RGB values in [0, 255] as (offset, scale): the modes of
# Keras's `imagenet_utils.preprocess_input`.
TORCH = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
TF = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CAFFE = None  # BGR minus the mean, as the loader returns images.

# Architecture -> size of its descriptor, and preprocessing.
ARCHITECTURES = {
  "ResNet50": (2048, CAFFE),
  "ResNet101": (2048, CAFFE),
  "ResNet101V2": (2048, TF),
  "ResNet152": (2048, CAFFE),
  "VGG16": (512, CAFFE),
  "VGG19": (512, CAFFE),
  "DenseNet121": (1024, TORCH),
  "DenseNet169": (1664, TORCH),
  "DenseNet201": (1920, TORCH),
  "EfficientNetB5": (2048, RAW),
  "EfficientNetB7": (2560, RAW),
}


def network(
  architecture: str, pretrained: bool, data_root: str | os.PathLike
) -> keras.Model:
  """Return a network of ARCHITECTURES without its top, for any image size.

  A pretrained one has ImageNet weights of a file `<architecture>*notop*.h5` (in
  lower case) in `data_root` or its `networks/`, or else downloaded by Keras.
  """
  import keras

  make = getattr(keras.applications, architecture)
  options = {"include_top": False, "input_shape": (None, None, 3)}
  if not pretrained:
    return make(weights=None, **options)
  pattern = f"{architecture.lower()}[_-]*notop*.h5"
  paths = sorted(
    path
    for folder in (data_root, os.path.join(data_root, "networks"))
    for path in glob.glob(os.path.join(glob.escape(str(folder)), pattern))
  )
  try:
    return make(weights=paths[0] if paths else "imagenet", **options)
  except Exception as error:  # Keras raises bare ones if it is offline.
    raise errors.InputError(
      f"no ImageNet weights of {architecture}, in a file or from Keras's site"
      f" ({errors.one_line(error)}); use --pretrained=false to start without",
      path=paths[0] if paths else os.path.join(data_root, pattern),
    ) from None


# Name -> module and class of the backbone, and its fixed arguments.
_RESNET = "delf.python.training.model.resnet50"
_FEATURES_ALONE = {
  "data_format": "channels_last",
  "include_top": False,
  "average_pooling": False,
}
_BACKBONES = {
  "resnet50": (_RESNET, "ResNet50", _FEATURES_ALONE),
  "resnet101": (_RESNET, "ResNet101", _FEATURES_ALONE),
  "compact": ("delf.networks.compact", "CompactBackbone", {}),
}


def names() -> list[str]:
  """Return the names of the backbones."""
  return sorted(_BACKBONES)


def make(name: str, **options: Any) -> keras.Model:
  """Return a built backbone with random weights, without a classifier."""
  if name not in _BACKBONES:
    raise errors.InputError(f"no backbone {name!r}: use one of {names()}")
  module, class_name, fixed = _BACKBONES[name]
  backbone_class = getattr(importlib.import_module(module), class_name)
  return build(backbone_class(name="backbone", **fixed, **options))


def build(backbone: keras.Model) -> keras.Model:
  """Create the variables of a backbone unless they exist; return it."""
  from keras import ops

  if not backbone.built:
    backbone.build_call(ops.zeros((1, 64, 64, 3)), training=False)
  return backbone


# Layers that only classifiers or only feature extractors have; both the model
# and the file may lack them.
_OPTIONAL = ("fc1000", "embedding_layer")

# Errors that h5py raises, also for names or members of another kind.
_READ_ERRORS = (
  AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


def restore(model: keras.Model, path: files.Path) -> None:
  """Load weights of a Keras `.h5` file by layer name, all of them or none.

  The file, of Keras 1 or 2, has weights or a whole model. Weights of a layer
  are assigned in order, as in Keras, since their names differ between versions
  (`kernel:0`, `W_1:0`, ...). InputError if the file cannot be read, or its
  layers, shapes or types differ; arrays of another shape are not read.
  """
  import h5py

  layers = {
    layer.name: layer.weights
    for layer in layers_by_path(model).values()
    if layer.weights and not layer._layers
  }
  data = io.BytesIO(files.read_bytes(path))
  try:
    with h5py.File(data, "r") as file:
      stored = _datasets(file.get("model_weights", file))
      problems = _problems(layers, stored)
      arrays = {
        name: [np.asarray(dataset) for dataset in stored[name]]
        for name in (layers.keys() & stored.keys() if not problems else ())
      }
  except _READ_ERRORS as error:
    reason = errors.one_line(error)
    message = f"not a .h5 file of Keras weights, or damaged ({reason})"
    raise errors.InputError(message, path=path) from None
  if problems:
    message = f"the weights do not match {model.name}: {'; '.join(problems)}"
    raise errors.InputError(message, path=path)
  for name, values in arrays.items():
    for variable, value in zip(layers[name], values, strict=True):
      variable.assign(value)


def _datasets(group):
  """Return a dict of layer name to unread datasets."""

  def text(name):
    return name.decode() if isinstance(name, bytes) else name

  stored = {}
  for name in map(text, group.attrs["layer_names"]):
    weights = map(text, group[name].attrs["weight_names"])
    if datasets := [group[name][weight] for weight in weights]:
      stored[name] = datasets
  return stored


def _problems(layers, stored):
  """Return the differences of stored weights from those of the layers."""
  missing = [n for n in layers if n not in stored and n not in _OPTIONAL]
  unknown = [n for n in stored if n not in layers and n not in _OPTIONAL]
  shapes, dtypes = [], []
  for name in layers.keys() & stored.keys():
    expected = [tuple(variable.shape) for variable in layers[name]]
    received = [dataset.shape for dataset in stored[name]]
    types = [dataset.dtype for dataset in stored[name]]
    if received != expected:
      shapes.append(f"{name} has shapes {received}, not {expected}")
    if any(dtype.kind != "f" for dtype in types):
      dtypes.append(f"{name} has types {[*map(str, types)]}, not floats")
  return [
    f"{title}{listed(items)}"
    for title, items in (
      ("no layer ", missing),
      ("unknown layer ", unknown),
      ("", sorted(shapes)),
      ("", sorted(dtypes)),
    )
    if items
  ]


_SHOWN = 8  # Names listed in an error.


def variables_by_path(model: keras.Model) -> dict[str, keras.Variable]:
  """Return the variables of a built model by path.

  A path joins the attributes that lead to the layer and the variable's name:
  `backbone/l2a/conv2a/kernel`. A layer without an attribute has its own name.
  RuntimeError if two variables share a path, or one has none.
  """
  paths: dict[str, keras.Variable] = {}
  for path, layer in layers_by_path(model).items():
    below = {id(v) for child in layer._layers for v in child.weights}
    for variable in (v for v in layer.weights if id(v) not in below):
      key = f"{path}/{variable.name}" if path else variable.name
      if paths.setdefault(key, variable) is not variable:
        raise RuntimeError(f"two variables of {model.name} are {key}")
  reached = {id(variable) for variable in paths.values()}
  lost = [v.path for v in model.weights if id(v) not in reached]
  if lost:
    raise RuntimeError(f"no path leads to {lost} of {model.name}")
  return paths


def layers_by_path(model: keras.Model) -> dict[str, keras.layers.Layer]:
  """Return a built model, at path "", and all layers in it by path."""
  paths, seen, queue = {"": model}, {id(model)}, [("", model)]
  for path, layer in queue:  # Breadth first; the queue grows.
    for name, child in _children(layer):
      if id(child) not in seen:
        seen.add(id(child))
        child_path = f"{path}/{name}" if path else name
        paths[child_path] = child
        queue.append((child_path, child))
  return paths


def _children(layer):
  import keras

  children = []
  for name, value in vars(layer).items():
    if name.startswith("_"):
      continue
    items = [(name, value)]
    if isinstance(value, list | tuple):
      value = dict(enumerate(value))
    if isinstance(value, dict):
      items = [(f"{name}/{key}", item) for key, item in value.items()]
    children += [x for x in items if isinstance(x[1], keras.layers.Layer)]
  named = {id(child) for _, child in children}
  return children + [(c.name, c) for c in layer._layers if id(c) not in named]


def listed(names: Iterable[str]) -> str:
  """Return names as text: all, or the first ones and their number."""
  names = list(names)
  text = ", ".join(names[:_SHOWN])
  return text if len(names) <= _SHOWN else f"{text}, ... ({len(names)} in all)"
