"""Aggregation of local features by visual words: VLAD, ASMK and ASMK*.

VLAD: H. Jegou et al., CVPR 2010. ASMK and ASMK*: G. Tolias et al., IJCV 2016.
Regional aggregation: M. Teichmann et al., CVPR 2019 (Detect-to-Retrieve). Sums
are kept only for words that occur; apart from the VLAD itself, no array is as
large as the codebook.
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
Config = aggregation_config_pb2.AggregationConfig

# Lower bound of squared lengths in the original's L2 normalisation.
_LEAST_SQUARE = 1e-12
_LEAST_LENGTH = 1e-6  # ASMK omits words with residuals up to this length.


@dataclasses.dataclass(frozen=True)
class AggregateOptions:
  """Options of aggregation."""

  kind: str = ASMK_STAR  # One of KINDS.
  num_assignments: int = 1  # Number of nearest words per feature.
  regional: bool = False  # Whether features come from regions of the image.
  normalize: bool = True  # L2-normalise a VLAD; ASMK is when it is compared.

  def __post_init__(self) -> None:
    if self.kind not in KINDS:
      choices = ", ".join(KINDS)
      raise errors.InputError(f"kind must be in {choices}, not {self.kind!r}")
    if not isinstance(number := self.num_assignments, int | np.integer):
      raise errors.InputError(f"num_assignments must be whole, not {number!r}")


@dataclasses.dataclass(frozen=True)
class Aggregated:
  """Aggregated descriptors of an image, or of all its regions."""

  # VLAD: [K * D] float32. ASMK: [M, D] float32, rows of length 1. ASMK*:
  # [M, ceil(D / 8)] uint8, sign bits (1 for over 0) from the highest bit on,
  # padded by zeros.
  descriptors: np.ndarray
  words: np.ndarray | None = None  # [M] int32, ascending; None for VLAD.


def aggregate(
  words: Words,
  descriptors: np.ndarray,
  options: AggregateOptions | None = None,
  regions: Sequence[int] | np.ndarray | None = None,
) -> Aggregated:
  """Aggregate the local features of an image.

  Without features a VLAD is zero, and the other kinds have no words.

  Args:
    descriptors: [N, D] float, region by region if regional; any empty array
      stands for no features.
    regions: [R] int, number of features in each region, N in total. Without
      regions (None or empty) a regional aggregate has no features, as in the
      original. Always checked, but only used if regional.
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
    # Sum of the L2-normalised VLADs of the regions.
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
  """Sum residuals to nearest words [N, A] with the same key [N, A].

  Returns keys [M], ascending, and sums [M, D] float32, added in the order of
  the features.
  """
  order = arrays.stable_argsort(keys.reshape(-1))
  residuals = descriptors[order // nearest.shape[1]]
  residuals -= words.centers[nearest.reshape(-1)[order]]
  return _sum_rows(keys.reshape(-1)[order], residuals)


def _sum_rows(keys, rows):
  """Sum rows with the same key; keys [N] are sorted."""
  from scipy import sparse  # Many times faster than np.add.reduceat over rows.

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
    message = f"regions must be numbers of features, not {regions.tolist()}"
    raise errors.InputError(message)
  # The maximum is checked too, as the sum may overflow to `number`.
  if regions.max() > number or regions.sum() != number:
    raise errors.InputError(  # In the original's words.
      "Incorrect arguments: sum(num_features_per_region) and"
      f" features.shape[0] are different: {regions.sum()} vs {number}"
    )
  return regions.astype(np.int64)


def selectivity(values: np.ndarray, alpha: float, tau: float) -> np.ndarray:
  """Return sigma(u) = sign(u) |u|^alpha where u > tau, else 0, float64."""
  values = np.asarray(values, dtype=np.float64)
  powers = np.sign(values) * np.abs(values) ** alpha
  return np.where(values > tau, powers, 0.0)


class Kernel:
  """sigma(u) of pairs of descriptors of one word."""

  def __init__(
    self, packed: bool, dimension: int, alpha: float, tau: float
  ) -> None:
    self._selectivity = functools.partial(selectivity, alpha=alpha, tau=tau)
    self._table = None
    if packed:
      # Padding bits of the last byte count too, as in the original, but not if
      # the dimension is under 8.
      whole = -(-dimension // 8) * 8
      bits = whole if dimension >= 8 else dimension
      self._table = self._selectivity(1 - 2 * np.arange(whole + 1) / bits)

  def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compare rows of `lanes` [P, L] or floats [P, D]; overwrites `second`."""
    if self._table is None:
      return self._selectivity(np.einsum("ij,ij->i", first, second))
    counts = np.bitwise_count(np.bitwise_xor(first, second, out=second))
    # Faster than a reduction over such a short axis.
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


def kind_of(config: Config) -> str:
  """Return the kind of a configuration."""
  kinds = {config.VLAD: VLAD, config.ASMK: ASMK, config.ASMK_STAR: ASMK_STAR}
  if (kind := config.aggregation_type) not in kinds:
    raise errors.InputError(
      f"Invalid aggregation type: {kind}; use VLAD, ASMK or ASMK_STAR"
    )
  return kinds[kind]


def options(config: Config) -> AggregateOptions:
  """Return the options of a configuration."""
  return AggregateOptions(
    kind=kind_of(config),
    num_assignments=config.num_assignments,
    regional=config.use_regional_aggregation,
    normalize=config.use_l2_normalization,
  )


def extension(config: Config) -> str:
  """Return the file extension of a configuration, such as `.rasmk`."""
  regional = "r" if config.use_regional_aggregation else ""
  return f".{regional}{kind_of(config)}"


def write(path: files.Path, aggregated: Aggregated) -> None:
  """Write an aggregate, whole or not at all; the extension names its kind."""
  if aggregated.words is None:
    datum_io.WriteToFile(aggregated.descriptors, path)
  else:
    words = aggregated.words.astype(np.uint32)
    datum_io.WritePairToFile(aggregated.descriptors.reshape(-1), words, path)


def read(
  path: files.Path, dimension: int | None = None, size: int | None = None
) -> Aggregated:
  """Read an aggregate; the extension names its kind.

  The dimension and the size of the codebook are checked unless None.
  """
  name = os.path.splitext(os.fspath(path))[1]
  kinds = {f".{r}{kind}": kind for r in ("", "r") for kind in KINDS}
  if name not in kinds:
    message = f"the extension must be in {', '.join(kinds)}, not {name!r}"
    raise errors.InputError(message, path=path)
  if kinds[name] == VLAD:
    return Aggregated(_read_vlad(path, dimension, size))
  packed = kinds[name] == ASMK_STAR
  values, words = datum_io.ReadPairFromFile(path)
  flat, problem = values.reshape(-1), None
  width = flat.size // max(words.size, 1)
  if dimension is not None:
    width = -(-dimension // 8) if packed else dimension
  limit = min(size or 2**31, 2**31)
  if words.ndim != 1 or words.dtype != np.uint32:
    problem = f"words must be [M] uint32, not {_description(words)}"
  elif np.any(words[1:] <= words[:-1]) or np.any(words >= limit):
    listed = _first_values(words)
    problem = f"words must be ascending and under {limit}, not {listed}"
  elif flat.size != words.size * width:
    needed = f"{len(words)} words of {width} values each"
    problem = f"{flat.size} values do not fit {needed}"
  elif packed and (flat.dtype != np.uint32 or np.any(flat > 255)):
    problem = f"packed bits must be bytes, not {_description(flat)}"
  if problem:
    raise errors.InputError(problem, path=path)
  if not packed:
    _check_floats(flat, path)
  rows = flat.astype(np.uint8 if packed else np.float32, copy=False)
  return Aggregated(rows.reshape(len(words), width), words.astype(np.int32))


def _read_vlad(path, dimension, size):
  vlad, message = datum_io.ReadFromFile(path), None
  if vlad.ndim != 1 or vlad.dtype != np.float32:
    message = f"a VLAD must be [K * D] float, not {_description(vlad)}"
  elif dimension and size and vlad.size != dimension * size:
    needed = f"{size} words of dimension {dimension} ({size * dimension})"
    message = f"a VLAD of {vlad.size} values does not fit {needed}"
  if message:
    raise errors.InputError(message, path=path)
  _check_floats(vlad, path)
  return vlad


def _check_floats(values, path):
  if values.dtype != np.float32 or not np.isfinite(values).all():
    message = f"descriptors must be finite floats, not {_description(values)}"
    raise errors.InputError(message, path=path)


def _description(array):
  return f"{array.dtype} of shape {list(array.shape)}, {_first_values(array)}"


def _first_values(array):
  listed = ", ".join(f"{value:g}" for value in array.reshape(-1)[:5])
  return f"{listed} ..." if array.size > 5 else listed or "none"
