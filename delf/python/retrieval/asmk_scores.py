"""How alike two aggregated images are, by the words that they share (ASMK)."""

import dataclasses
import functools
import math
import numbers

import numpy as np

from delf.protos import aggregation_config_pb2
from delf.python import asmk_kernel, errors

# So that a damaged file cannot ask for tables that fill the memory.
_MAX_DIMENSION = 1 << 16
_MAX_WORDS = (1 << 31) - 1


@dataclasses.dataclass(frozen=True)
class AsmkOptions:
  """What is compared, and how.

  Attributes:
    packed: Whether descriptors are signs, eight to a byte (ASMK*), or float32
      (ASMK).
    dimension: Dimension of the local features.
    codebook_size: Number of visual words.
    alpha: Exponent of the selectivity, 0 or over.
    tau: Similarity of two descriptors that must be exceeded to count.
    normalize: Whether scores are divided by sqrt(words of the query * words of
      the image): `use_l2_normalization` of the index configuration.
  """

  packed: bool = True
  dimension: int = 128
  codebook_size: int = 65536
  alpha: float = 3.0
  tau: float = 0.0
  normalize: bool = True

  def __post_init__(self):
    for name, most in (
      ("dimension", _MAX_DIMENSION),
      ("codebook_size", _MAX_WORDS),
    ):
      value = getattr(self, name)
      if not _is_number(value, numbers.Integral) or not 1 <= value <= most:
        raise errors.InputError(f"{name} of 1 to {most}", repr(value))
    for name in ("alpha", "tau"):
      value = getattr(self, name)
      if not _is_number(value, numbers.Real) or not math.isfinite(value):
        raise errors.InputError(f"{name} that is finite", repr(value))
    if self.alpha < 0:
      raise errors.InputError("alpha of 0 or over", self.alpha)
    for name in ("packed", "normalize"):
      if not isinstance(getattr(self, name), bool):
        raise errors.InputError(f"{name} true or false", getattr(self, name))

  @classmethod
  def from_config(cls, config):
    """Returns the options of an AggregationConfig, that of the *index*.

    Raises:
      InputError: If its type is another than ASMK and ASMK_STAR.
    """
    types = aggregation_config_pb2.AggregationConfig
    if config.aggregation_type not in (types.ASMK, types.ASMK_STAR):
      raise errors.InputError(
        "aggregation_type ASMK or ASMK_STAR for an inverted index",
        types.AggregationType.Name(config.aggregation_type),
      )
    return cls(
      packed=config.aggregation_type == types.ASMK_STAR,
      dimension=config.feature_dimensionality,
      codebook_size=config.codebook_size,
      alpha=config.alpha,
      tau=config.tau,
      normalize=config.use_l2_normalization,
    )

  @property
  def width(self):
    """Values of one descriptor as it is stored: bytes, or floats."""
    return -(-self.dimension // 8) if self.packed else self.dimension

  @property
  def dtype(self):
    """Type of these values."""
    return np.dtype(np.uint8 if self.packed else np.float32)


class Kernel:
  """Computes sigma(u) for pairs of descriptors of one word."""

  def __init__(self, options):
    self._options = options
    if options.packed:
      distances = np.arange(8 * options.width + 1)
      bits = asmk_kernel.compared_bits(options.dimension)
      self._table = self._selectivity(1 - 2 * distances / bits)

  def __call__(self, first, second):
    """Compares descriptors row by row.

    Args:
      first: [P, L] lanes (see `lanes`), or [P, D] float32.
      second: The same. It may be overwritten.

    Returns:
      [P] float64, sigma(u) of each pair.
    """
    if self._options.packed:
      return self._table[_hamming(first, second)]
    products = np.einsum("ij,ij->i", first, second)
    return self._selectivity(products)

  def _selectivity(self, values):
    options = self._options
    return asmk_kernel.selectivity(values, options.alpha, options.tau)


def lanes(descriptors):
  """Returns packed bits as the widest integers that they are made of.

  Args:
    descriptors: [P, B] array, C order; packed if uint8, else it is returned.

  Returns:
    [P, B / n] array of unsigned integers of n = 8, 4, 2 or 1 bytes: a view.
  """
  if descriptors.dtype != np.uint8:
    return descriptors
  width = descriptors.shape[1]
  size = next(size for size in (8, 4, 2, 1) if width % size == 0)
  return descriptors.view(np.dtype(f"u{size}"))


def _hamming(first, second):
  """Returns [P] intp, bits in which rows of lanes differ."""
  differing = np.bitwise_xor(first, second, out=second)
  counts = _count_bits(differing)
  # A reduction over so short an axis takes longer than these few sums.
  distances = counts[:, 0].astype(np.intp)
  for lane in range(1, counts.shape[1]):
    distances += counts[:, lane]
  return distances


def _count_bits_by_table(values):
  """Counts bits, 16 or 8 at a time; for NumPy before 2.0."""
  part = np.uint16 if values.itemsize > 1 else np.uint8
  return _bits_of_16()[values.view(part)]


@functools.cache
def _bits_of_16():
  values = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 2)
  return np.unpackbits(values, axis=1).sum(axis=1, dtype=np.uint8)


_count_bits = getattr(np, "bitwise_count", _count_bits_by_table)


def _is_number(value, kind):
  return isinstance(value, kind) and not isinstance(value, bool)
