"""The backbones by name.

A backbone is a Keras model with

- `build_call(inputs, training=True, intermediates_dict=None)`: takes images,
  float [B, H, W, 3], returns their global descriptors, float [B,
  `global_channels`], and puts the local features, float [B, H', W',
  `local_channels`], into the dict as `block3`;
- optionally `local_call(inputs, training=True)`: returns the local features
  without computing what only the descriptors need;
- `local_channels`, `global_channels`;
- `receptive_field`, `receptive_stride`, `receptive_padding` of a position of
  the local features, in pixels of the input.
"""

import glob
import importlib
import io
import os

import numpy as np
from keras import layers, ops

from delf.base import errors, files
from delf.networks import layer_paths
from delf.python.normalization_layers import normalization

# What a network was trained on, as (offset, scale) of RGB values in [0, 255]:
# the modes of Keras' `imagenet_utils.preprocess_input`.
TORCH = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
TF = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CAFFE = None  # BGR less the mean, which is what the loader gives.

# Architecture -> size of its descriptor, and what it was trained on.
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


def network(architecture, pretrained, data_root):
  """Returns a keras.Model of images of any size that ends in a feature map.

  Args:
    architecture: A key of ARCHITECTURES.
    pretrained: Whether it has weights of ImageNet: of a file
      `<architecture>*notop*.h5` (in lower case) in `data_root` or in
      `networks/` there, else those that Keras has or downloads.
    data_root: Folder of such files.

  Raises:
    InputError: If weights cannot be had.
  """
  import keras

  make = getattr(keras.applications, architecture)
  options = {"include_top": False, "input_shape": (None, None, 3)}
  if not pretrained:
    return make(weights=None, **options)
  file = f"{architecture.lower()}[_-]*notop*.h5"
  found = sorted(
    path
    for folder in (data_root, os.path.join(data_root, "networks"))
    for path in glob.glob(os.path.join(glob.escape(folder), file))
  )
  weights = found[0] if found else "imagenet"
  try:
    return make(weights=weights, **options)
  except Exception as error:  # Keras raises bare ones where it is offline.
    where = found[0] if found else os.path.join(data_root, file)
    raise errors.InputError(
      f"ImageNet weights of {architecture}, in a file or from Keras' site",
      f"none ({errors.one_line(error)}); --pretrained=false goes without",
      where,
    ) from None


# Name -> module and class of the backbone, and arguments that it always gets.
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


def names():
  """Returns the names of the backbones."""
  return sorted(_BACKBONES)


def make(name, **options):
  """Returns a built backbone with random weights, without a classifier.

  Args:
    name: One of `names()`.
    **options: Arguments of the backbone's class.

  Raises:
    InputError: If there is no backbone of this name.
  """
  if name not in _BACKBONES:
    raise errors.InputError(f"one of the backbones {names()}", repr(name))
  module, class_name, fixed = _BACKBONES[name]
  backbone_class = getattr(importlib.import_module(module), class_name)
  return build(backbone_class(name="backbone", **fixed, **options))


def build(backbone):
  """Makes the variables of a backbone, unless it has them; returns it."""
  if not backbone.built:
    backbone.build_call(ops.zeros((1, 64, 64, 3)), training=False)
  return backbone


# Layers that only a classifier has, or only a feature extractor: a file or a
# model may lack them.
_OPTIONAL = ("fc1000", "embedding_layer")

# What h5py, and names or members of another kind, raise.
_READ_ERRORS = (
  AttributeError,
  KeyError,
  OSError,
  RuntimeError,
  TypeError,
  ValueError,
)


def restore(model, path):
  """Gives the layers of a built model the weights that a file has for them.

  Weights are taken in the order in which the file lists them, as Keras does:
  their names have changed from version to version (`kernel:0`, `W_1:0`, ...).

  Args:
    model: Model whose layers' names are those of the file.
    path: Path of a `.h5` file of Keras 1 or 2: weights, or a whole model.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no such file, or if it lacks weights, holds others, or
      holds some of another shape or no floating point; then nothing has
      changed, and no array of another shape was read.
  """
  layers = {
    layer.name: layer.weights
    for layer in layer_paths.layers_by_path(model).values()
    if layer.weights and not layer._layers
  }
  problems, arrays = _read(path, layers)
  if problems:
    raise errors.InputError(
      f"the weights of {model.name}", "; ".join(problems), path
    )
  for name, values in arrays.items():
    for variable, value in zip(layers[name], values, strict=True):
      variable.assign(value)


