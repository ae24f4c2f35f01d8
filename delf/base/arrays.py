"""Checking, sorting and reading arrays; records of arrays."""

import dataclasses
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from delf.base import errors, files

# The norm of descriptors is below this, so that products are finite in float32.
_LONGEST = 1e15


class Record:
  """Base of dataclasses of arrays: `==`, a short `repr` and `to_dict`.

  Subclasses are dataclasses with `eq=False` and `repr=False`. `==` ignores
  fields with `compare=False`; `repr` and `to_dict` omit those of `repr=False`.
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
    """Return the fields as numbers, text, lists and dicts, ready for JSON."""
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
  """Return the stable argsort, [N] intp, of [N] non-negative integers."""
  # NumPy's radix sort takes 16 bits; it is ten times as fast as its others.
  if not keys.size or keys.max() < 1 << 16:
    keys = keys.astype(np.uint16)
  return np.argsort(keys, kind="stable")


def check_finite(
  array: np.ndarray, name: str, path: files.Path | None = None
) -> np.ndarray:
  """Return an [N, ...] array, or raise InputError if it has NaN or infinity."""
  if not np.isfinite(array).all():
    rows = np.isfinite(array).reshape(len(array) if array.ndim else 1, -1)
    bad = np.flatnonzero(~rows.all(axis=1))
    problem = f"NaN or infinity in {bad.size} of {len(rows)} (first: {bad[0]})"
    raise errors.InputError(f"{name} must be finite: {problem}", path=path)
  return array


def check_descriptors(
  array: np.ndarray, dimension: int | None = None, name: str = "descriptors"
) -> np.ndarray:
  """Return [N, D] descriptors as float32, or raise InputError.

  [N, 0] is accepted for any `dimension`, as zeros. Norms are at most 1e15.
  """
  if array.ndim != 2 or array.dtype.kind not in "fiu":
    actual = f"{array.dtype} of shape {list(array.shape)}"
    problem = f"must be an array of numbers of shape [N, D], not {actual}"
    raise errors.InputError(f"{name} {problem}")
  if not array.shape[1]:
    array = np.zeros([len(array), dimension or 0], np.float32)
  if dimension is not None and array.shape[1] != dimension:
    problem = f"must have dimension {dimension}, not {array.shape[1]}"
    raise errors.InputError(f"{name} {problem}")
  with np.errstate(over="ignore", invalid="ignore"):
    array = array.astype(np.float32, copy=False)
    squares = np.einsum("ij,ij->i", array, array)
  bad = np.flatnonzero(~(squares < _LONGEST**2))
  if bad.size:
    problem = f"NaN, infinity or a norm over {_LONGEST:g} in {bad.size} of"
    place = f"{len(array)} (first: {bad[0]})"
    raise errors.InputError(f"{name} must be finite: {problem} {place}")
  return array


def stack_descriptors(
  descriptors: np.ndarray | Sequence[np.ndarray | None],
  dimension: int | None = None,
  name: str = "descriptors",
) -> tuple[np.ndarray, np.ndarray]:
  """Stack [N, D] descriptors, or N of [D], None or [0], and check them.

  Returns [N, D] float32, zeros for empty ones, and [N] bool, the empty.
  """
  if isinstance(descriptors, np.ndarray):
    empty = np.full([len(descriptors)], not descriptors.size)
    checked = check_descriptors(descriptors, dimension, name)
    # A copy, as the caller may change its array.
    return (checked.copy() if checked is descriptors else checked), empty
  rows = [np.zeros([0]) if r is None else np.asarray(r) for r in descriptors]
  empty = np.array([row.size == 0 for row in rows], dtype=bool)
  shapes = sorted({row.shape for row in rows if row.size})
  if len(shapes) > 1 or (shapes and len(shapes[0]) != 1):
    text = ", ".join(str(list(shape)) for shape in shapes)
    raise errors.InputError(
      f"{name} must have one dimension, not shapes [{text}]"
    )
  none = np.zeros(shapes[0] if shapes else [dimension or 0], np.float32)
  joined = none.reshape(1, -1)[:0]
  if rows:
    joined = np.stack([row if row.size else none for row in rows])
  return check_descriptors(joined, dimension, name), empty


def check_same_dimension(dimension: int | None, other: int | None) -> None:
  """Raise InputError unless indexes can be merged; an empty one has None."""
  if None not in (dimension, other) and dimension != other:
    problem = f"dimension {other} does not fit an index of dimension"
    raise errors.InputError(f"{problem} {dimension}")


def read_npz(
  path: files.Path, kind: str, names: Iterable[str]
) -> dict[str, np.ndarray]:
  """Read an `.npz` file, `kind` in errors, that has the arrays `names`."""
  try:
    # Opened here, since NumPy does not close truncated files. Never unpickles.
    with open(path, "rb") as file, np.load(file) as archive:
      arrays = dict(archive)
  except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise errors.InputError(f"not {kind} ({error})", path=path) from None
  missing = ", ".join(name for name in names if name not in arrays)
  if missing:
    raise errors.InputError(f"not {kind}: {missing} missing", path=path)
  return arrays
