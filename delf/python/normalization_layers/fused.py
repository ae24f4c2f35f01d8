"""Batch normalisation as one operation of TensorFlow."""

import tensorflow as tf


def normalize(inputs, gamma, beta, epsilon):
  """Normalises a batch with its own statistics.

  Args:
    inputs: float [B, H, W, C].
    gamma: float [C], scale.
    beta: float [C], shift.
    epsilon: Added to the variance.

  Returns:
    Tuple of float [B, H, W, C], float32 [C], the mean, and float32 [C], the
    variance.
  """
  outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
    x=inputs,
    scale=tf.cast(gamma, tf.float32),
    offset=tf.cast(beta, tf.float32),
    mean=[],
    variance=[],
    epsilon=epsilon,
    is_training=True,
  )
  # It divides the variance by one less than the number of values.
  number = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), tf.float32)
  return outputs, mean, variance * (number - 1.0) / number
