"""The calls of a model that extraction needs, each traced once."""

import functools

import tensorflow as tf

from delf.python.training.model import selecting


class Network:
  """The calls of a model that extraction needs, each traced once.

  Attributes:
    full: Images [B, h, w, 3] float32 to descriptor, attention, features and,
      of a backbone that places its features, their offsets.
    local: Images to attention, features and perhaps offsets, without what only
      `full` needs.
    descriptor: Images to the descriptor alone.
    receptive: selecting.Receptive of the feature map.
  """

  def __init__(self, model):
    """Takes a model with `build_call`, `local_call` and `global_call`."""
    backbone = model.backbone
    self.receptive = selecting.Receptive(
      backbone.receptive_field,
      backbone.receptive_stride,
      backbone.receptive_padding,
    )
    images = tf.TensorSpec([None, None, None, 3], tf.float32)

    def traced_once(function):
      return tf.function(function, input_signature=[images], autograph=False)

    self.full = traced_once(_with_offsets(model.build_call))
    self.local = traced_once(_with_offsets(model.local_call))
    self.descriptor = traced_once(
      functools.partial(model.global_call, training=False)
    )


def _with_offsets(call):
  """Returns a function that returns what the call does, and the offsets."""

  def function(images):
    blocks = {}
    outputs = call(images, training=False, intermediates_dict=blocks)
    return (*outputs, *([blocks["offsets"]] if "offsets" in blocks else []))

  return function
