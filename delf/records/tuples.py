"""Tuples of a query, a positive and negatives: files and hard negatives.

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

# Images per block of descriptors.
BLOCK_SIZE = 1024
_FOLDERS = 6  # Last characters of an image's name, which name its folders.
_FOLDER_ENDS = ((-2, None), (-4, -2), (-6, -4))
_DIGEST_BYTES = 16


class NearestOfClusters:
  """The K nearest images of each of Q queries, at most one per cluster.

  The query's own cluster is excluded. Memory is [Q, K] images and [Q, block]
  similarities.
  """

  def __init__(self, queries: np.ndarray, clusters: np.ndarray, number: int):
    """Take queries, [Q, D] float32, their clusters, and K."""
    self._queries = np.asarray(queries, np.float32)
    self._own, self._number = np.asarray(clusters), number
    shape = (len(self._queries), number)
    # [Q, K] scores, images, clusters and squared lengths of descriptors.
    self._kept: tuple[np.ndarray, ...] = (
      np.full(shape, -np.inf, np.float32),
      np.full(shape, -1, np.int64),
      np.full(shape, -1, np.int64),
      np.zeros(shape, np.float32),
    )

  def add(
    self, images: np.ndarray, descriptors: np.ndarray, clusters: np.ndarray
  ) -> None:
    """Add a block of n images: numbers, [n, D] descriptors, [n] clusters.

    Images whose descriptors are not finite are skipped.
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
    """Merge [Q, k] scores, images, clusters and squares of a block."""
    old, new = self._kept[0][:, :, None], block[0][:, None, :]
    same = self._kept[2][:, :, None] == block[2][:, None, :]
    scores, *others = map(np.hstack, zip(self._kept, block, strict=True))
    # Of a cluster in both, the farther image is dropped.
    scores[
      np.hstack([(same & (old < new)).any(2), (same & (old >= new)).any(1)])
    ] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, : self._number]
    self._kept = tuple(
      np.take_along_axis(x, order, axis=1) for x in (scores, *others)
    )

  def images(self) -> np.ndarray:
    """Return the numbers of images, [Q, K] int64, nearest first, -1 padding."""
    return np.where(np.isfinite(self._kept[0]), self._kept[1], -1)

  def distances(self) -> np.ndarray:
    """Return the L2 distances of images, [Q, K] float64, NaN padding."""
    own = np.square(self._queries.astype(np.float64)).sum(axis=1)[:, None]
    scores = self._kept[0]
    squares = np.maximum(own + self._kept[3] - 2.0 * scores, 0.0)
    return np.sqrt(np.where(np.isfinite(scores), squares, np.nan))


def _largest(scores, number):
  """Return columns of the largest scores, [Q, k], k <= number, unordered."""
  if scores.shape[1] <= number:
    return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
  return np.argpartition(-scores, number - 1, axis=1)[:, :number]


def _best_of_each(scores, clusters):
  """Return the best score of each cluster, and its first column, [Q, C]."""
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
  """Yield descriptors, [n, D] float32, of blocks of `BLOCK_SIZE` images.

  `load` returns the image at a path, [H, W, 3] float32; `network` maps [1, H,
  W, 3] to [1, D]. `source` is the file that lists the images, named in errors.
  Images that cannot be read are reported, and have NaN.
  """
  futures = concurrency.futures_ahead(load, paths, workers, workers + 1)
  block: list[np.ndarray | None] = []
  size = None
  tracked = progress.track(futures, label, len(paths))
  for number, (path, future) in enumerate(zip(paths, tracked, strict=True), 1):
    try:
      vector = np.asarray(network(future.result()[None]), np.float32)[0]
      size = len(vector)
    except (errors.InputError, OSError) as error:
      # Errors of photos too small for the network have no path.
      logging.warning("skipped %s: %s", path, errors.one_line(error))
      vector = None
    block.append(vector)
    if len(block) == BLOCK_SIZE or number == len(paths):
      if size is None:
        text = f"no image of {len(block)} is readable"
        raise errors.InputError(text, path=source)
      missing = np.full([size], np.nan, np.float32)
      yield np.stack([missing if each is None else each for each in block])
      block = []


