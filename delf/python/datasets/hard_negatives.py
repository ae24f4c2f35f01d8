"""The nearest images of other clusters, kept while images come in blocks.

Source: Radenovic et al., arXiv:1711.02512, section 3.2: the negatives of a
query are those that are nearest to it, of other clusters than its own, and one
at most of each cluster.
"""

import numpy as np


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
