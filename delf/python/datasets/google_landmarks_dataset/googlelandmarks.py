"""Google Landmarks, or photos of any classes in such records, for training."""

import dataclasses

import tensorflow as tf

from delf.base import concurrency, errors
from delf.records import stream, tfrecord
from delf.records.tfrecord import clear_errors

__all__ = [
  "CreateDataset",
  "GoogleLandmarksInfo",
  "NormalizeImages",
  "clear_errors",
]

# Batches that are made at once, each by all cores: while one ends and has no
# work for some of them, the next one has.
_AT_ONCE = 2


@dataclasses.dataclass(frozen=True)
class _Info:
  """What is known of the data sets.

  Attributes:
    num_classes: dict by name of int.
  """

  num_classes: dict


def GoogleLandmarksInfo():
  """Returns what is known of Google Landmarks: `num_classes`, by version."""
  return _Info({"gld_v1": 14951, "gld_v2": 203094, "gld_v2_clean": 81313})


def NormalizeImages(images, pixel_value_scale=0.5, pixel_value_offset=0.5):
  """Returns (images - offset) / scale as float32.

  Args:
    images: Numbers of any shape.
    pixel_value_scale: What is divided by.
    pixel_value_offset: What is subtracted before.

  Returns:
    float32 tensor of the same shape.
  """
  images = tf.cast(images, tf.float32)
  return (images - pixel_value_offset) / pixel_value_scale


def CreateDataset(
  file_pattern,
  image_size=321,
  batch_size=32,
  augmentation=False,
  seed=0,
  *,
  num_classes=None,
  start_batch=0,
  repeat=True,
):
  """Creates batches of photos and labels from TFRecord files.

  The same files, seed and sizes give the same batches to the bit, whatever the
  number of cores; each batch is a function of its number alone.

  Args:
    file_pattern: Pattern of paths, such as `data/train*`, or a list of these.
    image_size: Pixels of a side; photos are resized to squares.
    batch_size: Photos of a batch.
    augmentation: Whether random crops are taken: of 0.08 to 1 of the area, and
      3/4 to 4/3 as wide as high.
    seed: Of the order and of the crops, an int from 0.
    num_classes: Labels must be below it; None if they may be any.
    start_batch: Number of the first batch: those before it are not made.
    repeat: Whether to go on without end, each epoch in a random order of its
      own; else one epoch in the order of the files, whose last batch may be
      short.

  Returns:
    tf.data.Dataset of (images [B, S, S, 3] float32, RGB, (pixel - 128) / 128;
    labels [B] int64). What is wrong with a record comes as a TensorFlow error
    when its batch is drawn: `clear_errors` turns it into InputError.

  Raises:
    FileNotFoundError: If no file is found.
    InputError: If a file is no TFRecord file, or a number cannot be.
  """
  options = stream.Options(
    image_size=image_size,
    batch_size=batch_size,
    augmentation=augmentation,
    seed=seed,
    num_classes=num_classes,
    repeat=repeat,
  )
  if start_batch < 0:
    raise errors.InputError("a start_batch from 0", start_batch)
  batches = stream.Stream(tfrecord.RecordFiles(file_pattern), options)
  end = tf.int64.max if repeat else len(batches)
  shape = [batch_size if repeat else None, image_size, image_size, 3]

  def make(number):
    images, labels = tf.numpy_function(
      batches.batch, [number], (tf.float32, tf.int64), stateful=False
    )
    return tf.ensure_shape(images, shape), tf.ensure_shape(labels, shape[:1])

  at_once = min(_AT_ONCE, concurrency.core_count())
  numbers = tf.data.Dataset.range(min(start_batch, end), end)
  made = numbers.map(make, num_parallel_calls=at_once, deterministic=True)
  return made.prefetch(1)
