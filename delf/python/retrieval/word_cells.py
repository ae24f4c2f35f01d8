"""The visual words nearest to features, or nearly so, by cells of words."""

import math

import numpy as np

from delf.python import nearest_words

# Words are looked up in the nearest of _CELLS * sqrt(K) cells of words. At 16
# of 1024 cells, for 65536 words, nearly nine of ten lookups find the nearest.
_CELLS = 4
_PROBES = 16
_CELL_ITERATIONS = 6
_CELL_SAMPLES = 64


def squared_distances(features, centers, labels):
  """Returns squared distances of features to their words, [N] float32.

  Args:
    features: [N, D] float32.
    centers: [K, D] float32, the words.
    labels: [N] int, the word of each feature.
  """
  differences = centers.take(labels, axis=0)
  np.subtract(features, differences, out=differences)
  return np.einsum("nd,nd->n", differences, differences)


class Cells:
  """Words in cells: a feature is compared with those of the cells near it.

  For each cell, the features that look into it are compared with its words by
  one matrix product, so that many features at once are much the faster.
  """

  def __init__(self, centers, seed=0):
    """Puts words into cells.

    Args:
      centers: [K, D] float32, the words.
      seed: int from 0 on; another one gives other cells.
    """
    import faiss

    number, size = centers.shape
    cells = max(1, min(number, int(_CELLS * math.sqrt(number))))
    coarse = faiss.Kmeans(
      size,
      cells,
      niter=_CELL_ITERATIONS,
      seed=seed + 1,
      min_points_per_centroid=1,
      max_points_per_centroid=_CELL_SAMPLES,
    )
    coarse.train(centers)
    self._coarse = coarse  # The index does not hold on to it.
    cell = coarse.index.search(centers, 1)[1][:, 0]
    order = np.argsort(cell, kind="stable")
    edges = np.searchsorted(cell[order], np.arange(cells + 1))
    self._words = np.split(order, edges[1:-1])
    half_squares = np.einsum("kd,kd->k", centers, centers) / 2
    self._products = [
      (np.ascontiguousarray(centers[words].T), half_squares[words])
      for words in self._words
    ]
    self._centers = centers

  def nearest(self, features, before=None):
    """Finds a near word of each feature, most often the nearest.

    Args:
      features: [N, D] float32.
      before: [N] int, words that are compared too, or None.

    Returns:
      [N] float32 squared distances, and [N] int64 words.
    """
    labels = self._look_up(features)
    nowhere = labels < 0  # All cells that were looked into are empty.
    if nowhere.any():
      words = nearest_words.Words(self._centers)
      labels[nowhere] = words.nearest(features[nowhere])[:, 0]
    distances = squared_distances(features, self._centers, labels)
    if before is None:
      return distances, labels
    own = squared_distances(features, self._centers, before)
    kept = np.where(own <= distances, before, labels)
    return np.minimum(distances, own), kept

  def _look_up(self, features):
    """Returns [N] int64, the best word of the cells near each; -1 for none."""
    labels = np.full([len(features)], -1, np.int64)
    best = np.full([len(features)], -np.inf, np.float32)
    probes = min(_PROBES, len(self._words))
    cells = self._coarse.index.search(features, probes)[1].ravel()
    # Sorted by their bytes where there are 16 bits of them, in linear time.
    order = np.argsort(cells.astype(np.uint16), kind="stable")
    edges = np.searchsorted(cells[order], np.arange(len(self._words) + 1))
    for cell, rows in enumerate(np.split(order // probes, edges[1:-1])):
      table, half_squares = self._products[cell]
      if not len(rows) or not len(half_squares):
        continue
      scores = features[rows] @ table
      scores -= half_squares
      place = scores.argmax(axis=1)
      score = scores[np.arange(len(rows)), place]
      better = score > best[rows]
      best[rows[better]] = score[better]
      labels[rows[better]] = self._words[cell][place[better]]
    return labels
