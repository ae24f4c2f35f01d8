"""Aggregation of local features by visual words: VLAD, ASMK and ASMK*.

VLAD: H. Jegou et al., CVPR 2010. ASMK and ASMK*: G. Tolias et al., IJCV 2016.
The regional forms: M. Teichmann et al., CVPR 2019 (Detect-to-Retrieve). The sum
of each word is a row of its own; no array is as large as the codebook but the
VLAD itself.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence

import numpy as np

from delf.aggregation import visual_words
from delf.base import arrays, errors, files
from delf.protos import aggregation_config_pb2
from delf.python import datum_io

VLAD, ASMK, ASMK_STAR = KINDS = ("vlad", "asmk", "asmk_star")

Words = visual_words.Words

# Least squared length in the original's L2 normalisation.
_LEAST_SQUARE = 1e-12
# ASMK omits words whose residual is not longer than this.
_LEAST_LENGTH = 1e-6


@dataclasses.dataclass(frozen=True)
class AggregateOptions:
  """Options of aggregation."""

  kind: str = ASMK_STAR  # One of KINDS.
  num_assignments: int = 1  # Nearest words that each feature counts for.
  regional: bool = False  # Whether features are those of regions of the image.
  # Whether a VLAD is L2-normalised; ASMK is when it is compared.
  normalize: bool = True

  def __post_init__(self):
    if self.kind not in KINDS:
      raise errors.InputError(f"a kind of {', '.join(KINDS)}", self.kind)
    if not isinstance(self.num_assignments, int | np.integer):
      raise errors.InputError(
        "a whole num_assignments", f"{self.num_assignments!r}"
      )


@dataclasses.dataclass(frozen=True)
class Aggregated:
  """An image, or a set of regions, as one set of aggregated descriptors."""

  # VLAD: [K * D] float32. ASMK: [M, D] float32, rows of length 1. ASMK*:
  # [M, ceil(D / 8)] uint8, bits of the signs (1 for over 0), the first
  # dimension in the highest bit, zeros behind the last.
  descriptors: np.ndarray
  words: np.ndarray | None = None  # [M] int32, ascending; None for VLAD.


def aggregate(
  words: Words,
  descriptors: np.ndarray,
  options: AggregateOptions | None = None,
  regions: Sequence[int] | np.ndarray | None = None,
) -> Aggregated:
  """Aggregate the local features of an image.

  Without features a VLAD is zero, and others have no words.

  Args:
    descriptors: [N, D] float; any empty array stands for no features. Those of
      regions stand one region after the other.
    regions: [R] int, number of features in each region; they sum to N. Without
      regions (None or empty) a regional aggregate is that of no features, as in
      the original. Used for regional aggregates alone, and checked in any case.
  """
  options = options or AggregateOptions()
  descriptors = words.check(descriptors)
  regions = _check_regions(regions, len(descriptors))
  if options.regional and not len(regions):
    descriptors = descriptors[:0]
  nearest = words.nearest_of_checked(descriptors, options.num_assignments)
  if not options.regional:
    own, sums = _sum_residuals(words, descriptors, nearest, nearest)
  else:
    # The sum over regions of their L2-normalised VLADs.
    region = np.repeat(np.arange(len(regions)), regions)
    keys = region[:, None] * len(words) + nearest
    keys, rows = _sum_residuals(words, descriptors, nearest, keys)
    region, own = np.divmod(keys, len(words))
    squares = np.einsum("ij,ij->i", rows, rows)
    lengths = _lengths(np.bincount(region, weights=squares))
    rows /= lengths[region, None]
    order = arrays.stable_argsort(own)
    own, sums = _sum_rows(own[order], rows[order])
    if len(regions) and not (options.kind == VLAD and options.normalize):
      sums /= np.float32(len(regions))
  if options.kind == VLAD:
    vlad = np.zeros([len(words), words.dimension], dtype=np.float32)
    vlad[own] = sums
    if options.normalize:
      vlad /= _lengths(np.einsum("ij,ij->", sums, sums, dtype=np.float64))
    return Aggregated(vlad.reshape(-1))
  squares = np.einsum("ij,ij->i", sums, sums)
  keep = np.sqrt(squares) > _LEAST_LENGTH
  rows, own = sums[keep], own[keep].astype(np.int32)
  if options.kind == ASMK_STAR:
    return Aggregated(np.packbits(rows > 0, axis=1), own)
  return Aggregated(rows / _lengths(squares[keep])[:, None], own)


def _sum_residuals(words, descriptors, nearest, keys):
  """Sum residuals to the [N, A] nearest words that have the same [N, A] key.

  Returns [M] int keys, ascending, and [M, D] float32 sums, each in the order of
  the features.
  """
  order = arrays.stable_argsort(keys.reshape(-1))
  residuals = descriptors[order // nearest.shape[1]]
  residuals -= words.centers[nearest.reshape(-1)[order]]
  return _sum_rows(keys.reshape(-1)[order], residuals)


def _sum_rows(keys, rows):
  """Sum rows with the same key; keys [N] are in order."""
  # Many times faster than np.add.reduceat over rows.
  from scipy import sparse

  if not len(keys):
    return keys, rows
  starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
  ones, columns = np.ones([len(keys)], np.float32), np.arange(len(keys))
  table = sparse.csr_array(
    (ones, columns, np.append(starts, len(keys))),
    shape=(len(starts), len(keys)),
  )
  return keys[starts], table @ rows


def _lengths(squares):
  """Return the divisors that L2-normalise rows, float32."""
  return np.sqrt(np.maximum(squares, _LEAST_SQUARE)).astype(np.float32)


def _check_regions(regions, number):
  if regions is None or not np.size(regions):
    return np.zeros([0], dtype=np.int64)
  regions = np.asarray(regions)
  if regions.ndim != 1 or regions.dtype.kind not in "iu" or regions.min() < 0:
    raise errors.InputError(
      "the number of features in each region", f"{regions.tolist()}"
    )
  # The largest on its own, as a sum of such may overflow to the number.
  if regions.max() > number or regions.sum() != number:
    raise errors.InputError(
      f"regions (num_features_per_region) of {number} features in all",
      f"{regions.sum()}",
    )
  return regions.astype(np.int64)


def selectivity(values: np.ndarray, alpha: float, tau: float) -> np.ndarray:
  """Return sigma(u) = sign(u) |u|^alpha where u > tau, else 0, float64."""
  values = np.asarray(values, dtype=np.float64)
  powers = np.sign(values) * np.abs(values) ** alpha
  return np.where(values > tau, powers, 0.0)


class Kernel:
  """sigma(u) of pairs of descriptors of one word."""

  def __init__(self, packed: bool, dimension: int, alpha: float, tau: float):
    self._selectivity = functools.partial(selectivity, alpha=alpha, tau=tau)
    self._table = None
    if packed:
      # Bits that fill the last byte count, too, as in the original; but for a
      # dimension that is under one byte.
      whole = -(-dimension // 8) * 8
      bits = whole if dimension >= 8 else dimension
      self._table = self._selectivity(1 - 2 * np.arange(whole + 1) / bits)

  def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compare rows of [P, L] `lanes` or [P, D] floats; overwrites `second`."""
    if self._table is None:
      return self._selectivity(np.einsum("ij,ij->i", first, second))
    counts = np.bitwise_count(np.bitwise_xor(first, second, out=second))
    # A reduction over so short an axis takes longer than these few sums.
    distances = counts[:, 0].astype(np.intp)
    for lane in range(1, counts.shape[1]):
      distances += counts[:, lane]
    return self._table[distances]


