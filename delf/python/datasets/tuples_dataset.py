"""Tuples of a query, a positive and hard negatives, drawn anew each epoch."""

import math

import numpy as np

from delf.base import errors
from delf.python.datasets import generic_dataset
from delf.python.datasets.utils import default_loader
from delf.records import tuples

# What each place of a tuple is.
QUERY, POSITIVE, NEGATIVE = -1, 1, 0

_MODES = ("train", "val")


class TuplesDataset:
  """Tuples to train with; iterable, with a length, and indexable.

  `create_epoch_tuples` chooses them. Descriptors are held of the queries and of
  a block of other images at a time, [queries + 1024, D] float32.

  Attributes:
    name: Name of the data set.
    mode: "train" or "val".
    images: list of paths of all images.
    clusters: [N] int64, the cluster of each: images of one show one object.
    query_pool: [P] int64, images that queries are drawn of.
    positive_pool: [P] int64, the positive of each.
    qidxs: [T] int64, queries of the tuples, as places in `images`.
    pidxs: [T] int64, positives of the tuples.
    nidxs: [T, K] int64, negatives of the tuples, the hardest first.
    workers: Threads that load images ahead.
  """

  def __init__(  # noqa: PLR0913
    self,
    name,
    mode,
    data_root,
    imsize=None,
    num_negatives=5,
    num_queries=2000,
    pool_size=20000,
    loader=default_loader,
    eccv2020=False,
    seed=0,
    workers=4,
  ):
    """Reads which images there are; none is opened.

    Args:
      name: Name of the data set, such as "retrieval-SfM-120k".
      mode: "train" or "val".
      data_root: Folder with `train/<name>/<name>.pkl` and
        `train/<name>/ims/`, or with the file and `ims/` themselves.
      imsize: Largest side of an image, in pixels; None leaves it.
      num_negatives: Negatives of a query.
      num_queries: Queries of an epoch; infinity for all there are.
      pool_size: Images that negatives are looked for in; infinity for all.
      loader: Function `loader(path, imsize)` that returns an image.
      eccv2020: Whether the file is `<name>-val-eccv2020.pkl`.
      seed: With the epoch, what the draws depend on.
      workers: Threads that load images ahead.

    Raises:
      FileNotFoundError: If there is no such file.
      InputError: If the mode or a number cannot be, or the file is not one.
    """
    if mode not in _MODES:
      raise errors.InputError("the mode 'train' or 'val'", repr(mode))
    path = tuples.database_path(name, data_root, eccv2020)
    pairs = tuples.read(path, mode)
    folder = tuples.images_folder(path, data_root, name)
    self.name, self.mode, self.imsize = name, mode, imsize
    self.images = [tuples.image_path(each, folder) for each in pairs.names]
    self.clusters = pairs.clusters
    self.query_pool, self.positive_pool = pairs.queries, pairs.positives
    self.workers = workers
    self._path, self._loader, self._seed = path, loader, seed
    self._negatives = _number("num_negatives", num_negatives, 0)
    self._queries = _number("num_queries", num_queries, 1, len(pairs.queries))
    self._pool = _number("pool_size", pool_size, 1, len(self.images))
    self._epoch = -1
    none = np.zeros([0], np.int64)
    self.set_tuples(none, none, np.zeros([0, self._negatives], np.int64))

  def __len__(self):
    """Returns the number of tuples of this epoch."""
    return len(self.qidxs)

  def __getitem__(self, index):
    """Returns a tuple (query, positive, negative, ..., target).

    Images are what the loader gives, [H, W, 3] float32, of sizes of their own;
    the target is [2 + K] int32: -1, 1, 0, ...

    Raises:
      InputError: If there are no tuples yet, or an image is none.
      FileNotFoundError: If an image is missing.
    """
    if not len(self):
      raise errors.InputError("a call of create_epoch_tuples", "none")
    places = [self.qidxs[index], self.pidxs[index], *self.nidxs[index]]
    images = [self._loader(self.images[i], self.imsize) for i in places]
    target = [QUERY, POSITIVE] + [NEGATIVE] * self._negatives
    return (*images, np.array(target, np.int32))

  def __iter__(self):
    """Yields the tuples in order, loading the next ones in threads."""
    for future in self.load(range(len(self))):
      yield future.result()

  def load(self, indices):
    """Loads tuples ahead, as futures, so that one that fails ends nothing.

    Args:
      indices: Which ones, in which order.

    Returns:
      Iterator of concurrent.futures.Future.
    """
    return generic_dataset.ahead(self.__getitem__, indices, self.workers)

  def set_tuples(self, qidxs, pidxs, nidxs):
    """Sets the tuples, for example those of an epoch that was interrupted.

    Args:
      qidxs: [T] int, places in `images`.
      pidxs: [T] int.
      nidxs: [T, K] int.
    """
    arrays = [np.asarray(x, np.int64) for x in (qidxs, pidxs, nidxs)]
    shapes = [(len(arrays[0]),)] * 2 + [(len(arrays[0]), self._negatives)]
    fits = [x.shape for x in arrays] == shapes and all(
      not x.size or 0 <= x.min() <= x.max() < len(self.images) for x in arrays
    )
    if not fits:
      raise errors.InputError(
        f"tuples of {2 + self._negatives} of {len(self.images)} images",
        f"arrays {[x.shape for x in arrays]}, or other images",
      )
    self.qidxs, self.pidxs, self.nidxs = arrays

  def create_epoch_tuples(self, net, epoch=None):
    """Draws queries, and finds hard negatives for them.

    An image that cannot be read is reported and left out.

    Args:
      net: Function of images [1, H, W, 3] float32 that returns descriptors
        [1, D], such as a GlobalFeatureNet, whose `describe` is called.
      epoch: What the draws depend on, with the seed; None for the one after
        the last.

    Returns:
      float, the average L2 distance of queries from their negatives; 0 where
      there are none.

    Raises:
      InputError: If there are too few clusters, or too few images that can be
        read.
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
      images = pool[number * tuples.SIZE :][: len(descriptors)]
      nearest.add(images, descriptors, self.clusters[images])
    found = nearest.images()
    whole = (found >= 0).all(axis=1)
    if not whole.any():
      raise errors.InputError(
        "negatives that can be read", "too few of them", self._path
      )
    self.set_tuples(qidxs[whole], pidxs[whole], found[whole])
    return float(nearest.distances()[whole].mean())

  def _describe(self, places, describe, words):
    """Yields descriptors of images in blocks, as `image_blocks.describe`."""
    return tuples.describe(
      [self.images[place] for place in places],
      lambda path: self._loader(path, self.imsize),
      describe,
      self.workers,
      f"{self.mode}: {words}",
      self._path,
    )

  def require_negatives(self):
    """Raises InputError if no draw could find so many negatives."""
    self._require_clusters(self.query_pool, np.arange(len(self.images)))

  def _require_clusters(self, qidxs, pool):
    """Raises InputError if a query cannot have so many negatives."""
    clusters = np.unique(self.clusters[pool])
    own = np.isin(self.clusters[qidxs], clusters)
    fewest = len(clusters) - int(own.any())
    if fewest < self._negatives:
      raise errors.InputError(
        f"{self._negatives} negatives of a query, each of another cluster",
        f"{fewest} other clusters among {len(pool)} images",
        self._path,
      )


def _number(name, value, least, most=math.inf):
  """Returns a number of things, at most `most`; infinity may be asked for."""
  whole = value == math.inf or float(value).is_integer()
  if not whole or value < least:
    raise errors.InputError(f"{name} of {least} or more", f"{value}")
  return int(min(value, most))
