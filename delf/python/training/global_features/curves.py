"""Curves of a run, for TensorBoard."""

import contextlib

import tensorflow as tf

FOLDER = "logs"


class Curves(contextlib.AbstractContextManager):
  """Writes numbers to `logs/` in the folder of a run, while it is open."""

  def __init__(self, folder):
    """Opens it.

    Args:
      folder: pathlib.Path of the run.
    """
    self._writer = tf.summary.create_file_writer(str(folder / FOLDER))

  def write(self, step, values):
    """Writes a point of each curve.

    Args:
      step: Batches that are over.
      values: dict by tag of float.
    """
    with self._writer.as_default():
      for tag, value in values.items():
        tf.summary.scalar(tag, value, step=step)
    self._writer.flush()

  def __exit__(self, *error):
    """Closes it."""
    self._writer.close()
