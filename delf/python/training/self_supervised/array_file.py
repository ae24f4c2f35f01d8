"""Named arrays from an `.npz` file."""

import zipfile

import numpy as np

from delf.python import errors


def read(path, kind, names):
  """Returns the arrays of a file by name.

  Args:
    path: Path of an `.npz` file.
    kind: Words for what it should be.
    names: Names that must be in it.

  Raises:
    InputError: If it is another file. Objects in it are not unpickled.
  """
  try:
    # Opened here, as NumPy leaves a file open that is cut.
    with open(path, "rb") as file, np.load(file) as found:
      arrays = dict(found)
  except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise errors.InputError(kind, f"another kind ({error})", path) from None
  missing = [name for name in names if name not in arrays]
  if missing:
    raise errors.InputError(kind, f"one without {', '.join(missing)}", path)
  return arrays
