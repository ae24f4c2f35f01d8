"""Tuples of a query, a positive and negatives: files, folders, hard negatives.

Source: Radenovic et al., arXiv:1711.02512, section 3.2: the negatives of a
query are the nearest images of other clusters, at most one of each.
"""

import dataclasses
import hashlib
import os
import pathlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from delf.base import concurrency, errors, files, progress
from delf.formats import untrusted
from delf.python import utils

# Name of a cluster, and paths of its photos.
Groups = Sequence[tuple[str, Sequence[str]]]

# Images of a block of descriptors.
BLOCK_SIZE = 1024
# Characters of an image's name that its folders are made of, from the last on.
_FOLDERS = 6
_FOLDER_ENDS = ((-2, None), (-4, -2), (-6, -4))
_DIGEST_BYTES = 16


class NearestOfClusters:
  """The nearest images of each of Q queries, each of another cluster.

  Images come in blocks. Holds [Q, K] images, and [Q, block] similarities.
  """

  def __init__(self, queries: np.ndarray, clusters: np.ndarray, number: int):
    """Take [Q, D] float32 queries, their clusters, and K, images of each."""
    self._queries = np.asarray(queries, np.float32)
    self._own, self._number = np.asarray(clusters), number
    shape = (len(self._queries), number)
    # [Q, K] scores, images, clusters and squares of descriptors' lengths.
    self._kept = (
      np.full(shape, -np.inf, np.float32),
      np.full(shape, -1, np.int64),
      np.full(shape, -1, np.int64),
      np.zeros(shape, np.float32),
    )

  def add(
    self, images: np.ndarray, descriptors: np.ndarray, clusters: np.ndarray
  ) -> None:
    """Take a block of n images: numbers, [n, D] descriptors, [n] clusters.

    Descriptors that are not finite are left out.
    """
    finite = np.isfinite(descriptors).all(axis=1)
    images, clusters = (np.asarray(x)[finite] for x in (images, clusters))
    descriptors = np.asarray(descriptors, np.float32)[finite]
    if not len(images) or not self._number:
      return
    order = np.argsort(clusters, kind="stable")
    images, clusters = images[order], clusters[order]
    descriptors = descriptors[order]
    squares = np.square(descriptors).sum(axis=1)
    scores, columns = _best_of_each(self._queries @ descriptors.T, clusters)
    groups = clusters[columns[0]]
    scores[groups == self._own[:, None]] = -np.inf
    nearest = _largest(scores, self._number)
    columns = np.take_along_axis(columns, nearest, axis=1)
    self._merge(
      np.take_along_axis(scores, nearest, axis=1),
      images[columns],
      clusters[columns],
      squares[columns],
    )

  def _merge(self, *block):
    """Take [Q, k] scores, images, clusters and squares of a block."""
    old, new = self._kept[0][:, :, None], block[0][:, None, :]
    same = self._kept[2][:, :, None] == block[2][:, None, :]
    scores, *others = map(np.hstack, zip(self._kept, block, strict=True))
    # Of a cluster that is in both, the further image goes.
    scores[
      np.hstack([(same & (old < new)).any(2), (same & (old >= new)).any(1)])
    ] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, : self._number]
    self._kept = tuple(
      np.take_along_axis(x, order, axis=1) for x in (scores, *others)
    )

  def images(self) -> np.ndarray:
    """Return [Q, K] int64, nearest first; -1 where there are fewer."""
    return np.where(np.isfinite(self._kept[0]), self._kept[1], -1)

  def distances(self) -> np.ndarray:
    """Return [Q, K] float64, L2 distances; NaN where there is no image."""
    own = np.square(self._queries.astype(np.float64)).sum(axis=1)[:, None]
    scores = self._kept[0]
    squares = np.maximum(own + self._kept[3] - 2.0 * scores, 0.0)
    return np.sqrt(np.where(np.isfinite(scores), squares, np.nan))


def _largest(scores, number):
  """Return [Q, k] columns of the largest scores, in no order; k <= number."""
  if scores.shape[1] <= number:
    return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
  return np.argpartition(-scores, number - 1, axis=1)[:, :number]


def _best_of_each(scores, clusters):
  """Return best scores [Q, C] of [Q, n], and their first columns [Q, C]."""
  starts = np.flatnonzero(np.r_[True, clusters[1:] != clusters[:-1]])
  best = np.maximum.reduceat(scores, starts, axis=1)
  sizes = np.diff(np.r_[starts, len(clusters)])
  is_best = scores == np.repeat(best, sizes, axis=1)
  columns = np.where(is_best, np.arange(len(clusters)), len(clusters))
  return best, np.minimum.reduceat(columns, starts, axis=1)


