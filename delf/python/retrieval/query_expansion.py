"""Descriptors replaced by weighted means with their nearest ones."""

import dataclasses
import numbers

import numpy as np

from delf.python import errors
from delf.python.retrieval import exact_search

# Images whose nearest are gathered at once, as values: 64 MB of float32.
_VALUES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Expansion:
  """How many of the nearest are used, and with which weights.

  Alpha query expansion (Radenovic, Tolias and Chum, "Fine-tuning CNN Image
  Retrieval with No Human Annotation", PAMI 2019, on image representation and
  search): a query becomes the unit-length sum of itself and of its `number`
  nearest images, each times its similarity to the power `alpha`. With alpha 0
  it is average query expansion (Chum et al., "Total Recall", ICCV 2007). The
  paper has alpha 3 and 50 images for sets with many images of each place.

  Attributes:
    number: Nearest images that are used, n.
    alpha: Power of the similarity. A similarity below 0 counts as none.
  """

  number: int = 3
  alpha: float = 3.0

  def __post_init__(self):
    if type(self.number) is not int or self.number < 1:
      raise errors.InputError("a number of images over 0", repr(self.number))
    if not isinstance(self.alpha, numbers.Real) or not 0 <= self.alpha < np.inf:
      raise errors.InputError("an alpha of at least 0", repr(self.alpha))


# Chosen on groups of 2 to 8 photos (`benchmarks/retrieval_tuning.py`), where
# many more images do harm; collections with many of each place want more.
QUERY = Expansion()
DATABASE = Expansion(number=5)


def expand(queries, ids, descriptors, options=None):
  """Expands queries by the first images of their rankings.

  Args:
    queries: [Q, D] float, unit length.
    ids: [Q, k] int, ids of images, best first; -1 pads. The first
      `options.number` are used.
    descriptors: [N, D] float, unit length, zeros for an image without one;
      perhaps mapped from a file.
    options: Expansion, or None for QUERY.

  Returns:
    [Q, D] float32, unit length; zeros stay zeros.
  """
  options = options or QUERY
  ids = np.asarray(ids)[:, : options.number]
  expanded = np.array(queries, dtype=np.float32)
  step = max(1, _VALUES // max(1, ids.shape[1] * expanded.shape[1]))
  for start in range(0, len(expanded), step):
    rows = slice(start, start + step)
    expanded[rows] = _weighted(expanded[rows], ids[rows], descriptors, options)
  return unit_length(expanded)


def augment(descriptors, options=None):
  """Replaces each descriptor of a collection as `expand` does a query.

  Database-side augmentation (Turcot and Lowe, ICCV workshops 2009; of global
  descriptors: Gordo et al., "End-to-end Learning of Deep Visual Representations
  for Image Retrieval", IJCV 2017), with the weights of alpha query expansion.
  It is done once for an index; queries are searched as they are, or expanded.

  Args:
    descriptors: [N, D] float, unit length, zeros for an image without one;
      perhaps mapped from a file. Time grows with N squared.
    options: Expansion, or None for DATABASE.

  Returns:
    [N, D] float32, unit length; zeros stay zeros.
  """
  options = options or DATABASE
  augmented = np.zeros(descriptors.shape, np.float32)
  step = max(1, _VALUES // max(1, options.number * descriptors.shape[1]))
  for start in range(0, len(descriptors), step):
    rows = slice(start, start + step)
    own = descriptors[rows].astype(np.float32)
    found = exact_search.search(own, [descriptors], options.number + 1)
    ids = _without(found.ids, np.arange(start, start + len(own)))
    augmented[rows] = expand(own, ids, descriptors, options)
  return augmented


def unit_length(vectors):
  """Returns [N, D] float32 vectors at length 1; zeros stay zeros."""
  vectors = np.asarray(vectors, dtype=np.float32)
  lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors / np.where(lengths > 0, lengths, 1)


def _weighted(queries, ids, descriptors, options):
  """Returns the sums [Q, D] of queries and weighted images."""
  if not len(descriptors):
    return queries
  images = descriptors[np.maximum(ids, 0)].astype(np.float32, copy=False)
  similarity = np.einsum("qkd,qd->qk", images, queries)
  # No power of 0 for what is not there: 0 to the power of 0 is 1.
  weights = np.where(
    (ids >= 0) & (similarity > 0),
    np.maximum(similarity, 0) ** options.alpha,
    0,
  ).astype(np.float32)
  return queries + np.einsum("qk,qkd->qd", weights, images)


def _without(ids, own):
  """Returns [Q, k - 1]: ids less each row's own, or less the last."""
  is_own = ids == own[:, None]
  # Copies of an image have its similarity, and may have pushed it out.
  is_own[~is_own.any(axis=1), -1] = True
  return ids[~is_own].reshape(len(ids), -1)
