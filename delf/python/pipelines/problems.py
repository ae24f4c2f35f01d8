"""Why an image gave no features, in one line."""

import dataclasses

import numpy as np

from delf.python import errors

# Errors of TensorFlow go on for pages; the first words say what happened.
_LONGEST_REASON = 300


def find(path, features):
  """Returns one line that says what is wrong with a result, or None.

  Args:
    path: Path of the image.
    features: features.ImageFeatures or detections.Detections, or the Exception
      that came in its place.

  Returns:
    str without the path, or None.
  """
  if isinstance(features, Exception):
    return of_error(path, features)
  for name, array in _arrays(features):
    if array is not None and not np.all(np.isfinite(array)):
      return f"expected finite {name}, received NaN or infinity"
  return None


def _arrays(result):
  """Yields (name in words, array or None) of all that is in a result."""
  for field in dataclasses.fields(result):
    value = getattr(result, field.name)
    if dataclasses.is_dataclass(value):
      yield from _arrays(value)
    else:
      yield field.name.replace("_", " "), value


def of_error(path, error):
  """Returns one line, without the path, that says what an Exception is about.

  Args:
    path: Path of the image.
    error: Exception.
  """
  if is_out_of_memory(error):
    return "expected an image that fits in memory, received one that does not"
  line = " ".join(str(error).split()).removeprefix(f"{path}: ")
  if isinstance(error, (errors.InputError, OSError)):
    return line
  return f"{type(error).__name__}: {line[:_LONGEST_REASON]}"


def is_out_of_memory(error):
  """Returns whether an error says that memory ran out (host or device)."""
  # By name, so that TensorFlow need not be imported to ask.
  return isinstance(error, MemoryError) or (
    type(error).__name__ == "ResourceExhaustedError"
  )