@dataclasses.dataclass(frozen=True)
class Pairs:
  """N photos, and pairs of them."""

  names: list[str]  # Ids of the photos.
  # Object or place of each photo, [N] int64; None in files for whitening.
  clusters: np.ndarray | None
  queries: np.ndarray  # [P] int64, indices of the first photos of pairs.
  positives: np.ndarray  # [P] int64, indices of the second ones.


def read_pairs(path: files.Path, mode: str | None = None) -> Pairs:
  """Read a pickle of pairs, without running code in it.

  The file is a dict of `cids` (or `ids`), `cluster`, `qidxs` and `pidxs`, or
  has such a dict by mode, "train" and "val". Without a mode, clusters are None.
  """
  content = _dict(untrusted.read_plain_pickle(path), path)
  if mode is not None:
    if mode not in content:
      text = f"no mode '{mode}', only {_keys(content)}"
      raise errors.InputError(text, path=path)
    content = _dict(content[mode], path)
  names = _names(content.get("cids", content.get("ids")), path)
  keys = "qidxs", "pidxs"
  queries, positives = (_integers(content, key, path) for key in keys)
  for key, array in zip(keys, (queries, positives), strict=True):
    if len(array) and not 0 <= array.min() <= array.max() < len(names):
      text = f"'{key}' is {array.min()} to {array.max()}, but images are"
      raise errors.InputError(f"{text} 0 to {len(names) - 1}", path=path)
  if len(queries) != len(positives) or not len(queries):
    text = f"{len(queries)} and {len(positives)} 'qidxs' and 'pidxs'"
    raise errors.InputError(f"{text} are not one or more pairs", path=path)
  clusters = None if mode is None else _integers(content, "cluster", path)
  if clusters is not None and len(clusters) != len(names):
    text = f"'cluster' has {len(clusters)} values for {len(names)} images"
    raise errors.InputError(text, path=path)
  return Pairs(names, clusters, queries, positives)


def _names(names, path):
  if not isinstance(names, list | tuple | np.ndarray) or not len(names):
    text = f"'cids' must be a list of image names, not {_kind(names)}"
    raise errors.InputError(text, path=path)
  names = [str(name) if isinstance(name, str) else name for name in names]
  for name in names:
    plain = isinstance(name, str) and os.path.basename(name) == name
    # Parts become folders, which must be inside the folder of the images.
    if not plain or len(name) < _FOLDERS or ".." in name or "\0" in name:
      text = f"{name!r} is not an image name of {_FOLDERS} or more characters"
      raise errors.InputError(text, path=path)
  return names


def _integers(content, key, path):
  if key not in content:
    raise errors.InputError(f"no '{key}', only {_keys(content)}", path=path)
  try:
    array = np.asarray(content[key])
  except ValueError:  # Lists of several lengths.
    array = np.zeros([1, 1])
  if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
    text = f"'{key}' must be a list of integers, not {array.dtype} of shape"
    raise errors.InputError(f"{text} {list(array.shape)}", path=path)
  return array.astype(np.int64)


def _dict(content, path):
  if not isinstance(content, dict):
    text = f"{_kind(content)} instead of a dict of lists, or of dicts by mode"
    raise errors.InputError(text, path=path)
  return content


def _keys(content):
  return ", ".join(map(repr, list(content)[:8])) or "nothing"


def _kind(value):
  return "None" if value is None else f"a {type(value).__name__}"


def database_path(name: str, data_root: str, eccv2020: bool = False) -> str:
  """Return the path of a data set's file, in `train/<name>/` or `data_root`."""
  file = f"{name}-val-eccv2020.pkl" if eccv2020 else f"{name}.pkl"
  usual = os.path.join(data_root, "train", name, file)
  flat = os.path.join(data_root, file)
  return flat if os.path.exists(flat) and not os.path.exists(usual) else usual


def images_folder(path: str, data_root: str, name: str) -> str:
  """Return the images' folder of a data set, shared or beside its file."""
  shared = os.path.join(data_root, "train", name, "ims")
  beside = os.path.join(os.path.dirname(path), "ims")
  return shared if os.path.isdir(shared) else beside