def describe_blocks(
  paths: Sequence[str],
  load: Callable,
  network: Callable,
  workers: int,
  label: str,
  source: files.Path,
) -> Iterator[np.ndarray]:
  """Yield [n, D] float32 descriptors of blocks of `BLOCK_SIZE` images.

  `load` returns the image of a path, [H, W, 3] float32, and `network` [1, D] of
  [1, H, W, 3]; `source` is the file that lists the images, for errors. An image
  that cannot be read is reported, and has NaN.
  """
  futures = concurrency.futures_ahead(load, paths, workers, workers + 1)
  block, size = [], None
  shown = progress.track(futures, label, len(paths))
  for path, future in zip(paths, shown, strict=True):
    try:
      vector = np.asarray(network(future.result()[None]), np.float32)[0]
    except (errors.InputError, OSError) as error:
      # Of a photo that is too small for the network, it does not say which.
      logging.warning("left out %s: %s", path, errors.one_line(error))
      vector = None
    size = size if vector is None else len(vector)
    block.append(vector)
    if len(block) == BLOCK_SIZE:
      yield _stacked(block, size, source)
      block = []
  if block:
    yield _stacked(block, size, source)


def _stacked(block, size, source):
  if size is None:
    raise errors.InputError(
      "images that can be read", f"none among {len(block)}", source
    )
  missing = np.full([size], np.nan, np.float32)
  return np.stack([missing if each is None else each for each in block])


@dataclasses.dataclass(frozen=True)
class Pairs:
  """N photos, and which of them are pairs."""

  names: list[str]  # Ids of the photos.
  # [N] int64, the object or place of each, or None where the file does not say,
  # as those for whitening.
  clusters: np.ndarray | None
  queries: np.ndarray  # [P] int64, indices of the first photos of pairs.
  positives: np.ndarray  # [P] int64, indices of the second ones.


def read_pairs(path: files.Path, mode: str | None = None) -> Pairs:
  """Read a pickle of pairs, without running anything in it.

  It is a dict of `cids` (or `ids`), `cluster`, `qidxs` and `pidxs`, or a dict
  of such dicts by mode, "train" or "val". Without a mode there are no clusters.
  """
  content = untrusted.read_plain_pickle(path)
  if mode is not None:
    if mode not in _dict(content, "a dict by mode", path):
      raise errors.InputError(f"the mode '{mode}'", _keys(content), path)
    content = content[mode]
  content = _dict(content, "a dict of lists", path)
  names = _names(content.get("cids", content.get("ids")), path)
  queries, positives = (
    _integers(content, key, path) for key in ("qidxs", "pidxs")
  )
  for key, array in (("qidxs", queries), ("pidxs", positives)):
    if len(array) and not 0 <= array.min() <= array.max() < len(names):
      expected = f"'{key}' from 0 to {len(names) - 1}, places of images"
      received = f"{array.min()} to {array.max()}"
      raise errors.InputError(expected, received, path)
  if len(queries) != len(positives) or not len(queries):
    received = f"{len(queries)} and {len(positives)}"
    expected = "as many 'qidxs' as 'pidxs', one at least"
    raise errors.InputError(expected, received, path)
  clusters = None if mode is None else _integers(content, "cluster", path)
  if mode is not None and len(clusters) != len(names):
    expected = f"the 'cluster' of each of {len(names)} images"
    raise errors.InputError(expected, f"{len(clusters)}", path)
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


def _integers(content, key, path):
  """Return [n] int64 of a list of integers, or raise InputError."""
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


def _dict(content, expected, path):
  if not isinstance(content, dict):
    raise errors.InputError(expected, _kind(content), path)
  return content


def _keys(content):
  return ", ".join(map(repr, list(content)[:8])) or "nothing"


def _kind(value):
  return "none" if value is None else f"a {type(value).__name__}"


def database_path(name: str, data_root: str, eccv2020: bool = False) -> str:
  """Return the path of a data set's file, `train/<name>/` or beside it."""
  file = f"{name}-val-eccv2020.pkl" if eccv2020 else f"{name}.pkl"
  usual = os.path.join(data_root, "train", name, file)
  flat = os.path.join(data_root, file)
  return flat if os.path.exists(flat) and not os.path.exists(usual) else usual


def images_folder(path: str, data_root: str, name: str) -> str:
  """Return the images' folder of data set `name`, or else beside the file."""
  shared = os.path.join(data_root, "train", name, "ims")
  beside = os.path.join(os.path.dirname(path), "ims")
  return shared if os.path.isdir(shared) else beside


