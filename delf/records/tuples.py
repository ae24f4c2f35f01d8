"""The nearest images of other clusters, kept while images come in blocks.

Source: Radenovic et al., arXiv:1711.02512, section 3.2: the negatives of a
query are those that are nearest to it, of other clusters than its own, and one
at most of each cluster.
"""

import dataclasses
import hashlib
import os
import pathlib
import pickle

import numpy as np
from absl import logging

from delf.base import errors, files, progress
from delf.formats import untrusted
from delf.python import utils
from delf.python.datasets import generic_dataset


class NearestOfClusters:
  """Of Q queries, the nearest images so far, each of another cluster.

  Holds the queries' descriptors, [Q, K] images, and of one block its
  similarities, [Q, block].
  """

  def __init__(self, queries, clusters, number):
    """Takes the queries.

    Args:
      queries: [Q, D] float32 descriptors.
      clusters: [Q] int64, the cluster of each, which none is taken of.
      number: K, images to keep of each.
    """
    self._queries = np.asarray(queries, np.float32)
    self._own = np.asarray(clusters)
    shape = (len(self._queries), number)
    self._scores = np.full(shape, -np.inf, np.float32)
    self._images = np.full(shape, -1, np.int64)
    self._clusters = np.full(shape, -1, np.int64)
    self._squares = np.zeros(shape, np.float32)

  def add(self, images, descriptors, clusters):
    """Takes a block of images.

    Args:
      images: [n] int64, their numbers.
      descriptors: [n, D] float32; those that are not finite are left out.
      clusters: [n] int64.
    """
    finite = np.isfinite(descriptors).all(axis=1)
    images, clusters = (np.asarray(x)[finite] for x in (images, clusters))
    descriptors = np.asarray(descriptors, np.float32)[finite]
    if not len(images) or not self._scores.shape[1]:
      return
    order = np.argsort(clusters, kind="stable")
    images, clusters = images[order], clusters[order]
    descriptors = descriptors[order]
    squares = np.square(descriptors).sum(axis=1)
    scores, columns = _best_of_each(self._queries @ descriptors.T, clusters)
    groups = clusters[columns[0]]
    scores[groups == self._own[:, None]] = -np.inf
    nearest = _largest(scores, self._scores.shape[1])
    columns = np.take_along_axis(columns, nearest, axis=1)
    self._merge(
      np.take_along_axis(scores, nearest, axis=1),
      images[columns],
      clusters[columns],
      squares[columns],
    )

  def _merge(self, *block):
    """Takes [Q, k] scores, images, clusters and squares of a block."""
    kept = (self._scores, self._images, self._clusters, self._squares)
    scores, images, clusters, squares = (
      np.concatenate(pair, axis=1) for pair in zip(kept, block, strict=True)
    )
    # Of a cluster that is in both, the further image goes.
    same = self._clusters[:, :, None] == block[2][:, None, :]
    old, new = self._scores[:, :, None], block[0][:, None, :]
    scores[
      np.hstack([(same & (old < new)).any(2), (same & (old >= new)).any(1)])
    ] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    order = order[:, : self._scores.shape[1]]
    self._scores, self._images, self._clusters, self._squares = (
      np.take_along_axis(x, order, axis=1)
      for x in (scores, images, clusters, squares)
    )

  def images(self):
    """Returns [Q, K] int64, nearest first; -1 where there are not so many."""
    return np.where(np.isfinite(self._scores), self._images, -1)

  def distances(self):
    """Returns [Q, K] float64, L2 distances; NaN where there is no image."""
    own = np.square(self._queries.astype(np.float64)).sum(axis=1)[:, None]
    squares = own + self._squares - 2.0 * self._scores
    found = np.isfinite(self._scores)
    return np.sqrt(np.where(found, np.maximum(squares, 0.0), np.nan))


def _largest(scores, number):
  """Returns [Q, k] columns of the largest scores, in no order; k <= number."""
  if scores.shape[1] <= number:
    return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
  return np.argpartition(-scores, number - 1, axis=1)[:, :number]


def _best_of_each(scores, clusters):
  """Finds the best column of each cluster; columns are sorted by cluster.

  Args:
    scores: [Q, n] float32.
    clusters: [n] int64, ascending.

  Returns:
    Best scores [Q, C], and their columns [Q, C]; the first of equal ones.
  """
  starts = np.flatnonzero(np.r_[True, clusters[1:] != clusters[:-1]])
  best = np.maximum.reduceat(scores, starts, axis=1)
  sizes = np.diff(np.r_[starts, len(clusters)])
  is_best = scores == np.repeat(best, sizes, axis=1)
  columns = np.where(is_best, np.arange(len(clusters)), len(clusters))
  return best, np.minimum.reduceat(columns, starts, axis=1)


# Images of a block.
SIZE = 1024


def describe(paths, load, network, workers, label, source):
  """Describes images in blocks; one that cannot be read is reported.

  Args:
    paths: list of paths.
    load: Function of a path that returns an image, [H, W, 3] float32.
    network: Function of images [1, H, W, 3] float32 that returns [1, D].
    workers: Threads that load images ahead.
    label: Words of the progress.
    source: Path of the file that lists the images, for an error.

  Yields:
    [n, D] float32, of `SIZE` images but for the last block; NaN of an image
    that cannot be read.

  Raises:
    InputError: If none of the first block can be read.
  """
  futures = generic_dataset.ahead(load, paths, workers)
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
    if len(block) == SIZE:
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
  content = untrusted.read_plain_pickle(path)
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


# Names end in their folders, from the last characters on.
_FOLDER_ENDS = ((-2, None), (-4, -2), (-6, -4))


