"""Tuples of a query, a positive and hard negatives, drawn each epoch."""

import concurrent.futures
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from delf.base import concurrency, errors
from delf.python.datasets.utils import default_loader
from delf.records import tuples

# Targets of the images of a tuple.
QUERY, POSITIVE, NEGATIVE = -1, 1, 0

_MODES = ("train", "val")


class TuplesDataset:
  """Training tuples; iterable and indexable.

  `create_epoch_tuples` chooses them, with descriptors of the queries and of one
  block of other images in memory, [queries + 1024, D] float32.

  Attributes:
    images: Paths of all N images.
    clusters: Cluster of each image, [N] int64; a cluster shows one object.
    query_pool: Candidate queries, [P] int64; `positive_pool` has the positive
      of each.
    qidxs: Queries of the tuples, [T] int64 indices of `images`; `pidxs` has the
      positives, and `nidxs` the negatives, [T, K], hardest first.
  """

  def __init__(  # noqa: PLR0913
    self,
    name: str,
    mode: str,
    data_root: str,
    imsize: int | None = None,
    num_negatives: int = 5,
    num_queries: float = 2000,
    pool_size: float = 20000,
    loader: Callable = default_loader,
    eccv2020: bool = False,
    seed: int = 0,
    workers: int = 4,
  ):
    """Read the list of images, without opening any.

    Args:
      mode: "train" or "val".
      data_root: Folder with `train/<name>/<name>.pkl` and `train/<name>/ims/`,
        or with the file and `ims/` themselves.
      imsize: Largest side of an image, in pixels; None keeps the size.
      num_queries: Queries per epoch; infinity for all.
      pool_size: Candidate negatives per epoch; infinity for all.
      loader: Function `loader(path, imsize)` that returns an image.
      eccv2020: Whether the file is `<name>-val-eccv2020.pkl`.
    """
    if mode not in _MODES:
      raise errors.InputError(f"mode must be 'train' or 'val', not {mode!r}")
    path = tuples.database_path(name, data_root, eccv2020)
    pairs = tuples.read_pairs(path, mode)
    folder = tuples.images_folder(path, data_root, name)
    self.name, self.mode, self.imsize = name, mode, imsize
    self.images = [tuples.image_path(each, folder) for each in pairs.names]
    self.clusters = np.asarray(pairs.clusters)
    self.query_pool, self.positive_pool = pairs.queries, pairs.positives
    self.workers = workers
    self._path, self._loader, self._seed = path, loader, seed
    self._negatives = _number("num_negatives", num_negatives, 0)
    self._queries = _number("num_queries", num_queries, 1, len(pairs.queries))
    self._pool = _number("pool_size", pool_size, 1, len(self.images))
    self._epoch = -1
    none = np.zeros([0], np.int64)
    self.set_tuples(none, none, np.zeros([0, self._negatives], np.int64))

  def __len__(self) -> int:
    """Return the number of tuples of the epoch."""
    return len(self.qidxs)

  def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
    """Return a tuple (query, positive, negative, ..., target).

    Images are [H, W, 3] float32 by default; the target is (-1, 1, 0, ...),
    [2 + K] int32.
    """
    if not len(self):
      raise errors.InputError("no tuples yet: call create_epoch_tuples first")
    members = [self.qidxs[index], self.pidxs[index], *self.nidxs[index]]
    images = [self._loader(self.images[i], self.imsize) for i in members]
    target = [QUERY, POSITIVE] + [NEGATIVE] * self._negatives
    return (*images, np.array(target, np.int32))

  def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
    load, numbers = self.__getitem__, range(len(self))
    return concurrency.map_ahead(load, numbers, self.workers, self.workers + 1)

  def load(self, indices: Iterable[int]) -> Iterator[concurrent.futures.Future]:
    """Load tuples ahead, as futures, so that failures do not end iteration."""
    load, workers = self.__getitem__, self.workers
    return concurrency.futures_ahead(load, indices, workers, workers + 1)

  def set_tuples(
    self, qidxs: np.ndarray, pidxs: np.ndarray, nidxs: np.ndarray
  ) -> None:
    """Set queries [T], positives [T] and negatives [T, K]."""
    arrays = [np.asarray(x, np.int64) for x in (qidxs, pidxs, nidxs)]
    shapes = [x.shape for x in arrays]
    number = len(arrays[0])
    if shapes != [(number,), (number,), (number, self._negatives)] or any(
      x.size and not 0 <= x.min() <= x.max() < len(self.images) for x in arrays
    ):
      raise errors.InputError(
        f"arrays of shapes {shapes} are not tuples of {2 + self._negatives} of"
        f" {len(self.images)} images"
      )
    self.qidxs, self.pidxs, self.nidxs = arrays

  def create_epoch_tuples(
    self, net: Callable, epoch: int | None = None
  ) -> float:
    """Draw queries, and find hard negatives for them.

    `net`, or its `describe`, maps images, [1, H, W, 3] float32, to descriptors,
    [1, D]. Draws depend on the seed and the epoch, by default the next one.
    Images that cannot be read are reported and skipped. Returns the mean L2
    distance of queries from their negatives; 0 without negatives.
    """
    self._epoch = self._epoch + 1 if epoch is None else epoch
    random = np.random.default_rng([self._seed, self._epoch])
    chosen = random.permutation(len(self.query_pool))[: self._queries]
    qidxs, pidxs = self.query_pool[chosen], self.positive_pool[chosen]
    if not self._negatives:
      self.set_tuples(qidxs, pidxs, np.zeros([len(qidxs), 0], np.int64))
      return 0.0
    pool = random.permutation(len(self.images))[: self._pool]
    self._require_clusters(qidxs, pool)
    describe = getattr(net, "describe", net)
    queries = np.concatenate(list(self._describe(qidxs, describe, "queries")))
    readable = np.isfinite(queries).all(axis=1)
    qidxs, pidxs = qidxs[readable], pidxs[readable]
    nearest = tuples.NearestOfClusters(
      queries[readable], self.clusters[qidxs], self._negatives
    )
    blocks = self._describe(pool, describe, "possible negatives")
    for number, descriptors in enumerate(blocks):
      images = pool[number * tuples.BLOCK_SIZE :][: len(descriptors)]
      nearest.add(images, descriptors, self.clusters[images])
    negatives = nearest.images()
    whole = (negatives >= 0).all(axis=1)
    if not whole.any():
      raise errors.InputError("too few negatives can be read", path=self._path)
    self.set_tuples(qidxs[whole], pidxs[whole], negatives[whole])
    return float(nearest.distances()[whole].mean())

  def _describe(self, indices, describe, label):
    return tuples.describe_blocks(
      [self.images[index] for index in indices],
      lambda path: self._loader(path, self.imsize),
      describe,
      self.workers,
      f"{self.mode}: {label}",
      self._path,
    )

  def require_negatives(self) -> None:
    """Raise InputError if queries cannot have `num_negatives` negatives."""
    self._require_clusters(self.query_pool, np.arange(len(self.images)))

  def _require_clusters(self, qidxs, pool):
    """Raise InputError if the pool has too few clusters for negatives."""
    clusters = np.unique(self.clusters[pool])
    own = np.isin(self.clusters[qidxs], clusters)
    fewest = len(clusters) - int(own.any())
    if fewest < self._negatives:
      raise errors.InputError(
        f"a query needs {self._negatives} negatives of different clusters, but"
        f" {len(pool)} images have only {fewest} other clusters",
        path=self._path,
      )


def _number(name, value, least, most=math.inf):
  """Check a number, which may be infinite, and clip it to `most`."""
  whole = value == math.inf or float(value).is_integer()
  if not whole or value < least:
    raise errors.InputError(f"{name} is {value}, not an integer from {least}")
  return int(min(value, most))