def image_path(image_id: str, prefix: files.Path | None) -> str:
  """Return the path of an image: `<prefix>/<56>/<34>/<12>/<..123456>`."""
  folders = [image_id[start:end] for start, end in _FOLDER_ENDS]
  return os.path.join(prefix or "", *folders, image_id)


def groups_of_folder(folder: files.Path) -> Groups:
  """Group photos by the folder that they are in, each one object or place."""
  groups = {}
  for path in files.find_images(folder):
    groups.setdefault(os.path.dirname(path), []).append(path)
  return sorted(groups.items())


def groups_of_csv(path: files.Path, images: str) -> Groups:
  """Group photos by `landmark_id` of a CSV file; `url` is below `images`."""
  rows = files.read_csv(path, header=True)
  _, columns = next(rows)
  try:
    url, landmark = columns.index("url"), columns.index("landmark_id")
  except ValueError:
    raise errors.InputError(
      "the columns url and landmark_id", ", ".join(columns) or "none", path
    ) from None
  groups = {}
  for line, row in rows:
    if len(row) <= max(url, landmark):
      raise errors.InputError(
        f"{len(columns)} columns", f"{len(row)}", f"{path}, line {line}"
      )
    photo = os.path.join(images, row[url])
    groups.setdefault(row[landmark], []).append(photo)
  return sorted(groups.items())


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of a data set of tuples."""

  # Share of the clusters held out for validation, in [0, 1).
  validation_share: float = 0.2
  seed: int = 0  # Of their choice.
  overwrite: bool = False  # Whether an existing data set is replaced.


def write_tuples(
  groups: Groups,
  name: str,
  data_root: files.Path,
  options: Options = Options(),
  say: Callable[[str], Any] = print,
) -> dict[str, dict[str, int]]:
  """Write photos, and which of them are pairs, for `TuplesDataset`.

  Photos of a group are pairs in the order of their names, each with the next
  one; a single photo only serves as a negative. `<name>-whiten.pkl` gets the
  pairs of the training, to learn a whitening. Groups of one name are never
  negatives of each other. All lies in `<data_root>/train/<name>`; `say` is
  called with a line for each photo that cannot be read. Returns numbers of
  photos, clusters and pairs, by mode.
  """
  folder = pathlib.Path(data_root, "train", name)
  database = folder / f"{name}.pkl"
  if database.exists() and not options.overwrite:
    expected = "a data_root without a data set of this name, or --overwrite"
    raise errors.InputError(expected, f"one with {database}", data_root)
  clusters = sorted({cluster for cluster, _ in groups})
  order = np.random.default_rng(options.seed).permutation(len(clusters))
  number = round(options.validation_share * len(order))
  held_out = {clusters[i] for i in order[:number]}
  numbers = {cluster: i for i, cluster in enumerate(clusters)}
  content, counts = {}, {}
  total = sum(len(paths) for _, paths in groups)
  with progress.count("copying photos", total) as bar:
    for mode in ("train", "val"):
      chosen = [g for g in groups if (g[0] in held_out) == (mode == "val")]
      pairs = {"cids": [], "cluster": [], "qidxs": [], "pidxs": []}
      for cluster, paths in chosen:
        first = len(pairs["cids"])
        for path in paths:
          image_id = _copy(path, folder / "ims", say)
          bar.update(1)
          if image_id:
            pairs["cids"].append(image_id)
            pairs["cluster"].append(numbers[cluster])
        for i in range(first, len(pairs["cids"]) - 1):
          pairs["qidxs"] += [i, i + 1]
          pairs["pidxs"] += [i + 1, i]
      if not pairs["qidxs"] and (mode == "train" or held_out):
        expected = f"groups of two photos or more to {mode} with"
        raise errors.InputError(expected, f"{len(chosen)} groups of one")
      content[mode] = pairs
      counts[mode] = {
        "photos": len(pairs["cids"]),
        "clusters": len(set(pairs["cluster"])),
        "pairs": len(pairs["qidxs"]),
      }
  whiten = folder / f"{name}-whiten.pkl"
  files.write_bytes(whiten, pickle.dumps(content["train"]))
  files.write_bytes(database, pickle.dumps(content))
  return counts


def _copy(path, folder, say):
  """Copy a photo to the place of its id, a digest; None if it is bad."""
  try:
    utils.image_size(path)
    data = files.read_bytes(path)
  except (errors.InputError, OSError) as error:
    say(f"{errors.one_line(error)}; left out")
    return None
  image_id = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
  target = pathlib.Path(image_path(image_id, folder))
  if not target.exists():
    files.write_bytes(target, data)
  return image_id
