"""Normalisation layers, for any Keras backend."""

import keras
from keras import ops


class L2Normalization(keras.layers.Layer):
  """Scales vectors to unit length.

  Vectors whose squared norm is under 1e-6 are divided by 1e-3 instead, so that
  a zero vector stays zero.
  """

  def __init__(self):
    super().__init__()
    self.eps = 1e-6

  def call(self, x, axis=1):
    """Returns `x` at unit length along `axis`.

    Args:
      x: Float tensor of any shape.
      axis: int or tuple of int, the axes that hold a vector.

    Returns:
      Float tensor of the shape of `x`.
    """
    return l2_normalize(x, axis, self.eps)


class BatchNormalization(keras.layers.BatchNormalization):
  """Batch normalisation that can be folded into the convolution before it.

  Attributes:
    folded: Whether the convolution before it does its work; see
      `training/model/folding.py`.
    folded_shift: Then, what is still to be added: float [C], or None.
  """

  folded = False
  folded_shift = None

  def call(self, inputs, training=None, mask=None):
    """Returns the inputs normalised over all but the channels."""
    if self.folded:
      return self._shifted(inputs)
    if training and self._fusible(inputs, mask):
      return self._fused(inputs)
    return super().call(inputs, training=training, mask=mask)

  def _fusible(self, inputs, mask):
    """Returns whether one TensorFlow operation does what Keras does in many."""
    plain = self.scale and self.center and not self.synchronized
    last = self.axis in (-1, 3) and len(inputs.shape) == 4
    here = keras.backend.backend() == "tensorflow"
    return here and plain and last and self.trainable and mask is None

  def _fused(self, inputs):
    """Normalises with the statistics of the batch and updates the others."""
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

  def _shifted(self, inputs):
    """Returns the inputs, which the convolution has scaled already."""
    if self.folded_shift is None:
      return inputs
    shape = [1] * len(inputs.shape)
    shape[self.axis] = -1
    shift = ops.convert_to_tensor(self.folded_shift, inputs.dtype)
    return inputs + ops.reshape(shift, shape)


def l2_normalize(x, axis, epsilon=1e-12):
  """Returns `x` divided by its L2 norm along `axis`.

  Args:
    x: Float tensor of any shape.
    axis: int or tuple of int.
    epsilon: Smallest squared norm that is divided by; smaller ones count as
      this one. 1e-12 is that of `tf.nn.l2_normalize`.

  Returns:
    Float tensor of the shape of `x`.
  """
  squared_norm = ops.sum(ops.square(x), axis=axis, keepdims=True)
  return x * ops.rsqrt(ops.maximum(squared_norm, epsilon))
