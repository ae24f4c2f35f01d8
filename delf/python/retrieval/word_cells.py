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
  """Words in cells: a feature is compared with those of the cells near it."""

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
    self._index = faiss.IndexIVFFlat(coarse.index, size, cells)
    self._index.add(centers)
    self._index.nprobe = _PROBES
    self._centers = centers

  def nearest(self, features, before=None):
    """Finds a near word of each feature, most often the nearest.

    Args:
      features: [N, D] float32.
      before: [N] int, words that are compared too, or None.

    Returns:
      [N] float32 squared distances, and [N] int64 words.
    """
    distances, labels = (each[:, 0] for each in self._index.search(features, 1))
    nowhere = labels < 0  # All cells that were looked into are empty.
    if nowhere.any():
      words = nearest_words.Words(self._centers)
      labels[nowhere] = words.nearest(features[nowhere])[:, 0]
      distances[nowhere] = squared_distances(
        features[nowhere], self._centers, labels[nowhere]
      )
    distances = np.maximum(distances, 0)
    if before is None:
      return distances, labels
    own = squared_distances(features, self._centers, before)
    kept = np.where(own <= distances, before, labels)
    return np.minimum(distances, own), kept
