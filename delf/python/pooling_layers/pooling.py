"""Pooling layers that make one descriptor of a feature map, for any Keras.

MAC: Tolias et al., arXiv:1511.05879. SPoC: Babenko and Lempitsky,
arXiv:1510.07493. GeM: Radenovic et al., arXiv:1711.02512.
"""

import keras
from keras import ops

# Smallest activation that generalised mean pooling tells from zero.
_EPSILON = 1e-6

# Smallest normal float32, below which a power has underflown.
_TINY = 1.2e-38


class MAC(keras.layers.Layer):
  """Maximum of each channel over the positions."""

  def call(self, x, axis=None):
    """Returns `mac(x, axis)`."""
    return mac(x, axis=axis)


class SPoC(keras.layers.Layer):
  """Mean of each channel over the positions."""

  def call(self, x, axis=None):
    """Returns `spoc(x, axis)`."""
    return spoc(x, axis=axis)


class GeM(keras.layers.Layer):
  """Generalised mean of each channel over the positions."""

  def __init__(self, power=3.0):
    """Creates the layer.

    Args:
      power: Float over 0; 1 is the mean, towards infinity the maximum.
    """
    super().__init__()
    self.power = power
    self.eps = _EPSILON

  def call(self, x, axis=None):
    """Returns `gem(x, axis, power)`."""
    return gem(x, axis=axis, power=self.power, eps=self.eps)


class GeMPooling2D(keras.layers.Layer):
  """Generalised mean over windows, in the place of max or average pooling."""

  def __init__(
    self,
    power=20.0,
    pool_size=(2, 2),
    strides=None,
    padding="valid",
    data_format="channels_last",
  ):
    """Creates the layer.

    Args:
      power: Float over 0; 1 is the mean, towards infinity the maximum.
      pool_size: Height and width of a window in positions.
      strides: Steps between windows (y, x), or None for those of `pool_size`.
      padding: "valid" or "same"; padding does not count in the mean.
      data_format: "channels_last" or "channels_first".
    """
    super().__init__()
    self.power = power
    self.eps = _EPSILON
    self.pool_size = pool_size
    self.strides = pool_size if strides is None else strides
    self.padding = padding.lower()
    self.data_format = data_format

  def call(self, x):
    """Returns the generalised mean of each window.

    Args:
      x: Float [B, H, W, C] ("channels_first": [B, C, H, W]); values under 1e-6
        count as 1e-6.

    Returns:
      Float [B, H', W', C] ("channels_first": [B, C, H', W']).
    """
    powers = ops.power(ops.maximum(x, self.eps), self.power)
    means = ops.average_pool(
      powers, self.pool_size, self.strides, self.padding, self.data_format
    )
    # Where high powers of small values underflow, the root has no gradient.
    roots = ops.power(ops.maximum(means, _TINY), 1.0 / self.power)
    return ops.where(means > _TINY, roots, self.eps)


def mac(x, axis=None):
  """Returns the maximum of each channel (MAC).

  Args:
    x: Float [B, H, W, C].
    axis: Axis or axes of the positions; None is (1, 2).

  Returns:
    Float [B, C].
  """
  return ops.max(x, axis=_positions(axis))


def spoc(x, axis=None):
  """Returns the mean of each channel (SPoC).

  Args:
    x: Float [B, H, W, C].
    axis: Axis or axes of the positions; None is (1, 2).

  Returns:
    Float [B, C].
  """
  return ops.mean(x, axis=_positions(axis))


def gem(x, axis=None, power=3.0, eps=1e-6):
  """Returns the generalised mean of each channel (GeM).

  Args:
    x: Float [B, H, W, C].
    axis: Axis or axes of the positions; None is (1, 2).
    power: Float over 0; 1 is the mean, towards infinity the maximum.
    eps: Smallest activation; smaller ones count as this one.

  Returns:
    Float [B, C].
  """
  mean = ops.mean(ops.power(ops.maximum(x, eps), power), axis=_positions(axis))
  return ops.power(mean, 1.0 / power)


def _positions(axis):
  if axis is None:
    return (1, 2)
  return axis if isinstance(axis, int) else tuple(axis)
