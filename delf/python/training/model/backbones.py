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

import importlib

from keras import ops

from delf.python import errors

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
  "compact": ("delf.python.training.model.compact", "CompactBackbone", {}),
}


def names():
  """Returns the names of the backbones."""
  return sorted(_BACKBONES)


def make(name, **options):
  """Makes a backbone with random weights, without a classifier.

  Args:
    name: One of `names()`.
    **options: Arguments of the backbone's class. ResNets: `pooling`,
      `gem_power`, `block3_strides`, `embedding_layer`, `embedding_layer_dim`.

  Returns:
    The backbone, a Keras model named "backbone" whose variables exist.

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
