"""Normalisation layers, for any Keras backend."""

from typing import TypeAlias

import keras
from keras import ops

Tensor: TypeAlias = keras.KerasTensor


class L2Normalization(keras.layers.Layer):
  """Scales vectors to unit length, or by 1000 if their norm is below 1e-3."""

  def __init__(self) -> None:
    super().__init__()
    self.eps = 1e-6

  def call(self, x: Tensor, axis: int | tuple[int, ...] = 1) -> Tensor:
    """Return `x` at unit length along `axis`."""
    return l2_normalize(x, axis, self.eps)


class BatchNormalization(keras.layers.BatchNormalization):
  """Batch normalisation that can be folded into the preceding convolution.

  While `folded` (see `networks.compact`), the convolution applies the scale,
  and this layer adds `folded_shift`, float [C] or None.
  """

  folded = False
  folded_shift = None

  def call(
    self,
    inputs: Tensor,
    training: bool | None = None,
    mask: Tensor | None = None,
  ) -> Tensor:
    """Normalise the inputs over all axes except the channels."""
    if self.folded:
      if self.folded_shift is None:
        return inputs
      shape = [1] * len(inputs.shape)
      shape[self.axis] = -1
      shift = ops.convert_to_tensor(self.folded_shift, inputs.dtype)
      return inputs + ops.reshape(shift, shape)
    if training and self._is_fusible(inputs, mask):
      return self._fused(inputs)
    return super().call(inputs, training=training, mask=mask)

  def _is_fusible(self, inputs, mask):
    """Return whether one TensorFlow operation can replace many of Keras."""
    plain = self.scale and self.center and not self.synchronized
    last = self.axis in (-1, 3) and len(inputs.shape) == 4
    on_tensorflow = keras.backend.backend() == "tensorflow"
    return on_tensorflow and plain and last and self.trainable and mask is None

  def _fused(self, inputs):
    """Normalise with batch statistics, and update the moving ones."""
    from delf.networks import tensorflow_ops

    outputs, mean, variance = tensorflow_ops.normalize(
      inputs, self.gamma, self.beta, self.epsilon
    )
    for moving, new in (
      (self.moving_mean, mean),
      (self.moving_variance, variance),
    ):
      moving.assign(moving * self.momentum + new * (1 - self.momentum))
    return outputs


def l2_normalize(
  x: Tensor, axis: int | tuple[int, ...], epsilon: float = 1e-12
) -> Tensor:
  """Return `x` divided by its L2 norm along `axis`.

  Squared norms below `epsilon` (by default as in `tf.nn.l2_normalize`) are
  raised to it.
  """
  squared_norm = ops.sum(ops.square(x), axis=axis, keepdims=True)
  return x * ops.rsqrt(ops.maximum(squared_norm, epsilon))
