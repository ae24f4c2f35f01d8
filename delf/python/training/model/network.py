"""The calls of a model that extraction needs, each traced once."""

import functools

import tensorflow as tf

from delf.python.training.model import selecting


class Network:
  """The calls of a model that extraction needs, each traced once.

  Attributes:
    full: Images [B, h, w, 3] float32 to descriptor, attention, features.
    local: Images to attention, features, without what only `full` needs.
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

    def traced_once(call):
      function = functools.partial(call, training=False)
      return tf.function(function, input_signature=[images], autograph=False)

    self.full = traced_once(model.build_call)
    self.local = traced_once(model.local_call)
    self.descriptor = traced_once(model.global_call)
