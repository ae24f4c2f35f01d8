"""Google Landmarks, or photos of any classes in such records, for training."""

import dataclasses
from collections.abc import Sequence

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
  num_classes: dict[str, int]


def GoogleLandmarksInfo() -> _Info:
  """Return facts about Google Landmarks: `num_classes`, by version."""
  return _Info({"gld_v1": 14951, "gld_v2": 203094, "gld_v2_clean": 81313})


def NormalizeImages(
  images: tf.Tensor,
  pixel_value_scale: float = 0.5,
  pixel_value_offset: float = 0.5,
) -> tf.Tensor:
  """Return (images - offset) / scale as float32."""
  images = tf.cast(images, tf.float32)
  return (images - pixel_value_offset) / pixel_value_scale


def CreateDataset(
  file_pattern: str | Sequence[str],
  image_size: int = 321,
  batch_size: int = 32,
  augmentation: bool = False,
  seed: int = 0,
  *,
  num_classes: int | None = None,
  start_batch: int = 0,
  repeat: bool = True,
) -> tf.data.Dataset:
  """Create batches of photos and labels from TFRecord files.

  The same files, seed and sizes give the same batches to the bit, whatever the
  number of cores; each batch is a function of its number alone.

  Args:
    file_pattern: Pattern of paths, such as `data/train*`, or a list of these.
    image_size: Pixels of a side; photos are resized to squares.
    augmentation: Whether random crops are taken: of 0.08 to 1 of the area, and
      3/4 to 4/3 as wide as high.
    num_classes: Labels must be below it; None if they may be any.
    start_batch: Number of the first batch: those before it are not made.
    repeat: Whether the stream is endless, each epoch in a random order of its
      own; else it is one epoch in the order of the files, whose last batch may
      be short.

  Returns:
    Data set of (images [B, S, S, 3] float32, RGB, (pixel - 128) / 128; labels
    [B] int64). Errors in a record come as TensorFlow errors when its batch is
    drawn: `clear_errors` turns them into InputError.
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
  photos = numbers.map(make, num_parallel_calls=at_once, deterministic=True)
  return photos.prefetch(1)
