"""Search among images aggregated by ASMK or ASMK*, kept in one file.

A list for each visual word says which images have it, and with which
descriptor, so that a query reads only the lists of its words. A posting is 20
bytes at 128 dimensions, 16 of them packed bits; a million images of 900 words
are 18 GB in the file.
"""

import dataclasses
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from delf.base import errors
from delf.formats import array_file
from delf.indexes import postings, ranking
from delf.indexes.ranking import NamedIndex, Path
from delf.protos import aggregation_config_pb2

KIND = "inverted index"
# Score of an image or query without words, as in the original.
NO_WORDS = -1.0
# Bytes of descriptors that become one part when images are added.
_PART_BYTES = 1 << 27
# Parts in memory that are merged have up to this many bytes together.
_MERGED_BYTES = 1 << 29
# So that a damaged file cannot require tables that fill the memory.
_MAX_DIMENSION = 1 << 16
_MAX_WORDS = (1 << 31) - 1
_FINITE = 1e300
# Values of ASMK that are compared are smaller; at the most they are 1.
_LARGEST = 1e6


@dataclasses.dataclass(frozen=True)
class AsmkOptions:
  """Descriptors of an index, and their comparison."""

  packed: bool = True  # Signs, eight to a byte (ASMK*), or float32 (ASMK).
  dimension: int = 128  # Of the local features.
  codebook_size: int = 65536  # Number of visual words.
  alpha: float = 3.0  # Exponent of the selectivity.
  tau: float = 0.0  # Similarity of two descriptors must exceed it to count.
  # Whether scores are divided by sqrt(words of the query * words of the image):
  # `use_l2_normalization` of the index configuration.
  normalize: bool = True

  def __post_init__(self):
    for name, kind, least, most in (
      ("packed", bool, False, True),
      ("dimension", numbers.Integral, 1, _MAX_DIMENSION),
      ("codebook_size", numbers.Integral, 1, _MAX_WORDS),
      ("alpha", numbers.Real, 0, _FINITE),
      ("tau", numbers.Real, -_FINITE, _FINITE),
      ("normalize", bool, False, True),
    ):
      value = getattr(self, name)
      is_kind = isinstance(value, kind) and isinstance(value, bool) == (
        kind is bool
      )
      if not is_kind or not least <= value <= most:
        raise errors.InputError(f"{name} of {least} to {most}", repr(value))

  @classmethod
  def from_config(
    cls, config: aggregation_config_pb2.AggregationConfig
  ) -> "AsmkOptions":
    """Create the options of the configuration of the *index*."""
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
  def width(self) -> int:
    """Values of one descriptor as it is stored: bytes, or floats."""
    return -(-self.dimension // 8) if self.packed else self.dimension

  @property
  def dtype(self) -> np.dtype:
    """Type of these values."""
    return np.dtype(np.uint8 if self.packed else np.float32)


class InvertedIndex(NamedIndex):
  """Images and their words, searched by the selective match kernel.

  What was added or removed is in the file once it is saved. `metadata` is kept
  in the file as JSON: what all images have in common, such as a hash of the
  codebook.
  """

  def __init__(
    self,
    options: AsmkOptions | None = None,
    metadata: Mapping[str, Any] | None = None,
  ):
    super().__init__()
    self.options = options or AsmkOptions()
    self.metadata = dict(metadata or {})
    self._kernel = postings.Kernel(self.options)
    # An image keeps its row, while ids close up behind one that is removed.
    self._rows = np.zeros([0], np.int64)
    self._counts = np.zeros([0], np.int32)
    # Never written to once they are here, so that indexes may share them.
    self._parts = []

  @property
  def word_counts(self) -> np.ndarray:
    """[N] int32, number of words of each image."""
    return self._counts[self._rows]

  @property
  def nbytes(self) -> int:
    """Bytes of all lists, in memory or mapped from a file; not of names."""
    own = self._rows.nbytes + self._counts.nbytes
    return own + sum(part.nbytes for part in self._parts)

  def add(self, names: Sequence[str], images: Iterable[Any]) -> None:
    """Add images at the end, with new names: all, or none on an error.

    Images are aggregates, read one by one: objects with `descriptors` and
    `words`, or pairs of these: [M, B] uint8 packed bits or [M, D] floats, or
    all of that in one row as in the files of the original; and [M] integers,
    ascending. An image without words is kept, and scores -1.
    """
    names = self._check_names(names)
    parts, counts, descriptors, words, size = [], [], [], [], 0
    images = iter(images)
    for number, name in enumerate(names):
      try:
        image = next(images)
      except StopIteration:
        raise errors.InputError(f"{len(names)} images", number) from None
      values, own = _check_image(image, self.options, name)
      descriptors.append(values)
      words.append(own)
      counts.append(len(own))
      size += values.nbytes
      if size >= _PART_BYTES or number == len(names) - 1:
        parts.append(postings.build(words, descriptors))
        descriptors, words, size = [], [], 0
    if next(images, None) is not None:
      raise errors.InputError(f"{len(names)} images", "more")
    self._extend(names, parts, counts, np.arange(len(names)))

  def remove(self, names: str | Sequence[str]) -> None:
    """Remove images: all, or none if a name is unknown."""
    self._rows = self._rows[self._without(names)]

  def merge(self, other: "InvertedIndex") -> None:
    """Add all images of another index of equal options and metadata."""
    if not isinstance(other, InvertedIndex):
      raise errors.InputError("an inverted index", type(other).__name__)
    for name in ("options", "metadata"):
      own, theirs = getattr(self, name), getattr(other, name)
      if own != theirs:
        raise errors.InputError(f"an index with {own}", f"{theirs}")
    names = self._check_names(other.names)
    self._extend(names, other._parts, other._counts, other._rows)

  def score_all(self, query: Any) -> np.ndarray:
    """Return the similarity of a query to all images, [N] float32 by id.

    It is -1 for an image without words, and for all if the query has none.
    """
    descriptors, words = _check_image(query, self.options, "query")
    if not len(words):
      return np.full([len(self)], NO_WORDS, np.float32)
    scores, row = np.zeros([len(self._counts)]), 0
    for part in self._parts:
      own = scores[row : row + part.images]
      part.add_scores(self._kernel, words, descriptors, own)
      row += part.images
    scores, counts = scores[self._rows], self.word_counts
    if self.options.normalize:
      scores /= np.sqrt(len(words) * np.maximum(counts, 1).astype(np.float64))
    scores[counts == 0] = NO_WORDS
    return scores.astype(np.float32)

  def search(self, queries: Iterable[Any], k: int) -> ranking.Ranking:
    """Find the k images with the highest scores for each query."""
    k = ranking.check_k(k)
    rows = [ranking.top_k(self.score_all(query)[None], k) for query in queries]
    rows.append(ranking.top_k(np.zeros([0, 0]), k))
    return ranking.Ranking(
      np.concatenate([each.ids for each in rows]),
      np.concatenate([each.scores for each in rows]),
    )

  def save(self, path: Path) -> None:
    """Write the index to one local file, even the one that was loaded.

    Parts are merged on the way, piece by piece, so that indexes that are
    larger than the memory can be loaded, merged and saved.
    """
    new_ids = np.full([len(self._counts)], postings.DROPPED, np.int64)
    new_ids[self._rows] = np.arange(len(self))
    merged = postings.Merge(self._parts, new_ids)
    width, dtype = self.options.width, self.options.dtype
    header = {
      "options": dataclasses.asdict(self.options),
      "metadata": self.metadata,
    }
    arrays = {
      **array_file.encode_names(self.names),
      "word_counts": self.word_counts,
      "words": merged.words,
      "starts": merged.starts,
      "ids": array_file.Stream(np.uint32, (len(merged),), merged.ids()),
      "descriptors": array_file.Stream(
        dtype, (len(merged), width), merged.descriptors(width, dtype)
      ),
    }
    array_file.write(path, KIND, header, arrays)

  @classmethod
  def load(cls, path: Path, verify: bool = False) -> "InvertedIndex":
    """Open a local file; lists stay in it until a query needs them.

    `verify` reads all and compares checksums.
    """
    header, arrays = array_file.read(path, KIND, verify)
    try:
      options = AsmkOptions(**header["options"])
      index = cls(options, dict(header["metadata"]))
    except (KeyError, TypeError, ValueError) as error:
      raise errors.InputError(
        "an inverted index with its options", errors.one_line(error), path
      ) from None
    names = array_file.decode_names(arrays, path)
    index._set_names(names, path)
    index._rows = np.arange(len(names))
    index._counts, part = _postings_of_file(arrays, len(names), options, path)
    index._parts = [part]
    return index

  def _extend(self, names, parts, counts, rows):
    """Add images, whose `rows` count from the present number of rows."""
    self._add_names(names)
    self._rows = np.concatenate([self._rows, rows + len(self._counts)])
    self._counts = np.concatenate([self._counts, counts]).astype(np.int32)
    self._parts = self._parts + list(parts)
    # The last parts are merged while the one before is no larger by far: there
    # are few parts, and each posting is moved a logarithmic number of times.
    while len(self._parts) > 1:
      last = self._parts[-2:]
      size = sum(part.nbytes for part in last)
      if any(part.path for part in last) or size > _MERGED_BYTES:
        return
      if len(last[0]) > 2 * len(last[1]):
        return
      merged = postings.Merge(
        last, np.arange(sum(part.images for part in last))
      )
      self._parts[-2:] = [merged.loaded(self.options.width, self.options.dtype)]


def _check_image(image, options, name):
  """Return [M, B] uint8 or [M, D] float32 descriptors and [M] int32 words.

  They are copied only where they are of another type or layout.
  """
  if hasattr(image, "descriptors"):
    image = image.descriptors, image.words
  try:
    descriptors, words = image
  except (TypeError, ValueError):
    raise errors.InputError(
      "aggregated descriptors and their words", type(image).__name__, name
    ) from None
  words = _check_words(words, options, name)
  descriptors = np.asarray(descriptors)
  if options.packed and descriptors.dtype != np.uint8:
    raise errors.InputError(
      "packed bits (uint8) for ASMK*", f"{descriptors.dtype}", name
    )
  if not options.packed and descriptors.dtype.kind != "f":
    raise errors.InputError("floats for ASMK", f"{descriptors.dtype}", name)
  shape = (len(words), options.width)
  # An empty image has lost its dimension in the original's files.
  if descriptors.shape != shape and (
    descriptors.ndim > 1 or descriptors.size != shape[0] * shape[1]
  ):
    raise errors.InputError(
      f"descriptors of shape {list(shape)}, a row for each word",
      f"{list(descriptors.shape)}",
      name,
    )
  with np.errstate(over="ignore"):
    values = np.ascontiguousarray(descriptors, options.dtype).reshape(shape)
  # Products of any two are finite then; those of an image have length 1.
  if not options.packed and not (np.abs(values) < _LARGEST).all():
    raise errors.InputError(
      "finite descriptors", f"NaN, infinity or over {_LARGEST:g}", name
    )
  return values, words


def _check_words(words, options, name):
  if words is None:
    raise errors.InputError("visual words (ASMK)", "none (VLAD)", name)
  words = np.asarray(words)
  if words.ndim != 1 or (words.size and words.dtype.kind not in "iu"):
    raise errors.InputError(
      "words as a list of integers", f"{words.dtype} {list(words.shape)}", name
    )
  if not len(words):
    return np.zeros([0], np.int32)
  if words.min() < 0 or words.max() >= options.codebook_size:
    raise errors.InputError(
      f"words of a codebook of {options.codebook_size}",
      f"words {words.min()} to {words.max()}",
      name,
    )
  if np.any(words[:-1] >= words[1:]):
    raise errors.InputError(
      "words in ascending order, each once", "others", name
    )
  return words.astype(np.int32)


def _postings_of_file(arrays, images, options, path):
  """Return [N] word counts, and Postings that stay in the file, unread."""
  number = len(arrays["ids"]) if np.ndim(arrays.get("ids")) else 0
  words = len(arrays["words"]) if np.ndim(arrays.get("words")) else 0
  expected = {
    "word_counts": (np.int32, (images,)),
    "words": (np.int32, (words,)),
    "starts": (np.int64, (words + 1,)),
    "ids": (np.uint32, (number,)),
    "descriptors": (options.dtype, (number, options.width)),
  }
  for name, (dtype, shape) in expected.items():
    array = arrays.get(name)
    if array is None or array.dtype != dtype or array.shape != shape:
      raise errors.InputError(
        f"{name} of shape {list(shape)}",
        "none" if array is None else f"{array.dtype} {list(array.shape)}",
        path,
      )
  counts, words, starts = (
    np.array(arrays[name]) for name in ("word_counts", "words", "starts")
  )
  if not (
    np.all(words[:-1] < words[1:])
    and (not len(words) or 0 <= words[0] <= words[-1] < options.codebook_size)
    and starts[0] == 0
    and starts[-1] == number
    and np.all(starts[:-1] < starts[1:])
  ):
    raise errors.InputError("lists that follow each other", "others", path)
  total = counts.sum(dtype=np.int64)
  if np.any(counts < 0) or total != number:
    raise errors.InputError(f"{number} words in all images", f"{total}", path)
  # A plain view, as memmap's own indexing takes time.
  ids, descriptors = (
    arrays[name].view(np.ndarray) for name in ("ids", "descriptors")
  )
  return counts, postings.Postings(
    words, starts, ids, descriptors, images, path
  )
