"""Batches for a run, from TFRecords, and what is wrong with these."""

import os

import tensorflow as tf

from delf.python import errors
from delf.python.datasets.google_landmarks_dataset import googlelandmarks
from delf.python.datasets.labelled_records import (
  labels_file,
  record_files,
  stream,
)


class Source:
  """Photos and labels as the data set of Google Landmarks has them."""

  def __init__(self, data, seed):
    """Looks for the files.

    Args:
      data: settings.Data.
      seed: Of order and augmentation.

    Raises:
      InputError: If there are none, or if they are of another label space.
    """
    self._data, self._seed = data, seed
    _find(data.train_file_pattern, "training")
    if data.validation_file_pattern:
      _find(
        data.validation_file_pattern,
        'validation, or "" to train without validation',
      )
    _check_classes(data)

  def training(self, start_batch=0):
    """Returns batches without end.

    Args:
      start_batch: How many are left out.

    Returns:
      tf.data.Dataset of (float32 [B, S, S, 3], int64 [B]); the same for the
      same files, seed, batch size and start.
    """
    return self._create(
      self._data.train_file_pattern,
      augmentation=self._data.use_augmentation,
      start_batch=start_batch,
    )

  def validation(self):
    """Returns the batches of one pass, as `training` does, or None."""
    if not self._data.validation_file_pattern:
      return None
    return self._create(
      self._data.validation_file_pattern, augmentation=False, repeat=False
    )

  def identities(self, number):
    """Returns the ids of the photos of a training batch, list of str."""
    options = stream.Options(
      batch_size=self._data.batch_size, seed=self._seed, repeat=True
    )
    records = record_files.RecordFiles(self._data.train_file_pattern)
    return stream.Stream(records, options).identities(number)

  def _create(self, pattern, **options):
    return googlelandmarks.CreateDataset(
      pattern,
      image_size=self._data.image_size,
      batch_size=self._data.batch_size,
      seed=self._seed,
      num_classes=self._data.num_classes,
      **options,
    )


def classes_beside(pattern):
  """Returns the number of classes that lies beside TFRecords.

  Args:
    pattern: Pattern of the TFRecords.

  Raises:
    InputError: If there is no `labels.json`, or a damaged one.
  """
  labels = labels_file.beside(pattern)
  if labels is None:
    raise errors.InputError(
      f"{labels_file.NAME} beside the TFRecords",
      "none",
      os.path.dirname(pattern),
    )
  return labels.num_classes


def _check_classes(data):
  labels = labels_file.beside(data.train_file_pattern)
  if labels is not None and labels.num_classes != data.num_classes:
    raise errors.InputError(
      f"TFRecords of {data.num_classes} classes",
      f"{labels.num_classes} (in {labels_file.NAME}); give the number of "
      "classes, or 0 for theirs",
      os.path.dirname(data.train_file_pattern),
    )


def _find(pattern, purpose):
  if not tf.io.gfile.glob(pattern):
    raise errors.InputError(f"TFRecords for {purpose}", "none", pattern)
