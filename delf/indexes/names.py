"""Names of the images in an index, and what all indexes have in common."""

import collections
import os
from collections.abc import Iterable, Sequence

import numpy as np

from delf.base import errors

Path = str | os.PathLike
# [N, D], or N arrays [D], of which some may be None or [0].
Descriptors = np.ndarray | Sequence[np.ndarray | None]


class NameList:
  """Unique names of images and their ids, which count from 0."""

  def __init__(self, names: Iterable[str] = (), path: Path | None = None):
    self.names: list[str] = []
    self._ids: dict[str, int] = {}
    self.add(self.check(names, path=path))

  def __len__(self):
    return len(self.names)

  def add(self, names: Sequence[str]) -> None:
    """Append names that `check` has returned."""
    self._ids |= {name: len(self) + i for i, name in enumerate(names)}
    self.names.extend(names)

  def check(
    self,
    names: Iterable[str],
    number: int | None = None,
    path: Path | None = None,
  ) -> list[str]:
    """Return names that can be added; raise InputError for others.

    Args:
      names: New names.
      number: Required number of names, or None.
      path: File that they were read from, for errors.
    """
    if isinstance(names, str):
      raise errors.InputError("a list of names", "one name", path)
    names = list(names)
    if number is not None and len(names) != number:
      raise errors.InputError(f"{number} names", f"{len(names)}", path)
    for name in names:
      if not isinstance(name, str):
        raise errors.InputError("names as text", repr(name), path)
    counts = collections.Counter(names)
    if twice := [name for name, count in counts.items() if count > 1]:
      raise errors.InputError("each name once", f"{_few(twice)} twice", path)
    if known := [name for name in names if name in self._ids]:
      raise errors.InputError(
        "names that are not in the index yet", _few(known), path
      )
    return names

  def ids(self, names: str | Iterable[str]) -> list[int]:
    """Return the ids of names; raise InputError if one is unknown."""
    names = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in names if name not in self._ids]:
      raise errors.InputError("names in the index", _few(unknown))
    return [self._ids[name] for name in names]


def _few(names):
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return f"{', '.join(map(repr, names[:3]))}{more}"


class NamedIndex:
  """Base of the indexes: images with names, whose ids close up on removal."""

  def __init__(self):
    self._names = NameList()

  def __len__(self):
    return len(self._names)

  @property
  def names(self) -> list[str]:
    """Names by id; not to be changed."""
    return self._names.names

  def _without(self, names: str | Sequence[str]) -> np.ndarray:
    """Remove names; return [N] bool, the ids that are kept."""
    keep = np.ones([len(self)], bool)
    keep[self._names.ids(names)] = False
    kept = zip(self.names, keep, strict=True)
    self._names = NameList(name for name, stays in kept if stays)
    return keep


class DescriptorIndex(NamedIndex):
  """Base of the indexes of global descriptors of one dimension."""

  def __init__(self):
    super().__init__()
    self._empty = np.zeros([0], bool)
    self._dimension = None

  @property
  def dimension(self) -> int | None:
    """D, or None while there is no descriptor."""
    return self._dimension

  @property
  def empty(self) -> np.ndarray:
    """[N] bool: which images have no descriptor."""
    return self._empty

  def _set(self, names, empty, dimension, path):
    """Take over what was read from a file."""
    self._names = NameList(names, path)
    self._empty, self._dimension = np.array(empty, bool), dimension
