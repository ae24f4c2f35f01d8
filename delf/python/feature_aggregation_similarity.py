"""Similarity of two aggregated representations, as in the original."""

import numpy as np

from delf.aggregation import aggregate
from delf.base import errors

# What an image without words has with any other.
_NO_WORDS = -1.0


class SimilarityAggregatedRepresentation:
  """Compares aggregated representations of one kind."""

  def __init__(self, aggregation_config):
    """Creates it.

    Args:
      aggregation_config: AggregationConfig: type, dimension, alpha, tau and
        `use_l2_normalization` matter, as does the size of the codebook for
        VLAD. The type is checked where it is used.
    """
    self._config = aggregation_config

  def ComputeSimilarity(
    self,
    aggregated_descriptors_1,
    aggregated_descriptors_2,
    feature_visual_words_1=None,
    feature_visual_words_2=None,
  ):
    """Compares two images, or an image and a set of regions.

    VLAD: the dot product. ASMK: the sum over words that both have of sigma(u)
    = sign(u) |u|^alpha where u > tau, else 0, divided by sqrt(M1 M2) with
    `use_l2_normalization` (G. Tolias et al., IJCV 2016, equations 4 and 9). u
    is the dot product, and for ASMK* 1 - 2 h / B of the Hamming distance h of B
    bits.

    Args:
      aggregated_descriptors_1: VLAD [K * D] float, ASMK [M1 * D] float, ASMK*
        [M1 * ceil(D / 8)] uint8.
      aggregated_descriptors_2: The same of the other.
      feature_visual_words_1: [M1] int, ascending; not used for VLAD.
      feature_visual_words_2: [M2] int, ascending.

    Returns:
      float; -1.0 for ASMK or ASMK* if one of them has no words.

    Raises:
      InputError: If a type or size is not that of the configuration, or words
        are missing. It is a ValueError.
    """
    kind = aggregate.kind_of(self._config)
    both = (aggregated_descriptors_1, aggregated_descriptors_2)
    if kind == aggregate.VLAD:
      return _dot(*both)
    words = [
      _check_words(each)
      for each in (feature_visual_words_1, feature_visual_words_2)
    ]
    rows = [
      self._rows(*each, kind, which)
      for each, which in zip(zip(both, words, strict=True), (1, 2), strict=True)
    ]
    if not min(map(len, words)):
      return _NO_WORDS
    _, first, second = np.intersect1d(
      *words, assume_unique=True, return_indices=True
    )
    one, two = rows[0][first], rows[1][second]
    if kind == aggregate.ASMK_STAR:
      bits = aggregate.compared_bits(self._config.feature_dimensionality)
      shared = 1 - 2 * _hamming(one, two) / bits
    else:
      shared = np.einsum("ij,ij->i", one, two)
    values = aggregate.selectivity(shared, self._config.alpha, self._config.tau)
    total = float(values.sum())
    if self._config.use_l2_normalization:
      total /= np.sqrt(float(len(words[0])) * len(words[1]))
    return total

  def _rows(self, descriptors, words, kind, which):
    """Returns descriptors as [M, width], checked."""
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


def _dot(vlad_1, vlad_2):
  vlad_1, vlad_2 = np.ravel(vlad_1), np.ravel(vlad_2)
  if vlad_1.shape != vlad_2.shape:
    raise errors.InputError(
      f"VLADs of one size, {vlad_1.size}", f"{vlad_2.size}"
    )
  return float(np.dot(vlad_1, vlad_2))


def _check_words(words):
  if words is None:
    raise errors.InputError("visual words of both images", "none")
  words = np.ravel(words)
  if np.any(words[1:] <= words[:-1]):
    raise errors.InputError("ascending visual words", "others")
  return words


def _hamming(bits_1, bits_2):
  """Returns the number of bits that differ in each row, [M]."""
  return np.unpackbits(bits_1 ^ bits_2, axis=1).sum(axis=1, dtype=np.int64)