def _read(path, layers):
  """Returns what is wrong, as a list, and if nothing is, arrays by layer."""
  import h5py

  data = io.BytesIO(files.read_bytes(path))
  try:
    with h5py.File(data, "r") as file:
      stored = _datasets(file.get("model_weights", file))
      problems = _problems(layers, stored)
      if problems:
        return problems, {}
      return [], {
        name: [np.asarray(dataset) for dataset in stored[name]]
        for name in layers.keys() & stored.keys()
      }
  except _READ_ERRORS as error:
    reason = errors.one_line(error)
    raise errors.InputError(
      "a whole .h5 file of Keras weights", f"another kind ({reason})", path
    ) from None


def _datasets(group):
  """Returns a dict of layer name to list of datasets, none of them read."""
  stored = {}
  for name in map(_text, group.attrs["layer_names"]):
    names = map(_text, group[name].attrs["weight_names"])
    datasets = [group[name][each] for each in names]
    if datasets:
      stored[name] = datasets
  return stored


def _problems(layers, stored):
  """Returns in which ways stored weights are not those of the layers."""
  missing = [n for n in layers if n not in stored and n not in _OPTIONAL]
  unused = [n for n in stored if n not in layers and n not in _OPTIONAL]
  common = [name for name in layers if name in stored]
  shapes = {name: [tuple(v.shape) for v in layers[name]] for name in common}
  of_shape = [
    f"{name} of shapes {received} in place of {shapes[name]}"
    for name in common
    if (received := [d.shape for d in stored[name]]) != shapes[name]
  ]
  of_dtype = [
    f"{name} of types {[str(d.dtype) for d in stored[name]]} in place of floats"
    for name in common
    if any(d.dtype.kind != "f" for d in stored[name])
  ]
  return [
    f"{title}{layer_paths.listed(names)}"
    for title, names in (
      ("no layer ", missing),
      ("unknown layer ", unused),
      ("", of_shape),
      ("", of_dtype),
    )
    if names
  ]


def _text(name):
  return name.decode() if isinstance(name, bytes) else name


# Filters of the first convolution, and of what a block returns, by stage.
FILTERS = {2: (64, 256), 3: (128, 512), 4: (256, 1024), 5: (512, 2048)}


class Bottleneck(layers.Layer):
  """Three convolutions with a shortcut around them."""

  foldable = (
    ("conv2a", "bn2a"),
    ("conv2b", "bn2b"),
    ("conv2c", "bn2c"),
    ("conv_shortcut", "bn_shortcut"),
  )

  def __init__(self, stage, block, stride, data_format):
    """Creates a block of stage 2 to 5; "a" has a projection shortcut."""
    super().__init__(name=f"block{stage}{block}")
    self._data_format = data_format
    filters, filters_out = FILTERS[stage]

    def conv(branch, filters, kernel_size, stride):
      return layers.Conv2D(
        filters,
        kernel_size,
        stride,
        padding="same",
        data_format=data_format,
        name=f"res{stage}{block}_branch{branch}",
      )

    def norm(branch):
      return batch_norm(f"bn{stage}{block}_branch{branch}", data_format)

    self.conv2a, self.bn2a = conv("2a", filters, 1, stride), norm("2a")
    self.conv2b, self.bn2b = conv("2b", filters, 3, 1), norm("2b")
    self.conv2c, self.bn2c = conv("2c", filters_out, 1, 1), norm("2c")
    self.conv_shortcut = self.bn_shortcut = None
    if block == "a":
      self.conv_shortcut = conv("1", filters_out, 1, stride)
      self.bn_shortcut = norm("1")

  def build(self, input_shape):
    """Makes the variables for feature maps of this shape."""
    shape = input_shape
    for conv, norm in (
      (self.conv2a, self.bn2a),
      (self.conv2b, self.bn2b),
      (self.conv2c, self.bn2c),
    ):
      shape = build_pair(conv, norm, shape, self._data_format)
    if self.conv_shortcut is not None:
      build_pair(
        self.conv_shortcut, self.bn_shortcut, input_shape, self._data_format
      )

  def call(self, inputs, training=True):
    """Returns the feature map after the block."""
    x = ops.relu(self.bn2a(self.conv2a(inputs), training=training))
    x = ops.relu(self.bn2b(self.conv2b(x), training=training))
    x = self.bn2c(self.conv2c(x), training=training)
    if self.conv_shortcut is not None:
      inputs = self.bn_shortcut(self.conv_shortcut(inputs), training=training)
    return ops.relu(x + inputs)


def batch_norm(name, data_format):
  """Returns a batch normalisation over the channels."""
  axis = 3 if data_format == "channels_last" else 1
  return normalization.BatchNormalization(axis=axis, name=name)


def map_shape(channels, data_format):
  """Returns the shape of feature maps of any size."""
  last = data_format == "channels_last"
  return (None, None, None, channels) if last else (None, channels, None, None)


def build_pair(conv, norm, input_shape, data_format):
  """Builds a convolution and its normalisation; returns their output shape."""
  conv.build(input_shape)
  output_shape = map_shape(conv.filters, data_format)
  norm.build(output_shape)
  return output_shape
