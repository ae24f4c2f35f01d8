"""Features of one image, from files whose values must be finite."""

import numpy as np

from delf.python import datum_io, errors, feature_io


def read_global(path):
  """Reads a global descriptor.

  Args:
    path: Path of a `.delg_global` file.

  Returns:
    [D] float32; [0] of an image that was too small.

  Raises:
    InputError: If it is not one, or not finite.
  """
  found = datum_io.ReadFromFile(path)
  if found.ndim != 1 or not np.isfinite(found).all():
    raise errors.InputError(
      "a descriptor of shape [D], finite", f"shape {list(found.shape)}", path
    )
  return found.astype(np.float32)


def read_local(path):
  """Reads local features whose values are finite.

  Args:
    path: Path of a `.delf` or `.delg_local` file.

  Returns:
    features.LocalFeatures.

  Raises:
    InputError: If it is not one, or not finite.
  """
  found = feature_io.read_local_features(path)
  for name in ("locations", "descriptors"):
    if not np.isfinite(getattr(found, name)).all():
      raise errors.InputError(f"finite {name}", "NaN or infinity", path)
  return found
