"""A backbone of two layers, for tests of what is around networks."""

import keras
import numpy as np
from keras import layers, ops

from delf.python.training.model import delf_model


class TinyBackbone(keras.Model):
  """One convolution for local features, one dense layer for the global one.

  `global_calls` counts how often its global part was traced.
  """

  receptive_field = 16
  receptive_stride = 16
  receptive_padding = 0
  local_channels = 12
  global_channels = 6

  def __init__(self):
    super().__init__(name="backbone")
    self.convolution = layers.Conv2D(
      self.local_channels, 16, 16, "same", name="convolution"
    )
    self.convolution.build((None, None, None, 3))
    self.dense = layers.Dense(self.global_channels, name="dense")
    self.dense.build((None, self.local_channels))
    self.global_calls = 0
    self.built = True

  def local_call(self, inputs, training=True, intermediates_dict=None):
    blocks = {} if intermediates_dict is None else intermediates_dict
    blocks["block3"] = ops.relu(self.convolution(inputs))
    return blocks["block3"]

  def build_call(self, inputs, training=True, intermediates_dict=None):
    self.global_calls += 1
    block3 = self.local_call(inputs, training, intermediates_dict)
    return self.dense(ops.mean(block3, axis=(1, 2)))


def make(seed=3, **options):
  """Returns a delf_model.Delf with this backbone and random weights."""
  keras.utils.set_random_seed(seed)
  return delf_model.Delf(backbone=TinyBackbone(), **options)


def image(height=90, width=120, seed=0):
  """Returns [height, width, 3] uint8 of noise."""
  generator = np.random.default_rng(seed)
  return generator.integers(0, 256, [height, width, 3], dtype=np.uint8)