def database_path(name, data_root, eccv2020=False):
  """Returns the path of a data set's file, `train/<name>/` or beside it."""
  file = f"{name}-val-eccv2020.pkl" if eccv2020 else f"{name}.pkl"
  usual = os.path.join(data_root, "train", name, file)
  flat = os.path.join(data_root, file)
  return flat if os.path.exists(flat) and not os.path.exists(usual) else usual


def images_folder(path, data_root, name):
  """Returns the folder of the images: beside the file, or of the name.

  Args:
    path: Path of the data set's file.
    data_root: Folder of all data sets.
    name: Name of the data set whose images it may share.
  """
  beside = os.path.join(os.path.dirname(path), "ims")
  shared = os.path.join(data_root, "train", name, "ims")
  return shared if os.path.isdir(shared) else beside


def image_path(image_id, prefix):
  """Returns where an image lies: `<prefix>/<56>/<34>/<12>/<..123456>`."""
  folders = [image_id[start:end] for start, end in _FOLDER_ENDS]
  return os.path.join(prefix or "", *folders, image_id)


_DIGEST_BYTES = 16


def groups_of_folder(folder):
  """Finds photos by the folder that they are in: each is one object or place.

  Args:
    folder: Folder of folders of photos.

  Returns:
    list of (name of the cluster, list of paths).

  Raises:
    FileNotFoundError: If there is no such folder.
    InputError: If there are no photos in it.
  """
  groups = {}
  for path in files.find_images(folder):
    groups.setdefault(os.path.dirname(path), []).append(path)
  return sorted(groups.items())


def groups_of_csv(path, images):
  """Reads photos and what they show from a CSV file.

  Args:
    path: Path of a file with the columns `url` (path below `images`) and
      `landmark_id`.
    images: Folder of the photos.

  Returns:
    list of (name of the cluster, list of paths).

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If a column is missing.
  """
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
  """How the data set is made.

  Attributes:
    validation_share: Share of the clusters that are for validation, in [0, 1).
    seed: What the choice of these depends on.
    overwrite: Whether a data set of this name that is there is replaced.
  """

  validation_share: float = 0.2
  seed: int = 0
  overwrite: bool = False


def write(groups, name, data_root, options=Options(), say=print):
  """Writes photos, and which of them are pairs, as `TuplesDataset` reads them.

  Photos of a group are pairs in the order of their names, each with the next
  one; a group of one photo is there to be a negative. Also written is
  `<name>-whiten.pkl` with the pairs of the training, to learn a whitening.

  Args:
    groups: list of (name of the cluster, paths of photos that show one thing).
      Photos of clusters of one name are never negatives of each other.
    name: Name of the data set to be.
    data_root: Folder that gets `train/<name>/`.
    options: Options.
    say: Function of a line, for each photo that cannot be read and is left out.

  Returns:
    dict by mode of the numbers of its photos, clusters and pairs.

  Raises:
    InputError: If there is such a data set, or no group of a mode has two
      photos.
    OSError: If a file cannot be written.
  """
  folder = pathlib.Path(data_root, "train", name)
  database = folder / f"{name}.pkl"
  if database.exists() and not options.overwrite:
    raise errors.InputError(
      "a data_root without a data set of this name, or --overwrite",
      f"one with {database}",
      data_root,
    )
  clusters = sorted({cluster for cluster, _ in groups})
  order = np.random.default_rng(options.seed).permutation(len(clusters))
  number = round(options.validation_share * len(order))
  held = {clusters[i] for i in order[:number]}
  numbers = {cluster: i for i, cluster in enumerate(clusters)}
  content, counts = {}, {}
  total = sum(len(paths) for _, paths in groups)
  with progress.count("copying photos", total) as bar:
    places = _Places(folder / "ims", bar, say)
    for mode in ("train", "val"):
      chosen = [g for g in groups if (g[0] in held) == (mode == "val")]
      content[mode] = _pairs(chosen, places, numbers)
      if not content[mode]["qidxs"] and (mode == "train" or held):
        raise errors.InputError(
          f"groups of two photos or more to {mode} with",
          f"{len(chosen)} groups of one",
        )
      counts[mode] = {
        "photos": len(content[mode]["cids"]),
        "clusters": len(set(content[mode]["cluster"])),
        "pairs": len(content[mode]["qidxs"]),
      }
  whiten = folder / f"{name}-whiten.pkl"
  for path, found in ((whiten, content["train"]), (database, content)):
    files.write_bytes(path, pickle.dumps(found))
  return counts


def _pairs(groups, places, numbers):
  """Puts the photos of groups in their places; returns the dict of a mode."""
  found = {"cids": [], "cluster": [], "qidxs": [], "pidxs": []}
  for cluster, paths in groups:
    first = len(found["cids"])
    for image_id in filter(None, map(places.copy, paths)):
      found["cids"].append(image_id)
      found["cluster"].append(numbers[cluster])
    for i in range(first, len(found["cids"]) - 1):
      found["qidxs"] += [i, i + 1]
      found["pidxs"] += [i + 1, i]
  return found


class _Places:
  """Puts photos where their ids, digests of them, say."""

  def __init__(self, folder, bar, say):
    self._folder, self._bar, self._say = folder, bar, say

  def copy(self, path):
    """Copies a photo, if it is not there; returns its id, or None if bad."""
    try:
      utils.image_size(path)
      data = files.read_bytes(path)
    except (errors.InputError, OSError) as error:
      self._say(f"{errors.one_line(error)}; left out")
      return None
    finally:
      self._bar.update(1)
    image_id = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
    target = pathlib.Path(image_path(image_id, self._folder))
    if not target.exists():
      files.write_bytes(target, data)
    return image_id
