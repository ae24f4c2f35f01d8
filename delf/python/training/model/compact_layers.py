"""The layers that the compact backbone is made of."""

import keras
import numpy as np
from keras import ops

from delf.python.normalization_layers import normalization

# Of the scale of what a residual layer adds.
_RESIDUAL_START = keras.initializers.Constant(0.3)


def stem_kernel(shape, dtype=None):
  """Returns oriented gradients and spots as the first kernel, zero in sum.

  Args:
    shape: (3, 3, 3, number of filters).
    dtype: Its dtype.

  Returns:
    Tensor of that shape.
  """
  rng = np.random.default_rng(11)
  kernel = 0.05 * rng.standard_normal(shape)
  y, x = np.mgrid[-1:2, -1:2]
  weights = np.exp(-0.5 * (x**2 + y**2))
  for i in range(shape[3] * 3 // 4):
    angle = 2 * np.pi * i / (shape[3] * 3 // 4)
    gradient = (np.cos(angle) * x + np.sin(angle) * y) * weights
    kernel[:, :, :, i] += gradient[:, :, None] * 2
  kernel -= kernel.mean(axis=(0, 1), keepdims=True)
  return ops.convert_to_tensor(kernel, dtype=dtype or "float32")


class Convolution(keras.layers.Layer):
  """Convolution, batch normalisation and ReLU, centred on every 2nd pixel.

  Padding is the same on both sides whatever the size, so that output (i, j)
  of stride 2 is centred on input (2 i, 2 j).
  """

  foldable = (("convolution", "normalization"),)

  def __init__(
    self, filters, size=3, strides=1, plain=False, residual=False, **kwargs
  ):
    super().__init__(**kwargs)
    self.residual = residual
    self.pad = (
      keras.layers.ZeroPadding2D(size // 2, name="pad") if strides > 1 else None
    )
    self.convolution = keras.layers.Conv2D(
      filters,
      size,
      strides=strides,
      padding="valid" if strides > 1 else "same",
      use_bias=False,
      kernel_initializer="he_normal",
      name="convolution",
    )
    self.normalization = (
      None
      if plain
      else normalization.BatchNormalization(
        momentum=0.97,
        # A residual layer starts near the identity.
        gamma_initializer=_RESIDUAL_START if residual else "ones",
        name="normalization",
      )
    )

  def call(self, inputs, training=False):
    """Returns [B, ceil(H / strides), ceil(W / strides), filters] float."""
    x = inputs if self.pad is None else self.pad(inputs)
    x = self.convolution(x)
    if self.normalization is not None:
      x = self.normalization(x, training=training)
      x = ops.relu(inputs + x if self.residual else x)
    return x
