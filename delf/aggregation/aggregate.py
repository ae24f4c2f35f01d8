"""Aggregation of local features by visual words: VLAD, ASMK and ASMK*.

VLAD: H. Jegou et al., CVPR 2010. ASMK and ASMK*: G. Tolias et al., IJCV 2016.
The regional forms: M. Teichmann et al., CVPR 2019 (Detect-to-Retrieve). What is
summed for each word is a row of its own; no array is as large as the codebook
but the VLAD itself.
"""

import dataclasses
import os

import numpy as np

from delf.aggregation import visual_words
from delf.base import arrays, errors
from delf.python import datum_io

VLAD, ASMK, ASMK_STAR = KINDS = ("vlad", "asmk", "asmk_star")

Words = visual_words.Words

# What the original adds within its L2 normalisation, to the squared length.
_LEAST_SQUARE = 1e-12
# ASMK leaves out words whose residual is not longer than this.
_LEAST_LENGTH = 1e-6


@dataclasses.dataclass(frozen=True)
class AggregateOptions:
  """How to aggregate.

  Attributes:
    kind: VLAD, ASMK or ASMK_STAR.
    num_assignments: Nearest words of each feature that it counts for.
    regional: Whether features are those of regions of the image.
    normalize: Whether the result is L2-normalised; of VLAD alone, as ASMK is
      normalised when it is compared.
  """

  kind: str = ASMK_STAR
  num_assignments: int = 1
  regional: bool = False
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
  """An image, or a set of regions, as one set of aggregated descriptors.

  Attributes:
    descriptors: VLAD: [K * D] float32. ASMK: [M, D] float32, rows of length 1.
      ASMK*: [M, ceil(D / 8)] uint8, bits of the signs (1 for over 0), the first
      dimension in the highest bit, zeros behind the last.
    words: [M] int32, ascending: the word of each; None for VLAD.
  """

  descriptors: np.ndarray
  words: np.ndarray | None = None


def aggregate(words, descriptors, options=None, regions=None):
  """Aggregates the local features of an image.

  Args:
    words: Words of the codebook.
    descriptors: [N, D] float; any empty array stands for no features. Those of
      regions stand one region after the other.
    options: AggregateOptions, or None for the defaults.
    regions: [R] int, number of features in each region; they sum to N. Without
      regions (None or empty) a regional aggregate is that of no features, as in
      the original. Used for regional aggregates alone, and checked in any case.

  Returns:
    Aggregated. Without features a VLAD is zero, and others have no words.

  Raises:
    InputError: If descriptors are of another dimension than the words or not
      finite, or the numbers do not fit.
  """
  options = options or AggregateOptions()
  descriptors = words.check(descriptors)
  regions = _check_regions(regions, len(descriptors))
  if options.regional and not len(regions):
    descriptors = descriptors[:0]
  nearest = words.nearest(descriptors, options.num_assignments)
  if options.regional:
    region = np.repeat(np.arange(len(regions)), regions)
    sums = _regional_sums(words, descriptors, nearest, region)
    if len(regions) and not (options.kind == VLAD and options.normalize):
      sums.rows /= np.float32(len(regions))
  else:
    key, rows = _sum_residuals(words, descriptors, nearest, nearest)
    sums = _Sums(key, rows)
  if options.kind == VLAD:
    return Aggregated(_vlad(words, sums, options.normalize))
  return _asmk(sums, options.kind)


@dataclasses.dataclass
class _Sums:
  words: np.ndarray  # [M] int, ascending
  rows: np.ndarray  # [M, D] float32, what was summed for each


