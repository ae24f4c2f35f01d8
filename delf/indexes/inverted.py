"""Search among images aggregated by ASMK or ASMK*, kept in one file.

A list for each visual word says which images have it, and with which
descriptor, so that a query reads only the lists of its words. A posting is 20
bytes at 128 dimensions, 16 of them packed bits; a million images of 900 words
are 18 GB in the file.
"""

import dataclasses
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from delf.aggregation import aggregate
from delf.base import arrays, errors
from delf.formats import array_file
from delf.indexes import ranking
from delf.indexes.ranking import NamedIndex, Path
from delf.protos import aggregation_config_pb2

KIND = "inverted index"
# Bytes of descriptors that are compared at once: they stay in a processor's
# cache from one operation to the next (measured: 128 KB to 256 KB are best, 1
# MB takes a quarter longer, 4 MB half as long again).
_BLOCK_BYTES = 1 << 18
# Bytes of the descriptors of a piece of merged lists.
_PIECE_BYTES = 1 << 26
# New number of an image that is left out of a merge.
DROPPED = -1
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


@dataclasses.dataclass(frozen=True)
class Postings:
  """The visual words of some images, as one list of images for each word."""

  words: np.ndarray  # [W] int32, those that occur, ascending.
  starts: np.ndarray  # [W + 1] int64, where each list starts; the last is P.
  ids: np.ndarray  # [P] uint32, images from 0, ascending within a list.
  descriptors: np.ndarray  # [P, B] uint8 packed bits, or [P, D] float32.
  images: int  # Some may be without words.
  # File that ids and descriptors are mapped from; None if they are in memory.
  path: str | os.PathLike | None = None

  def __len__(self):
    return len(self.ids)

  @property
  def nbytes(self) -> int:
    """Bytes of all arrays."""
    every = self.words, self.starts, self.ids, self.descriptors
    return sum(array.nbytes for array in every)

  def add_scores(
    self,
    kernel: aggregate.Kernel,
    words: np.ndarray,
    descriptors: np.ndarray,
    scores: np.ndarray,
  ) -> None:
    """Add what images have in common with a query to their scores [images].

    The query has ascending words [M] and a descriptor of each, [M, B] or
    [M, D]. Scores are float64.
    """
    if not len(self.words) or not len(words):
      return
    slot = np.searchsorted(self.words, words)
    slot = np.minimum(slot, len(self.words) - 1)
    shared = np.flatnonzero(self.words[slot] == words)
    starts = self.starts[slot[shared]]
    lengths = self.starts[slot[shared] + 1] - starts
    own, query = (
      aggregate.lanes(self.descriptors),
      aggregate.lanes(descriptors)[shared],
    )
    step = max(_BLOCK_BYTES // (own.shape[1] * own.itemsize), 1)
    for rows, lists, taken in _blocks(starts, lengths, step):
      # `take` and `repeat` are several times as fast as indexing by arrays.
      both = np.repeat(query[lists], taken, axis=0), own.take(rows, axis=0)
      try:
        np.add.at(scores, self.ids.take(rows), kernel(*both))
      except IndexError:
        raise self._changed() from None

  def of_images(self, values: np.ndarray, rows: slice) -> np.ndarray:
    """Return values [images] at the images of some postings."""
    try:
      return values[self.ids[rows]]
    except IndexError:
      raise self._changed() from None

  def _changed(self):
    return errors.InputError(
      "an index as it was written", "one that was changed", self.path
    )


def build(
  words: Sequence[np.ndarray], descriptors: Sequence[np.ndarray]
) -> Postings:
  """Make the lists of images from the words [M] and descriptors of each."""
  lengths = [len(each) for each in words]
  together = np.concatenate(words)
  order = arrays.stable_argsort(together)
  ids = np.repeat(np.arange(len(words), dtype=np.uint32), lengths)[order]
  ordered = together[order]
  first = np.flatnonzero(np.diff(ordered, prepend=-1))
  return Postings(
    words=ordered[first],
    starts=np.append(first, len(ordered)),
    ids=ids,
    descriptors=np.concatenate(descriptors).take(order, axis=0),
    images=len(words),
  )


def _blocks(starts, lengths, step):
  """Yield [R] rows of lists, slice of these lists, and numbers of rows each."""
  ends = np.cumsum(lengths)
  # Row of a list = its place among all rows + this.
  shifts = starts - (ends - lengths)
  for begin in range(0, int(ends[-1]) if len(ends) else 0, step):
    end = min(begin + step, int(ends[-1]))
    first = np.searchsorted(ends, begin, side="right")
    lists = slice(first, np.searchsorted(ends, end, side="left") + 1)
    taken = np.minimum(ends[lists], end)
    taken -= np.maximum(ends[lists] - lengths[lists], begin)
    rows = np.repeat(shifts[lists], taken)
    rows += np.arange(begin, end)
    yield rows, lists, taken


class Merge:
  """The postings of several parts, merged piece by piece.

  `words` [W] and `starts` [W + 1] are those of the result.
  """

  def __init__(self, parts: Sequence[Postings], numbers: np.ndarray):
    """Plan the merge of parts that follow each other; lengths alone are read.

    `numbers` are [N] int64, new number of each image of all parts, ascending;
    DROPPED leaves one out.
    """
    ends = np.cumsum([part.images for part in parts], dtype=np.int64)
    own = np.split(numbers, ends[:-1]) if parts else []
    kept = [_count_kept(*each) for each in zip(parts, own, strict=True)]
    words = [part.words[n > 0] for part, n in zip(parts, kept, strict=True)]
    self.words = np.unique(np.concatenate([np.zeros([0], np.int32), *words]))
    totals = np.zeros([len(self.words) + 1], np.int64)
    places = [np.searchsorted(self.words, part.words) for part in parts]
    for place, counts in zip(places, kept, strict=True):
      np.add.at(totals, place, counts)
    self.starts = np.concatenate([[0], np.cumsum(totals[:-1])]).astype(np.int64)
    # Of each part: the postings, the new numbers of its images, how many are
    # kept of each of its words, and where these go.
    self._parts, free = [], self.starts.copy()
    for part, number, place, counts in zip(
      parts, own, places, kept, strict=True
    ):
      self._parts.append((part, number, counts, free[place]))
      np.add.at(free, place, counts)

  def __len__(self):
    return int(self.starts[-1])

  def ids(self) -> Iterator[np.ndarray]:
    """Yield [P'] uint32 pieces of the images of all postings."""
    return self._merged(np.dtype(np.uint32), 16, Postings.of_images)

  def descriptors(self, width: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Yield [P', width] pieces of the descriptors of all postings."""
    # A row is one item, so that assignment moves it whole.
    item = np.dtype((np.void, width * np.dtype(dtype).itemsize))

    def read(part, _, rows):
      return part.descriptors[rows].view(item)[:, 0]

    for piece in self._merged(item, item.itemsize, read):
      yield piece.view(dtype).reshape(-1, width)

  def _merged(self, dtype, size, read):
    """Yield pieces of what a function reads of (part, new numbers, rows)."""
    for first, last in self._pieces(_PIECE_BYTES // size):
      piece = np.empty([self.starts[last] - self.starts[first]], dtype)
      for part, own, *plan in self._parts:
        rows, kept, targets = self._moves(part, own, *plan, first, last)
        values = read(part, own, rows)
        piece[targets] = values if kept is None else values[kept]
      yield piece

  def loaded(self, width: int, dtype: np.dtype) -> Postings:
    """Return all in memory, as Postings of the images that are kept."""
    ids = np.empty([len(self)], np.uint32)
    descriptors = np.empty([len(self), width], dtype)
    for array, pieces in (
      (ids, self.ids()),
      (descriptors, self.descriptors(width, dtype)),
    ):
      start = 0
      for piece in pieces:
        array[start : start + len(piece)] = piece
        start += len(piece)
    images = sum(np.count_nonzero(own != DROPPED) for _, own, *_ in self._parts)
    return Postings(self.words, self.starts, ids, descriptors, images)

  def _pieces(self, step):
    """Yield ranges of words with about `step` postings, at least one word."""
    first, number = 0, len(self.words)
    while first < number:
      end = self.starts[first] + max(step, 1)
      last = int(np.searchsorted(self.starts, end, side="right")) - 1
      last = min(max(last, first + 1), number)
      yield first, last
      first = last

  def _moves(self, part, numbers, counts, targets, first, last):
    """Find the postings of a part that belong to a range of words.

    They are a slice; [n] bool, which of these are kept, or None for all; and
    [kept] int64, their places within the piece.
    """
    bounds = self.words[[first, last - 1]]
    begin = np.searchsorted(part.words, bounds[0])
    end = np.searchsorted(part.words, bounds[1], side="right")
    rows = slice(int(part.starts[begin]), int(part.starts[end]))
    counts = counts[begin:end]
    shifts = targets[begin:end] - (np.cumsum(counts) - counts)
    places = np.repeat(shifts - self.starts[first], counts)
    places += np.arange(len(places))
    if len(places) == rows.stop - rows.start:
      return rows, None, places
    return rows, part.of_images(numbers, rows) != DROPPED, places


def _count_kept(part, numbers):
  """Return how many postings of each word of a part are kept."""
  counts = np.diff(part.starts)
  if not len(counts) or np.all(numbers != DROPPED):
    return counts
  stays = part.of_images(numbers != DROPPED, slice(None))
  return np.add.reduceat(stays, part.starts[:-1], dtype=np.int64)


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
    of = self.options
    self._kernel = aggregate.Kernel(of.packed, of.dimension, of.alpha, of.tau)
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
        parts.append(build(words, descriptors))
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
    new_ids = np.full([len(self._counts)], DROPPED, np.int64)
    new_ids[self._rows] = np.arange(len(self))
    merged = Merge(self._parts, new_ids)
    width, dtype = self.options.width, self.options.dtype
    header = {
      "options": dataclasses.asdict(self.options),
      "metadata": self.metadata,
    }
    streams = {
      **array_file.encode_names(self.names),
      "word_counts": self.word_counts,
      "words": merged.words,
      "starts": merged.starts,
      "ids": array_file.Stream(np.uint32, (len(merged),), merged.ids()),
      "descriptors": array_file.Stream(
        dtype, (len(merged), width), merged.descriptors(width, dtype)
      ),
    }
    array_file.write(path, KIND, header, streams)

  @classmethod
  def load(cls, path: Path, verify: bool = False) -> "InvertedIndex":
    """Open a local file; lists stay in it until a query needs them.

    `verify` reads all and compares checksums.
    """
    header, stored = array_file.read(path, KIND, verify)
    try:
      options = AsmkOptions(**header["options"])
      index = cls(options, dict(header["metadata"]))
    except (KeyError, TypeError, ValueError) as error:
      raise errors.InputError(
        "an inverted index with its options", errors.one_line(error), path
      ) from None
    names = array_file.decode_names(stored, path)
    index._set_names(names, path)
    index._rows = np.arange(len(names))
    index._counts, part = _postings_of_file(stored, len(names), options, path)
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
      merged = Merge(last, np.arange(sum(part.images for part in last)))
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


def _postings_of_file(stored, images, options, path):
  """Return [N] word counts, and Postings that stay in the file, unread."""
  number = len(stored["ids"]) if np.ndim(stored.get("ids")) else 0
  words = len(stored["words"]) if np.ndim(stored.get("words")) else 0
  expected = {
    "word_counts": (np.int32, (images,)),
    "words": (np.int32, (words,)),
    "starts": (np.int64, (words + 1,)),
    "ids": (np.uint32, (number,)),
    "descriptors": (options.dtype, (number, options.width)),
  }
  for name, (dtype, shape) in expected.items():
    array = stored.get(name)
    if array is None or array.dtype != dtype or array.shape != shape:
      raise errors.InputError(
        f"{name} of shape {list(shape)}",
        "none" if array is None else f"{array.dtype} {list(array.shape)}",
        path,
      )
  counts, words, starts = (
    np.array(stored[name]) for name in ("word_counts", "words", "starts")
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
    stored[name].view(np.ndarray) for name in ("ids", "descriptors")
  )
  return counts, Postings(words, starts, ids, descriptors, images, path)
