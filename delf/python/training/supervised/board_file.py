"""A file of TensorBoard, whose errors are those of other files."""

import tensorflow as tf

from delf.python import checkpoint_io


class BoardFile:
  """Writes numbers and pictures of steps to a new file in a folder.

  Every function raises OSError, which names the folder, if that cannot be.
  """

  def __init__(self, folder):
    """Begins the file; those of earlier runs stay.

    Args:
      folder: Path; need not exist.
    """
    self._folder = str(folder)
    with self._errors():
      self._writer = tf.summary.create_file_writer(self._folder)

  def write(self, step, scalars, images=None):
    """Writes a point of each curve, and pictures.

    Args:
      step: Number of the step.
      scalars: dict by tag of float.
      images: dict by tag of [N, H, W, C], float from 0 to 1 or uint8.
    """
    with self._errors(), self._writer.as_default(step=step):
      for tag, value in scalars.items():
        tf.summary.scalar(tag, value)
      for tag, pictures in (images or {}).items():
        tf.summary.image(tag, pictures, max_outputs=len(pictures))

  def flush(self):
    """Writes out what is waiting."""
    with self._errors():
      self._writer.flush()

  def close(self):
    """Writes out what is waiting, and closes the file."""
    with self._errors():
      self._writer.close()

  def _errors(self):
    return checkpoint_io.writing("TensorBoard's file", self._folder)
