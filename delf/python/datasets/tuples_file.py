"""Files that say which photos show one object, as of retrieval-SfM-120k."""

import dataclasses
import os

import numpy as np

from delf.python import errors
from delf.python.datasets import plain_pickle

# Characters of an image's name that its folders are made of.
_FOLDERS = 6


@dataclasses.dataclass(frozen=True)
class Pairs:
  """N photos, and which of them are pairs.

  Attributes:
    names: list of N str, ids of photos.
    clusters: [N] int64, the model (a place) that each is of, or None where the
      file does not say, as those for whitening.
    queries: [P] int64, places of the first ones in `names`.
    positives: [P] int64, places of the second ones.
  """

  names: list
  clusters: np.ndarray | None
  queries: np.ndarray
  positives: np.ndarray


def read(path, mode=None):
  """Reads a pickle of pairs, without running what it may hold.

  Args:
    path: Path of the file: a dict of `cids` (or `ids`), `cluster`, `qidxs` and
      `pidxs`, or a dict of such dicts by mode.
    mode: "train" or "val"; None for a file without modes.

  Returns:
    Pairs. `clusters` is there if there is a mode.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no such file, lacks the mode, has places or names that
      cannot be, or no pairs.
  """
  content = plain_pickle.read(path)
  if mode is not None:
    _require(isinstance(content, dict), "a dict by mode", content, path)
    if mode not in content:
      raise errors.InputError(f"the mode '{mode}'", _keys(content), path)
    content = content[mode]
  _require(isinstance(content, dict), "a dict of lists", content, path)
  names = _names(content.get("cids", content.get("ids")), path)
  queries, positives = (
    _places(content, key, len(names), path) for key in ("qidxs", "pidxs")
  )
  if len(queries) != len(positives) or not len(queries):
    raise errors.InputError(
      "as many 'qidxs' as 'pidxs', one at least",
      f"{len(queries)} and {len(positives)}",
      path,
    )
  clusters = _clusters(content, len(names), path) if mode is not None else None
  return Pairs(names, clusters, queries, positives)


def _names(names, path):
  if not isinstance(names, list | tuple | np.ndarray) or not len(names):
    raise errors.InputError("a list 'cids' of images", _kind(names), path)
  names = [str(name) if isinstance(name, str) else name for name in names]
  for name in names:
    plain = isinstance(name, str) and os.path.basename(name) == name
    # Its ends become folders: none may lead out of the images' folder.
    if not plain or len(name) < _FOLDERS or ".." in name or "\0" in name:
      raise errors.InputError(
        f"names of images of {_FOLDERS} characters or more", repr(name), path
      )
  return names


def _clusters(content, number, path):
  clusters = _integers(content, "cluster", path)
  if len(clusters) != number:
    raise errors.InputError(
      f"the 'cluster' of each of {number} images", f"{len(clusters)}", path
    )
  return clusters


def _places(content, key, number, path):
  places = _integers(content, key, path)
  if len(places) and not 0 <= places.min() <= places.max() < number:
    raise errors.InputError(
      f"'{key}' from 0 to {number - 1}, places of images",
      f"{places.min()} to {places.max()}",
      path,
    )
  return places


def _integers(content, key, path):
  """Returns [n] int64 of a list of integers, or raises."""
  if key not in content:
    raise errors.InputError(f"a list '{key}'", _keys(content), path)
  try:
    array = np.asarray(content[key])
  except ValueError:  # Lists of several lengths.
    array = np.zeros([1, 1])
  if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
    raise errors.InputError(
      f"a list '{key}' of integers", f"{array.dtype} {list(array.shape)}", path
    )
  return array.astype(np.int64)


def _require(condition, expected, found, path):
  if not condition:
    raise errors.InputError(expected, _kind(found), path)


def _keys(content):
  return ", ".join(map(repr, list(content)[:8])) or "nothing"


def _kind(value):
  return "none" if value is None else f"a {type(value).__name__}"