def image_path(image_id: str, prefix: files.Path | None) -> str:
  """Return the path of an image: `<prefix>/<56>/<34>/<12>/<..123456>`."""
  folders = [image_id[start:end] for start, end in _FOLDER_ENDS]
  return os.path.join(prefix or "", *folders, image_id)


def groups_of_folder(folder: files.Path) -> Groups:
  """Group photos by their folder; each folder is one object or place."""
  groups: dict[str, list[str]] = {}
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
    text = f"the columns url and landmark_id are required, not {columns}"
    raise errors.InputError(text, path=path) from None
  groups: dict[str, list[str]] = {}
  for line, row in rows:
    if len(row) <= max(url, landmark):
      text = f"{len(row)} columns, not {len(columns)}"
      raise errors.InputError(text, path=f"{path}, line {line}")
    photo = os.path.join(images, row[url])
    groups.setdefault(row[landmark], []).append(photo)
  return sorted(groups.items())


def write_tuples(
  groups: Groups,
  name: str,
  data_root: files.Path,
  validation_share: float = 0.2,
  seed: int = 0,
  overwrite: bool = False,
  say: Callable[[str], Any] = print,
) -> dict[str, dict[str, int]]:
  """Write photos and pairs of them for `TuplesDataset`.

  Consecutive photos of a group are pairs, in the order of their names; single
  photos only serve as negatives. `<name>-whiten.pkl` gets the training pairs,
  to learn a whitening. Groups of the same name are never negatives of each
  other. A share of the groups in [0, 1), chosen by `seed`, is held out for
  validation. Files are in `<data_root>/train/<name>`. `say` is called with a
  line for each photo that cannot be read. Returns the numbers of photos,
  clusters and pairs, by mode.
  """
  folder = pathlib.Path(data_root, "train", name)
  database = folder / f"{name}.pkl"
  if database.exists() and not overwrite:
    text = f"the data set exists; --overwrite replaces it: {database}"
    raise errors.InputError(text, path=data_root)
  clusters = sorted({cluster for cluster, _ in groups})
  order = np.random.default_rng(seed).permutation(len(clusters))
  number = round(validation_share * len(order))
  held_out = {clusters[i] for i in order[:number]}
  numbers = {cluster: i for i, cluster in enumerate(clusters)}
  content, counts = {}, {}
  total = sum(len(paths) for _, paths in groups)
  with progress.count("copying photos", total) as bar:
    for mode in ("train", "val"):
      chosen = [g for g in groups if (g[0] in held_out) == (mode == "val")]
      ids: list[str] = []
      own, queries, positives = (list[int]() for _ in range(3))
      for cluster, paths in chosen:
        first = len(ids)
        for path in paths:
          if image_id := _copy(path, folder / "ims", say):
            ids.append(image_id)
            own.append(numbers[cluster])
          bar.update(1)
        for i in range(first, len(ids) - 1):
          queries += [i, i + 1]
          positives += [i + 1, i]
      if not queries and (mode == "train" or held_out):
        text = f"{mode} needs groups of two photos or more"
        raise errors.InputError(f"{text}: {len(chosen)} groups have one each")
      lists = {"cids": ids, "cluster": own}
      content[mode] = lists | {"qidxs": queries, "pidxs": positives}
      sizes = map(len, (ids, set(own), queries))
      counts[mode] = dict(
        zip(("photos", "clusters", "pairs"), sizes, strict=True)
      )
  whiten = folder / f"{name}-whiten.pkl"
  files.write_bytes(whiten, pickle.dumps(content["train"]))
  files.write_bytes(database, pickle.dumps(content))
  return counts


def _copy(path, folder, say):
  """Copy a photo to the path of its id, a digest; return None if it is bad."""
  try:
    utils.image_size(path)
    data = files.read_bytes(path)
  except (errors.InputError, OSError) as error:
    say(f"{errors.one_line(error)}; skipped")
    return None
  image_id = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
  target = pathlib.Path(image_path(image_id, folder))
  if not target.exists():
    files.write_bytes(target, data)
  return image_id
