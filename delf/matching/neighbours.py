"""Putative matches: which descriptors of two images are nearest."""

import dataclasses
import numbers

import numpy as np

from delf.base import errors

# Distances held at once: 16 MB of float32.
_BLOCK = 4_000_000
# Descriptors are shorter, so that squares of their distances are float32 still.
_LONGEST = 1e15


@dataclasses.dataclass(frozen=True)
class Putatives:
  """Matches by descriptor alone.

  Attributes:
    pairs: [P, 2] int32, indices into descriptors 1 and 2, sorted by the first.
    distances: [P] float32, Euclidean distances of their descriptors.
  """

  pairs: np.ndarray
  distances: np.ndarray

  def __len__(self):
    return len(self.pairs)

  def one_to_one(self):
    """Returns [P] bool: which pairs are the nearest of both their features."""
    keep = np.ones([len(self)], dtype=bool)
    order = np.argsort(self.distances, kind="stable")
    for column in (0, 1):
      _, first = np.unique(self.pairs[order, column], return_index=True)
      mask = np.zeros_like(keep)
      mask[order[first]] = True
      keep &= mask
    return keep


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Descriptors with what each search among them needs, made once.

  Attributes:
    array: [N, D] float32, checked.
    centre: [D] float32, their mean.
    centred: [N, D] float32, `array` less `centre`: distances do not change when
      the origin does, and rounding errors shrink.
    squares: [N] float32, squared lengths of `centred`.
  """

  array: np.ndarray
  centre: np.ndarray
  centred: np.ndarray
  squares: np.ndarray

  def __len__(self):
    return len(self.array)

  @property
  def nbytes(self):
    """Bytes that they take."""
    return sum(each.nbytes for each in vars(self).values())


def prepare(descriptors, name="descriptors"):
  """Prepares descriptors that many others are compared with.

  Args:
    descriptors: [N, D] array of numbers.
    name: Words for whose they are.

  Returns:
    Prepared.

  Raises:
    InputError: If a value is not finite, or they have another shape.
  """
  array = _checked(descriptors, name)
  centre = array.mean(axis=0) if len(array) else array.sum(axis=0)
  centred = array - centre
  return Prepared(
    array, centre, centred, np.einsum("ij,ij->i", centred, centred)
  )


def nearest(
  descriptors_1,
  descriptors_2,
  *,
  max_distance=None,
  ratio=None,
  mutual=False,
):
  """Finds the nearest of descriptors 2 for each of descriptors 1.

  Args:
    descriptors_1: [N1, D] array of numbers, or Prepared.
    descriptors_2: [N2, D] array of numbers, or Prepared.
    max_distance: Keeps pairs nearer than this (Euclidean), or None.
    ratio: Keeps pairs where the nearest is nearer than `ratio` times the second
      nearest (D. Lowe, IJCV 2004), or None. Where descriptors 2 are fewer than
      two there is no second, and no pair is dropped.
    mutual: Whether to keep a pair only where each is the other's nearest. Each
      feature is then in at most one pair.

  Returns:
    Putatives. None where either side is empty.

  Raises:
    InputError: If a descriptor has a value that is not finite, or their
      dimensions differ.
  """
  first, second = descriptors_1, descriptors_2
  if isinstance(first, Prepared):
    first = first.array
  else:
    first = _checked(first, "descriptors 1")
  if not isinstance(second, Prepared):
    second = prepare(second, "descriptors 2")
  _check_limit("max_distance", max_distance)
  _check_limit("ratio", ratio)
  if not len(first) or not len(second):
    return Putatives(np.zeros([0, 2], np.int32), np.zeros([0], np.float32))
  if first.shape[1] != second.array.shape[1]:
    raise errors.InputError(
      f"descriptors of one dimension ({first.shape[1]} as in image 1)",
      f"{second.array.shape[1]} in image 2",
    )
  found = _search(first, second, mutual, ratio is not None)
  distances = _distances(first, second.array, found.nearest)
  keep = np.ones([len(first)], dtype=bool)
  if max_distance is not None:
    keep &= distances < max_distance
  if found.second is not None:
    keep &= distances < ratio * _distances(first, second.array, found.second)
  if found.mutual is not None:
    keep &= found.mutual
  pairs = np.stack([np.arange(len(first)), found.nearest], axis=1)[keep]
  return Putatives(pairs.astype(np.int32), distances[keep])


@dataclasses.dataclass(frozen=True)
class _Found:
  nearest: np.ndarray  # [N1], index of the nearest of side 2
  second: np.ndarray | None  # [N1], of the second nearest
  mutual: np.ndarray | None  # [N1] bool, whether it is nearest of its nearest


def _search(first, second, with_mutual, with_second):
  """Returns _Found, by one matrix product in blocks of rows."""
  first = first - second.centre
  own = np.einsum("ij,ij->i", first, first)
  # |b|^2 - 2 a b is the squared distance but for |a|^2, which is one number per
  # row and does not change the order within it.
  first *= -2
  with_second = with_second and len(second) > 1
  nearest_ = np.empty([len(first)], dtype=np.int64)
  second_ = np.empty_like(nearest_)
  least_1 = np.empty([len(first)], dtype=np.float32)
  least_2 = np.full([len(second)], np.inf, dtype=np.float32)
  step = max(1, _BLOCK // len(second))
  for start in range(0, len(first), step):
    block = slice(start, start + step)
    table = first[block] @ second.centred.T
    table += second.squares
    nearest_[block] = table.argmin(axis=1)
    if with_mutual:
      table += own[block, None]
      least_1[block] = table.min(axis=1)
      np.minimum(least_2, table.min(axis=0), out=least_2)
    if with_second:
      np.put_along_axis(table, nearest_[block, None], np.inf, axis=1)
      second_[block] = table.argmin(axis=1)
  mutual = None
  if with_mutual:
    mutual = _first_of_each(nearest_, least_1 <= least_2[nearest_])
  return _Found(nearest_, second_ if with_second else None, mutual)


def _first_of_each(values, among):
  """Returns a mask of the first place of each value among those of a mask."""
  places = np.flatnonzero(among)
  _, first = np.unique(values[places], return_index=True)
  mask = np.zeros(values.shape, dtype=bool)
  mask[places[first]] = True
  return mask


def _distances(first, second, indices):
  difference = first - second[indices]
  return np.sqrt(np.einsum("ij,ij->i", difference, difference))


def _checked(descriptors, name):
  """Returns descriptors as [N, D] float32."""
  array = np.asarray(descriptors)
  if array.size == 0:
    # Empty files lose their dimension; there is nothing to compare anyway.
    return np.zeros([0, 0], dtype=np.float32)
  if array.ndim != 2 or array.dtype.kind not in "fiu":
    raise errors.InputError(
      f"{name} as an array of numbers of shape [N, D]",
      f"{array.dtype} of shape {list(array.shape)}",
    )
  with np.errstate(over="ignore", invalid="ignore"):
    array = array.astype(np.float32)
    squares = np.einsum("ij,ij->i", array, array)
  bad = np.flatnonzero(~(squares < _LONGEST**2))
  if bad.size:
    raise errors.InputError(
      f"finite {name}",
      f"NaN, infinity or over {_LONGEST:g} in {bad.size} of {len(array)}"
      f" (first: {bad[0]})",
    )
  return array


def _check_limit(name, value):
  if value is None:
    return
  if not isinstance(value, numbers.Real) or not value > 0:
    raise errors.InputError(f"{name} over 0", repr(value))
