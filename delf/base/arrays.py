"""Checks, orders and files of arrays."""

import dataclasses
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from delf.base import errors, files

# Descriptors are shorter, so that their products are float32 still.
_LONGEST = 1e15


class Record:
  """Base of dataclasses with arrays: `==`, a short `repr`, and `to_dict`.

  The dataclass has `eq=False` and `repr=False`. Fields with `compare=False`
  do not count in `==`, those with `repr=False` are not shown.
  """

  def __eq__(self, other: object) -> bool:
    if type(other) is not type(self):
      return NotImplemented
    return all(
      _equal(getattr(self, field.name), getattr(other, field.name))
      for field in dataclasses.fields(self)  # type: ignore[arg-type]
      if field.compare
    )

  __hash__ = None  # type: ignore[assignment]

  def __repr__(self) -> str:
    fields = (
      f"{field.name}={_short(getattr(self, field.name))}"
      for field in dataclasses.fields(self)  # type: ignore[arg-type]
      if field.repr
    )
    return f"{type(self).__name__}({', '.join(fields)})"

  def to_dict(self) -> dict[str, Any]:
    """Return the fields as numbers, text, lists and dicts, as JSON has them."""
    return {
      field.name: _plain(getattr(self, field.name))
      for field in dataclasses.fields(self)  # type: ignore[arg-type]
      if field.repr
    }


def _equal(one, other):
  if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
    return np.array_equal(one, other)
  if isinstance(one, tuple | list) and isinstance(other, tuple | list):
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(_equal(*pair) for pair in pairs)
  return bool(one == other)


def _short(value):
  if isinstance(value, np.ndarray):
    return f"<{value.dtype} {list(value.shape)}>"
  return repr(value)


def _plain(value):
  if isinstance(value, np.ndarray | np.generic):
    return value.tolist()
  if isinstance(value, Record):
    return value.to_dict()
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {
      f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)
    }
  if isinstance(value, tuple | list):
    return [_plain(each) for each in value]
  if isinstance(value, dict):
    return {name: _plain(each) for name, each in value.items()}
  return value


def stable_argsort(keys: np.ndarray) -> np.ndarray:
  """Stable argsort of [N] non-negative integers, [N] intp."""
  # NumPy sorts 16 bits by digits, ten times as fast as more bits.
  if not keys.size or keys.max() < 1 << 16:
    keys = keys.astype(np.uint16)
  return np.argsort(keys, kind="stable")


def check_finite(
  array: np.ndarray, name: str, path: files.Path | None = None
) -> np.ndarray:
  """Return an [N, ...] array; raise InputError if it has NaN or infinity."""
  if not np.isfinite(array).all():
    rows = np.isfinite(array).reshape(len(array) if array.ndim else 1, -1)
    bad = np.flatnonzero(~rows.all(axis=1))
    raise errors.InputError(
      f"finite {name}",
      f"NaN or infinity in {bad.size} of {len(rows)} (first: {bad[0]})",
      path,
    )
  return array


def check_descriptors(
  array: np.ndarray, dimension: int | None = None, name: str = "descriptors"
) -> np.ndarray:
  """Return [N, D] descriptors as float32; InputError if they are none.

  [N, 0] passes for any `dimension`, as zeros; lengths are at most 1e15.
  """
  if array.ndim != 2 or array.dtype.kind not in "fiu":
    raise errors.InputError(
      f"{name} as an array of numbers of shape [N, D]",
      f"{array.dtype} of shape {list(array.shape)}",
    )
  if not array.shape[1]:
    array = np.zeros([len(array), dimension or 0], np.float32)
  if dimension is not None and array.shape[1] != dimension:
    raise errors.InputError(
      f"{name} of dimension {dimension}", f"dimension {array.shape[1]}"
    )
  with np.errstate(over="ignore", invalid="ignore"):
    array = array.astype(np.float32, copy=False)
    squares = np.einsum("ij,ij->i", array, array)
  bad = np.flatnonzero(~(squares < _LONGEST**2))
  if bad.size:
    raise errors.InputError(
      f"finite {name}",
      f"NaN, infinity or over {_LONGEST:g} in {bad.size} of {len(array)}"
      f" (first: {bad[0]})",
    )
  return array


def stack_descriptors(
  descriptors: np.ndarray | Sequence[np.ndarray | None],
  dimension: int | None = None,
  name: str = "descriptors",
) -> tuple[np.ndarray, np.ndarray]:
  """Stack global descriptors, checked by `check_descriptors`.

  They are [N, D], or N arrays [D], None or [0] for an image that was too small.
  Returns [N, D] float32, zeros for the missing, and [N] bool: those missing.
  """
  if isinstance(descriptors, np.ndarray):
    empty = np.full([len(descriptors)], not descriptors.size)
    checked = check_descriptors(descriptors, dimension, name)
    # Not the caller's own array, which may change.
    return (checked.copy() if checked is descriptors else checked), empty
  rows = [np.zeros([0]) if r is None else np.asarray(r) for r in descriptors]
  empty = np.array([row.size == 0 for row in rows], dtype=bool)
  shapes = sorted({row.shape for row in rows if row.size})
  if len(shapes) > 1 or (shapes and len(shapes[0]) != 1):
    raise errors.InputError(
      f"{name} of one dimension", f"shapes {[list(s) for s in shapes]}"
    )
  none = np.zeros(shapes[0] if shapes else [dimension or 0], np.float32)
  joined = none.reshape(1, -1)[:0]
  if rows:
    joined = np.stack([row if row.size else none for row in rows])
  return check_descriptors(joined, dimension, name), empty


def check_same_dimension(dimension: int | None, other: int | None) -> None:
  """Raise InputError unless indexes can be merged; None: an empty one."""
  if None not in (dimension, other) and dimension != other:
    raise errors.InputError(
      f"an index of dimension {dimension}", f"dimension {other}"
    )


def read_npz(
  path: files.Path, kind: str, names: Iterable[str]
) -> dict[str, np.ndarray]:
  """Read an `.npz` file of a `kind` with arrays `names`, without unpickling."""
  try:
    # Opened here, as NumPy leaves a file open that is cut.
    with open(path, "rb") as file, np.load(file) as archive:
      arrays = dict(archive)
  except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise errors.InputError(kind, f"another kind ({error})", path) from None
  missing = [name for name in names if name not in arrays]
  if missing:
    raise errors.InputError(kind, f"one without {', '.join(missing)}", path)
  return arrays
