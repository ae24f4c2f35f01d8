"""The devices of a run, by names, and how they share its work."""

import contextlib
import time

import tensorflow as tf

from delf.base import errors
from delf.formats import checkpoints


def strategy(execution):
  """Returns how the devices of a run share its work.

  Args:
    execution: settings.Execution.

  Returns:
    tf.distribute.Strategy: MirroredStrategy where there are several devices.

  Raises:
    InputError: If there is no such device.
  """
  logical = tf.config.list_logical_devices()
  known = [device.name.removeprefix("/device:") for device in logical]
  names = [name for name in known if name.startswith("GPU:")]
  if execution.devices is not None:
    names = [_short(name) for name in execution.devices]
  for name in names:
    if name not in known or names.count(name) > 1:
      expected = f"devices of {', '.join(known)}, each once"
      raise errors.InputError(expected, repr(name))
  paths = [f"/device:{name}" for name in names]
  if len(paths) > 1:
    return tf.distribute.MirroredStrategy(paths)
  if paths:
    return tf.distribute.OneDeviceStrategy(paths[0])
  return tf.distribute.get_strategy()


def _short(name):
  """Returns "GPU:0" for "gpu:0", "/GPU:0" and "/device:GPU:0"."""
  return name.strip().upper().removeprefix("/").removeprefix("DEVICE:")


class StepRate:
  """Counts from one look to the next."""

  def __init__(self, step):
    """Starts the clock.

    Args:
      step: Steps made before.
    """
    self._step, self._time = step, time.monotonic()

  def since(self, step):
    """Returns the steps of a second since the last look.

    Args:
      step: Steps made.
    """
    now = time.monotonic()
    number, seconds = step - self._step, now - self._time
    self._step, self._time = step, now
    return number / max(seconds, 1e-9)


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
    return checkpoints.writing("TensorBoard's file", self._folder)


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
    self._file = BoardFile(folder / FOLDER)

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
