"""Training data from TFRecords of photos, as of Google Landmarks."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from delf.base import concurrency, errors
from delf.records import stream, tfrecord

clear_errors = tfrecord.clear_errors

# Batches that are made at once, each on all cores: none is idle when a batch
# ends.
_AT_ONCE = 2


@dataclasses.dataclass(frozen=True)
class _Info:
  num_classes: dict[str, int]


def GoogleLandmarksInfo() -> _Info:
  """Return `num_classes` of each version of Google Landmarks."""
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

  The same files, seed and sizes give the same batches, bit for bit, on any
  number of cores.

  Args:
    file_pattern: Pattern of paths, such as `data/train*`, or several.
    image_size: Side of the square that photos are resized to, in pixels.
    augmentation: Whether to use random crops, of 0.08 to 1 of the area and an
      aspect of 3/4 to 4/3.
    num_classes: Labels must be below it; None for any labels.
    start_batch: Number of the first batch, to resume from.
    repeat: Endless, with a random order per epoch; else one epoch in the order
      of the files, whose last batch may be short.

  Returns:
    Data set of (images [B, S, S, 3] float32, RGB, (pixel - 128) / 128; labels
    [B] int64). Bad records raise TensorFlow's errors when their batch is drawn;
    `clear_errors` turns these errors into InputError.
  """
  options = stream.Options(
    image_size, batch_size, augmentation, seed, num_classes, repeat
  )
  if start_batch < 0:
    raise errors.InputError(f"start_batch must be from 0 up, not {start_batch}")
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
