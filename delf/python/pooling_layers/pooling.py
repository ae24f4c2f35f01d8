"""Pooling of a feature map to one descriptor, on any Keras backend.

MAC: Tolias et al., arXiv:1511.05879. SPoC: Babenko and Lempitsky,
arXiv:1510.07493. GeM: Radenovic et al., arXiv:1711.02512.
"""

from collections.abc import Sequence
from typing import TypeAlias

import keras
from keras import ops

Tensor: TypeAlias = keras.KerasTensor
Axis: TypeAlias = int | Sequence[int] | None

# Smallest activation of generalised mean pooling; smaller ones are raised.
_EPSILON = 1e-6

# About the smallest normal float32; a smaller power has underflowed.
_TINY = 1.2e-38


class MAC(keras.layers.Layer):
  """Maximum of each channel over the positions; see `mac`."""

  def call(self, x: Tensor, axis: Axis = None) -> Tensor:
    """Return `mac` of the input."""
    return mac(x, axis=axis)


class SPoC(keras.layers.Layer):
  """Mean of each channel over the positions; see `spoc`."""

  def call(self, x: Tensor, axis: Axis = None) -> Tensor:
    """Return `spoc` of the input."""
    return spoc(x, axis=axis)


class GeM(keras.layers.Layer):
  """Generalised mean of each channel over the positions; see `gem`."""

  def __init__(self, power: float = 3.0) -> None:
    super().__init__()
    self.power = power
    self.eps = _EPSILON

  def call(self, x: Tensor, axis: Axis = None) -> Tensor:
    """Return `gem` of the input."""
    return gem(x, axis=axis, power=self.power, eps=self.eps)


class GeMPooling2D(keras.layers.Layer):
  """Generalised mean over windows, an alternative to max or average pooling."""

  def __init__(
    self,
    power: float = 20.0,
    pool_size: tuple[int, int] = (2, 2),
    strides: tuple[int, int] | None = None,
    padding: str = "valid",
    data_format: str = "channels_last",
  ) -> None:
    """Create the layer.

    Args:
      power: Over 0; 1 gives the mean, infinity the maximum.
      strides: Steps between windows (y, x), by default `pool_size`.
      padding: "valid" or "same"; padding does not count in the mean.
    """
    super().__init__()
    self.power = power
    self.eps = _EPSILON
    self.pool_size = pool_size
    self.strides = pool_size if strides is None else strides
    self.padding = padding.lower()
    self.data_format = data_format

  def call(self, x: Tensor) -> Tensor:
    """Return the generalised mean of each window of [B, H, W, C] maps."""
    powers = ops.power(ops.maximum(x, self.eps), self.power)
    means = ops.average_pool(
      powers, self.pool_size, self.strides, self.padding, self.data_format
    )
    # If high powers of small values underflow, the root has no gradient.
    roots = ops.power(ops.maximum(means, _TINY), 1.0 / self.power)
    return ops.where(means > _TINY, roots, self.eps)


def mac(x: Tensor, axis: Axis = None) -> Tensor:
  """Return the maximum [B, C] of each channel of float [B, H, W, C] (MAC).

  `axis` are the axes of the positions; None is (1, 2).
  """
  return ops.max(x, axis=_positions(axis))


def spoc(x: Tensor, axis: Axis = None) -> Tensor:
  """Return the mean [B, C] of each channel (SPoC); see `mac`."""
  return ops.mean(x, axis=_positions(axis))


def gem(
  x: Tensor, axis: Axis = None, power: float = 3.0, eps: float = 1e-6
) -> Tensor:
  """Return the generalised mean [B, C] of each channel (GeM); see `mac`.

  Args:
    power: Over 0; 1 gives the mean, infinity the maximum.
    eps: Smallest activation, to which smaller ones are raised.
  """
  mean = ops.mean(ops.power(ops.maximum(x, eps), power), axis=_positions(axis))
  return ops.power(mean, 1.0 / power)


def _positions(axis):
  if axis is None:
    return (1, 2)
  return axis if isinstance(axis, int) else tuple(axis)