def lanes(descriptors: np.ndarray) -> np.ndarray:
  """View packed bits [P, B] as the widest integers; floats stay as they are."""
  if descriptors.dtype != np.uint8:
    return descriptors
  width = descriptors.shape[1]
  size = next(size for size in (8, 4, 2, 1) if width % size == 0)
  return descriptors.view(np.dtype(f"u{size}"))


def kind_of(config: aggregation_config_pb2.AggregationConfig) -> str:
  """Return the kind of a configuration."""
  kinds = {config.VLAD: VLAD, config.ASMK: ASMK, config.ASMK_STAR: ASMK_STAR}
  if config.aggregation_type not in kinds:
    raise errors.InputError(
      "an aggregation_type of VLAD, ASMK or ASMK_STAR",
      f"invalid aggregation type {config.aggregation_type}",
    )
  return kinds[config.aggregation_type]


def options(
  config: aggregation_config_pb2.AggregationConfig,
) -> AggregateOptions:
  """Return the options of a configuration."""
  return AggregateOptions(
    kind=kind_of(config),
    num_assignments=config.num_assignments,
    regional=config.use_regional_aggregation,
    normalize=config.use_l2_normalization,
  )


def extension(config: aggregation_config_pb2.AggregationConfig) -> str:
  """Return the extension of the files of a configuration, such as `.rasmk`."""
  regional = "r" if config.use_regional_aggregation else ""
  return f".{regional}{kind_of(config)}"