def _sum_residuals(words, descriptors, nearest, keys):
  """Sums residuals that have the same key.

  Args:
    words: Words.
    descriptors: [N, D] float32.
    nearest: [N, A] int, words of each.
    keys: [N, A] int, what their residuals are summed by.

  Returns:
    [M] int keys, ascending, and [M, D] float32 sums, each in the order of the
    features.
  """
  number = nearest.shape[1]
  order = arrays.stable_argsort(keys.reshape(-1))
  residuals = descriptors[order // number]
  residuals -= words.centers[nearest.reshape(-1)[order]]
  return _sum_rows(keys.reshape(-1)[order], residuals)


def _sum_rows(keys, rows):
  """Sums rows with the same key; keys [N] are in order."""
  # Many times faster than np.add.reduceat over rows.
  from scipy import sparse

  if not len(keys):
    return keys, rows
  starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
  which = sparse.csr_array(
    (
      np.ones([len(keys)], np.float32),
      np.arange(len(keys)),
      np.append(starts, len(keys)),
    ),
    shape=(len(starts), len(keys)),
  )
  return keys[starts], which @ rows


def _regional_sums(words, descriptors, nearest, region):
  """Returns the sum over regions of their L2-normalised VLADs.

  Args:
    words: Words.
    descriptors: [N, D] float32.
    nearest: [N, A] int32, words of each.
    region: [N] int, index of the region of each.

  Returns:
    _Sums.
  """
  keys = region[:, None] * len(words) + nearest
  keys, rows = _sum_residuals(words, descriptors, nearest, keys)
  region, word = np.divmod(keys, len(words))
  squares = np.einsum("ij,ij->i", rows, rows)
  lengths = _lengths(np.bincount(region, weights=squares))
  rows /= lengths[region, None]
  order = arrays.stable_argsort(word)
  return _Sums(*_sum_rows(word[order], rows[order]))


def _lengths(squares):
  """Returns what rows are divided by to be L2-normalised, float32."""
  return np.sqrt(np.maximum(squares, _LEAST_SQUARE)).astype(np.float32)


def _vlad(words, sums, normalize):
  """Returns [K * D] float32."""
  vlad = np.zeros([len(words), words.dimension], dtype=np.float32)
  vlad[sums.words] = sums.rows
  if normalize:
    square = np.einsum("ij,ij->", sums.rows, sums.rows, dtype=np.float64)
    vlad /= _lengths(square)
  return vlad.reshape(-1)


def _asmk(sums, kind):
  """Returns Aggregated of ASMK or ASMK*."""
  squares = np.einsum("ij,ij->i", sums.rows, sums.rows)
  keep = np.sqrt(squares) > _LEAST_LENGTH
  rows, found = sums.rows[keep], sums.words[keep].astype(np.int32)
  if kind == ASMK_STAR:
    return Aggregated(np.packbits(rows > 0, axis=1), found)
  return Aggregated(rows / _lengths(squares[keep])[:, None], found)


def _check_regions(regions, number):
  """Returns regions as [R] int64."""
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


def selectivity(values, alpha, tau):
  """Returns sigma(u) = sign(u) |u|^alpha where u > tau, else 0.

  Args:
    values: Array of u, similarities of two descriptors, in [-1, 1].
    alpha: Exponent, 0 or over.
    tau: Threshold.

  Returns:
    float64 array of the same shape.
  """
  values = np.asarray(values, dtype=np.float64)
  powers = np.sign(values) * np.abs(values) ** alpha
  return np.where(values > tau, powers, 0.0)


def compared_bits(dimension):
  """Returns the bits that ASMK* compares, of which u = 1 - 2 h / bits.

  Those that fill the last byte count, too, as in the original; but for a
  dimension that is under one byte.
  """
  return dimension if dimension < 8 else -(-dimension // 8) * 8


def options(config):
  """Returns what a configuration asks for.

  Args:
    config: AggregationConfig.

  Returns:
    aggregation.AggregateOptions.

  Raises:
    InputError: If its type is none.
  """
  return AggregateOptions(
    kind=kind_of(config),
    num_assignments=config.num_assignments,
    regional=config.use_regional_aggregation,
    normalize=config.use_l2_normalization,
  )


def kind_of(config):
  """Returns the kind (`aggregation.KINDS`) of an AggregationConfig.

  Raises:
    InputError: If its type is none.
  """
  kinds = {
    config.VLAD: VLAD,
    config.ASMK: ASMK,
    config.ASMK_STAR: ASMK_STAR,
  }
  if config.aggregation_type not in kinds:
    raise errors.InputError(
      "an aggregation_type of VLAD, ASMK or ASMK_STAR",
      f"invalid aggregation type {config.aggregation_type}",
    )
  return kinds[config.aggregation_type]


def extension(config):
  """Returns the extension of the files of an AggregationConfig, `.rasmk`."""
  regional = "r" if config.use_regional_aggregation else ""
  return f".{regional}{kind_of(config)}"


def write(path, aggregated):
  """Writes an aggregation.Aggregated whole or not at all.

  Args:
    path: Path with the extension of its kind.
    aggregated: aggregation.Aggregated.
  """
  if aggregated.words is None:
    datum_io.WriteToFile(aggregated.descriptors, path)
  else:
    datum_io.WritePairToFile(
      aggregated.descriptors.reshape(-1),
      aggregated.words.astype(np.uint32),
      path,
    )


def read(path, dimension=None, size=None):
  """Reads an aggregate.

  Args:
    path: Path whose extension says the kind.
    dimension: D that it must be of, or None for any.
    size: K that its words must be under, or None for any.

  Returns:
    aggregation.Aggregated. Without words its descriptors are [0, D], or [0, 0]
    where no dimension is given.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is cut, of another format, or of another dimension or
      codebook, or has values that are not finite.
  """
  kind = _kind_of_path(path)
  if kind == VLAD:
    vlad = datum_io.ReadFromFile(path)
    _check_vlad(vlad, dimension, size, path)
    return Aggregated(vlad)
  descriptors, words = datum_io.ReadPairFromFile(path)
  _check_words(words, size, path)
  dtype = np.uint8 if kind == ASMK_STAR else np.float32
  width = None
  if dimension is not None:
    width = -(-dimension // 8) if dtype == np.uint8 else dimension
  descriptors = _rows(descriptors, len(words), width, path)
  _check_values(descriptors, dtype, path)
  return Aggregated(
    descriptors.astype(dtype, copy=False), words.astype(np.int32)
  )


def _kind_of_path(path):
  name = os.path.splitext(os.fspath(path))[1]
  kinds = {f".{r}{kind}": kind for r in ("", "r") for kind in KINDS}
  if name not in kinds:
    raise errors.InputError(f"a name ending in {', '.join(kinds)}", name, path)
  return kinds[name]


def _check_vlad(vlad, dimension, size, path):
  if vlad.ndim != 1 or vlad.dtype != np.float32:
    raise errors.InputError(
      "a VLAD of shape [K * D] float", _described(vlad), path
    )
  if dimension and size and vlad.size != dimension * size:
    raise errors.InputError(
      f"a VLAD of {size} words of dimension {dimension}, {size * dimension}",
      f"{vlad.size} values",
      path,
    )
  _check_values(vlad, np.float32, path)


def _check_words(words, size, path):
  if words.ndim != 1 or words.dtype != np.uint32:
    raise errors.InputError("words [M] uint32", _described(words), path)
  words = words.astype(np.int64)
  limit = min(size or 2**31, 2**31)
  if np.any(np.diff(words) <= 0) or np.any(words >= limit):
    raise errors.InputError(
      f"ascending words under {limit}", f"{_some(words)}", path
    )


def _rows(descriptors, number, width, path):
  """Returns flat descriptors as [number, width]; any width if it is None."""
  flat = descriptors.reshape(-1)
  if width is None:
    width = flat.size // number if number else 0
  if flat.size != number * width:
    raise errors.InputError(
      f"{number} words of {width} values each", f"{flat.size} values", path
    )
  return flat.reshape(number, width)


def _check_values(values, dtype, path):
  if dtype == np.uint8:
    if values.dtype != np.uint32 or np.any(values > 255):
      raise errors.InputError("bytes of bits", _described(values), path)
  elif values.dtype != np.float32 or not np.isfinite(values).all():
    raise errors.InputError("finite floats", _described(values), path)


def _described(array):
  return f"{array.dtype} of shape {list(array.shape)}, {_some(array)}"


def _some(array):
  words = ", ".join(f"{value:g}" for value in array.reshape(-1)[:5])
  return f"{words} ..." if array.size > 5 else words or "none"
