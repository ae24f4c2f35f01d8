"""Orders of whole numbers."""

import zipfile

import numpy as np

from delf.base import errors


def stable(keys):
  """Returns what puts numbers in order; equal ones stay as they are.

  Args:
    keys: [N] int, none under 0.

  Returns:
    [N] intp, places in `keys`, as np.argsort.
  """
  # NumPy sorts 16 bits by digits, ten times as fast as more bits.
  if not keys.size or keys.max() < 1 << 16:
    keys = keys.astype(np.uint16)
  return np.argsort(keys, kind="stable")


# Descriptors are shorter, so that their products are float32 still.
_LONGEST = 1e15


def stack(descriptors, dimension=None, what="descriptors"):
  """Puts descriptors into one array.

  Args:
    descriptors: [N, D] array of numbers, or a sequence of N arrays [D]. Those
      of images that were too small for one are None or [0].
    dimension: D that is asked for, or None for any.
    what: Words for them in errors.

  Returns:
    [N, D] float32, with zeros where there is none (D is 0 if there are none at
    all and `dimension` is None), and [N] bool: where there is none.

  Raises:
    InputError: If they are not numbers, differ in D or have another than the
      one asked for, or if a value is NaN, infinite or over 1e15.
  """
  if not isinstance(descriptors, np.ndarray):
    descriptors, empty = _joined(descriptors, dimension, what)
  else:
    empty = np.full([len(descriptors)], not descriptors.size)
  array = _numbers(descriptors, what)
  if not array.shape[1]:
    array = np.zeros([len(array), dimension or 0], np.float32)
  if dimension is not None and array.shape[1] != dimension:
    raise errors.InputError(
      f"{what} of dimension {dimension}", f"dimension {array.shape[1]}"
    )
  return _finite(array, what), empty


def check_same(dimension, other):
  """Raises an InputError if indexes of these D are not to be merged.

  Args:
    dimension: D of an index, or None while it has no descriptor.
    other: The same of the one that is added to it.
  """
  if None not in (dimension, other) and dimension != other:
    raise errors.InputError(
      f"an index of dimension {dimension}", f"dimension {other}"
    )


def _joined(descriptors, dimension, what):
  """Returns the rows of a sequence as one array, and which are none."""
  rows = [np.zeros([0]) if r is None else np.asarray(r) for r in descriptors]
  empty = np.array([row.size == 0 for row in rows], dtype=bool)
  shapes = sorted({row.shape for row in rows if row.size})
  if len(shapes) > 1 or (shapes and len(shapes[0]) != 1):
    raise errors.InputError(
      f"{what} of one dimension", f"shapes {[list(s) for s in shapes]}"
    )
  none = np.zeros(shapes[0] if shapes else [dimension or 0], np.float32)
  if not rows:
    return none.reshape(0, len(none)), empty
  return np.stack([row if row.size else none for row in rows]), empty


def _numbers(array, what):
  if array.ndim != 2 or array.dtype.kind not in "fiu":
    raise errors.InputError(
      f"{what} as an array of numbers of shape [N, D]",
      f"{array.dtype} of shape {list(array.shape)}",
    )
  with np.errstate(over="ignore"):
    return array.astype(np.float32)


def _finite(array, what):
  with np.errstate(over="ignore", invalid="ignore"):
    squares = np.einsum("ij,ij->i", array, array)
  bad = np.flatnonzero(~(squares < _LONGEST**2))
  if bad.size:
    raise errors.InputError(
      f"finite {what}",
      f"NaN, infinity or over {_LONGEST:g} in {bad.size} of {len(array)}"
      f" (first: {bad[0]})",
    )
  return array


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
