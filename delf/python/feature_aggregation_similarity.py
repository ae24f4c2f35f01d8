"""Similarity of two aggregated representations, as in the original."""

import numpy as np

from delf.aggregation import aggregate
from delf.base import errors
from delf.protos import aggregation_config_pb2

# Similarity of an image without words to any other.
_NO_WORDS = -1.0


class SimilarityAggregatedRepresentation:
  """Compares aggregated representations of one kind."""

  def __init__(
    self, aggregation_config: aggregation_config_pb2.AggregationConfig
  ):
    """Keep the configuration; its type is checked where it is used."""
    self._config = aggregation_config

  def ComputeSimilarity(
    self,
    aggregated_descriptors_1: np.ndarray,
    aggregated_descriptors_2: np.ndarray,
    feature_visual_words_1: np.ndarray | None = None,
    feature_visual_words_2: np.ndarray | None = None,
  ) -> float:
    """Compare two images, or an image and a set of regions.

    VLAD: the dot product. ASMK: the sum over words that both have of sigma(u)
    = sign(u) |u|^alpha where u > tau, else 0, divided by sqrt(M1 M2) with
    `use_l2_normalization` (G. Tolias et al., IJCV 2016, equations 4 and 9). u
    is the dot product, and for ASMK* 1 - 2 h / B of the Hamming distance h of B
    bits.

    Aggregated descriptors are: VLAD [K * D] float, ASMK [M * D] float, ASMK*
    [M * ceil(D / 8)] uint8. Visual words, [M] int, ascend; VLAD has none.

    Returns:
      Similarity; -1.0 for ASMK or ASMK* if one of them has no words.
    """
    kind = aggregate.kind_of(self._config)
    both = (aggregated_descriptors_1, aggregated_descriptors_2)
    if kind == aggregate.VLAD:
      one, two = map(np.ravel, both)
      if one.shape != two.shape:
        raise errors.InputError(f"VLADs of one size, {one.size}", f"{two.size}")
      return float(np.dot(one, two))
    words = [
      _check_words(each)
      for each in (feature_visual_words_1, feature_visual_words_2)
    ]
    rows = [self._rows(both[i], words[i], kind, i + 1) for i in (0, 1)]
    if not min(map(len, words)):
      return _NO_WORDS
    _, first, second = np.intersect1d(
      *words, assume_unique=True, return_indices=True
    )
    one, two = map(aggregate.lanes, (rows[0][first], rows[1][second]))
    kernel = aggregate.Kernel(
      kind == aggregate.ASMK_STAR,
      self._config.feature_dimensionality,
      self._config.alpha,
      self._config.tau,
    )
    total = float(kernel(one, two).sum())
    if self._config.use_l2_normalization:
      total /= np.sqrt(float(len(words[0])) * len(words[1]))
    return total

  def _rows(self, descriptors, words, kind, which):
    """Return descriptors as [M, width], checked."""
    array = np.asarray(descriptors)
    wanted = np.uint8 if kind == aggregate.ASMK_STAR else np.floating
    if array.size and not np.issubdtype(array.dtype, wanted):
      raise errors.InputError(
        f"aggregated descriptors {which} of type {wanted.__name__}",
        f"{array.dtype}",
      )
    dimension = self._config.feature_dimensionality
    width = -(-dimension // 8) if wanted is np.uint8 else dimension
    if array.size != len(words) * width:
      raise errors.InputError(
        f"aggregated descriptors {which} of {len(words)} words of {width}"
        " values each",
        f"{array.size} values",
      )
    return array.reshape(len(words), width)


def _check_words(words):
  if words is None:
    raise errors.InputError("visual words of both images", "none")
  words = np.ravel(words)
  if np.any(words[1:] <= words[:-1]):
    raise errors.InputError("ascending visual words", "others")
  return words
