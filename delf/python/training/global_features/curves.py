"""Curves of a run, for TensorBoard."""

import contextlib

from delf.python.training.supervised import board_file

FOLDER = "logs"


class Curves(contextlib.AbstractContextManager):
  """Writes numbers to `logs/` in the folder of a run, while it is open."""

  def __init__(self, folder):
    """Opens it.

    Args:
      folder: pathlib.Path of the run.

    Raises:
      OSError: If it cannot be; so do the other functions.
    """
    self._file = board_file.BoardFile(folder / FOLDER)

  def write(self, step, values):
    """Writes a point of each curve.

    Args:
      step: Batches that are over.
      values: dict by tag of float.
    """
    self._file.write(step, values)
    self._file.flush()

  def __exit__(self, *error):
    """Closes it."""
    self._file.close()
