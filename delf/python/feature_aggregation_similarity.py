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
  ) -> None:
    self._config = aggregation_config

  def ComputeSimilarity(
    self,
    aggregated_descriptors_1: np.ndarray,
    aggregated_descriptors_2: np.ndarray,
    feature_visual_words_1: np.ndarray | None = None,
    feature_visual_words_2: np.ndarray | None = None,
  ) -> float:
    """Return the similarity of two images, or of an image and its regions.

    The similarity of VLADs is their dot product. For ASMK it is the sum over
    shared words of sigma(u) = sign(u) |u|^alpha if u > tau, else 0, divided by
    sqrt(M1 M2) with `use_l2_normalization` (G. Tolias et al., IJCV 2016,
    equations 4 and 9), or -1.0 if an image has no words. u is the dot product
    or, for ASMK*, 1 - 2 h / B with the Hamming distance h of B bits.

    Aggregated descriptors are [K * D] float for VLAD, [M * D] float for ASMK,
    and [M * ceil(D / 8)] uint8 for ASMK*. Visual words are [M] int, ascending;
    VLAD has none.
    """
    kind = aggregate.kind_of(self._config)
    both = (aggregated_descriptors_1, aggregated_descriptors_2)
    if kind == aggregate.VLAD:
      one, two = map(np.ravel, both)
      if one.shape != two.shape:
        raise errors.InputError(
          f"VLADs must have one size, not {one.size} and {two.size}"
        )
      return float(np.dot(one, two))
    words_1 = _check_words(feature_visual_words_1)
    words_2 = _check_words(feature_visual_words_2)
    rows_1 = self._rows(both[0], words_1, kind, 1)
    rows_2 = self._rows(both[1], words_2, kind, 2)
    if not len(words_1) or not len(words_2):
      return _NO_WORDS
    _, first, second = np.intersect1d(
      words_1, words_2, assume_unique=True, return_indices=True
    )
    one, two = map(aggregate.lanes, (rows_1[first], rows_2[second]))
    kernel = aggregate.Kernel(
      kind == aggregate.ASMK_STAR,
      self._config.feature_dimensionality,
      self._config.alpha,
      self._config.tau,
    )
    total = float(kernel(one, two).sum())
    if self._config.use_l2_normalization:
      total /= np.sqrt(float(len(words_1)) * len(words_2))
    return total

  def _rows(self, descriptors, words, kind, which):
    """Return checked descriptors as [M, width]."""
    array = np.asarray(descriptors)
    type_ = np.uint8 if kind == aggregate.ASMK_STAR else np.floating
    if array.size and not np.issubdtype(array.dtype, type_):
      raise errors.InputError(
        f"aggregated descriptors {which} must be {type_.__name__}, not "
        f"{array.dtype}"
      )
    dimension = self._config.feature_dimensionality
    width = -(-dimension // 8) if type_ is np.uint8 else dimension
    if array.size != len(words) * width:
      raise errors.InputError(
        f"aggregated descriptors {which} must have {width} values for each of "
        f"{len(words)} words, not {array.size} values in all"
      )
    return array.reshape(len(words), width)


def _check_words(words):
  if words is None:
    raise errors.InputError("ASMK requires the visual words of both images")
  words = np.ravel(words)
  if np.any(words[1:] <= words[:-1]):
    raise errors.InputError("visual words must be ascending")
  return words
