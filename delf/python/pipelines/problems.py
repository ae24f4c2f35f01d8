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
    features: features.ImageFeatures, or the Exception that came in its place.

  Returns:
    str without the path, or None.
  """
  if isinstance(features, Exception):
    if is_out_of_memory(features):
      return "expected an image that fits in memory, received one that does not"
    line = " ".join(str(features).split()).removeprefix(f"{path}: ")
    if isinstance(features, (errors.InputError, OSError)):
      return line
    return f"{type(features).__name__}: {line[:_LONGEST_REASON]}"
  arrays = {"global descriptor": features.global_descriptor}
  if features.local is not None:
    for field in dataclasses.fields(features.local):
      arrays[field.name] = getattr(features.local, field.name)
  for name, array in arrays.items():
    if array is not None and not np.all(np.isfinite(array)):
      return f"expected finite {name}, received NaN or infinity"
  return None


def is_out_of_memory(error):
  """Returns whether an error says that memory ran out (host or device)."""
  # By name, so that TensorFlow need not be imported to ask.
  return isinstance(error, MemoryError) or (
    type(error).__name__ == "ResourceExhaustedError"
  )