def write(path: files.Path, aggregated: Aggregated) -> None:
  """Write an aggregate, whole or not at all; the extension says its kind."""
  if aggregated.words is None:
    datum_io.WriteToFile(aggregated.descriptors, path)
  else:
    datum_io.WritePairToFile(
      aggregated.descriptors.reshape(-1),
      aggregated.words.astype(np.uint32),
      path,
    )


def read(
  path: files.Path, dimension: int | None = None, size: int | None = None
) -> Aggregated:
  """Read an aggregate of the kind that its extension says.

  It must be of this dimension, and of words under this size, unless None.
  """
  name = os.path.splitext(os.fspath(path))[1]
  kinds = {f".{r}{kind}": kind for r in ("", "r") for kind in KINDS}
  if name not in kinds:
    raise errors.InputError(f"a name ending in {', '.join(kinds)}", name, path)
  if kinds[name] == VLAD:
    return Aggregated(_read_vlad(path, dimension, size))
  packed = kinds[name] == ASMK_STAR
  values, words = datum_io.ReadPairFromFile(path)
  if words.ndim != 1 or words.dtype != np.uint32:
    raise errors.InputError("words [M] uint32", _description(words), path)
  words = words.astype(np.int64)
  limit = min(size or 2**31, 2**31)
  if np.any(np.diff(words) <= 0) or np.any(words >= limit):
    raise errors.InputError(
      f"ascending words under {limit}", _first_values(words), path
    )
  flat = values.reshape(-1)
  if dimension is not None:
    width = -(-dimension // 8) if packed else dimension
  else:
    width = flat.size // len(words) if len(words) else 0
  if flat.size != len(words) * width:
    raise errors.InputError(
      f"{len(words)} words of {width} values each", f"{flat.size} values", path
    )
  if packed and (flat.dtype != np.uint32 or np.any(flat > 255)):
    raise errors.InputError("bytes of bits", _description(flat), path)
  if not packed:
    _check_floats(flat, path)
  rows = flat.astype(np.uint8 if packed else np.float32, copy=False)
  return Aggregated(rows.reshape(len(words), width), words.astype(np.int32))


def _read_vlad(path, dimension, size):
  vlad = datum_io.ReadFromFile(path)
  if vlad.ndim != 1 or vlad.dtype != np.float32:
    raise errors.InputError(
      "a VLAD of shape [K * D] float", _description(vlad), path
    )
  if dimension and size and vlad.size != dimension * size:
    raise errors.InputError(
      f"a VLAD of {size} words of dimension {dimension}, {size * dimension}",
      f"{vlad.size} values",
      path,
    )
  _check_floats(vlad, path)
  return vlad


def _check_floats(values, path):
  if values.dtype != np.float32 or not np.isfinite(values).all():
    raise errors.InputError("finite floats", _description(values), path)


def _description(array):
  return f"{array.dtype} of shape {list(array.shape)}, {_first_values(array)}"


def _first_values(array):
  listed = ", ".join(f"{value:g}" for value in array.reshape(-1)[:5])
  return f"{listed} ..." if array.size > 5 else listed or "none"
