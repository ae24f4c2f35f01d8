"""Batches of noise whose labels can be told from it, for tests of training."""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class NoiseBatches:
  """Has the functions of `data_source.Source`; batch n is always the same."""

  size: int = 65
  batch_size: int = 4
  classes: int = 3
  validation_batches: int = 2

  def training(self, start_batch=0):
    """Returns batches without end."""
    return tf.data.Dataset.counter(start_batch).map(self._make)

  def validation(self):
    """Returns a few batches, the last one smaller."""
    number = self.validation_batches * self.batch_size + 1
    batches = self.training(1000).unbatch().take(number)
    return batches.batch(self.batch_size)

  def _make(self, number):
    shape = [self.batch_size, self.size, self.size, 3]
    noise = tf.random.stateless_uniform(shape, [number, 1], -1.0, 1.0)
    labels = tf.random.stateless_uniform(
      shape[:1], [number, 2], 0, self.classes, tf.int64
    )
    # A class is a shade.
    shade = tf.cast(labels, tf.float32)[:, None, None, None]
    return noise + shade / self.classes, labels
