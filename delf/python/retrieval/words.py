"""The nearest visual words of features, exactly or nearly so."""

import math

import numpy as np

# Words are looked up in the nearest of _CELLS * sqrt(K) cells of words. At 16
# of 1024 cells, for 65536 words, nearly nine of ten lookups find the nearest.
_CELLS = 4
_PROBES = 16
_CELL_ITERATIONS = 6
_CELL_SAMPLES = 64

# Products of features and words that are held at once: 32 MB. A fourth of it is
# as fast for 1024 words, and slower for 4096.
_PRODUCTS = 2**23


def nearest(features, centers):
  """Finds the nearest word of each feature.

  Args:
    features: [N, D] float32.
    centers: [K, D] float32, the words.

  Returns:
    [N] float32 squared distances, and [N] int64 words.
  """
  features = np.asarray(features, dtype=np.float32)
  distances = np.einsum("nd,nd->n", features, features)
  labels = np.empty([len(features)], dtype=np.int64)
  # The nearest has the largest x.c - |c|^2 / 2; of equal ones the first is it.
  halves = np.einsum("kd,kd->k", centers, centers) / 2
  rows = max(1, _PRODUCTS // len(centers))
  table = np.empty([min(rows, len(features)), len(centers)], dtype=np.float32)
  for first in range(0, len(features), rows):
    part = slice(first, first + rows)
    products = table[: len(features[part])]
    np.matmul(features[part], centers.T, out=products)
    products -= halves
    np.argmax(products, axis=1, out=labels[part])
    largest = np.take_along_axis(products, labels[part, np.newaxis], axis=1)
    distances[part] -= 2 * largest[:, 0]
  return np.maximum(distances, 0), labels


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
      distances[nowhere], labels[nowhere] = nearest(
        features[nowhere], self._centers
      )
    distances = np.maximum(distances, 0)
    if before is None:
      return distances, labels
    differences = features - self._centers[before]
    own = np.einsum("nd,nd->n", differences, differences)
    kept = np.where(own <= distances, before, labels)
    return np.minimum(distances, own), kept
