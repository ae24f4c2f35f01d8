"""Search among images aggregated by ASMK or ASMK*; an index is one file.

The list of a visual word has the images with this word and their descriptors,
so that a query reads only the lists of its own words. With 128 dimensions a
posting takes 20 bytes, of which 16 are packed bits; a million images with 900
words each take 18 GB.
"""

import dataclasses
import itertools
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from delf.aggregation import aggregate
from delf.base import arrays, errors, files
from delf.formats import array_file
from delf.indexes import ranking
from delf.indexes.ranking import NamedIndex

KIND = "inverted index"
# Bytes of descriptors compared at once: they stay in the processor's cache from
# one operation to the next (128 KB to 256 KB are fastest; 1 MB takes a quarter
# longer, 4 MB half as long again).
_BLOCK_BYTES = 1 << 18
_PIECE_BYTES = 1 << 26  # Bytes of descriptors in a piece of merged lists.
DROPPED = -1  # New number of an image that is left out of a merge.
NO_WORDS = -1.0  # Score of an image or query without words, as in the original.
_PART_BYTES = 1 << 27  # Bytes of added descriptors that form one part.
_MERGED_BYTES = 1 << 29  # Largest sum of two parts merged in memory.
# Limits that keep a damaged file from filling the memory.
_MAX_DIMENSION = 1 << 16
_MAX_WORDS = (1 << 31) - 1
_FINITE = 1e300
# Limit of values of ASMK; those of unit length are at most 1.
_LARGEST = 1e6


@dataclasses.dataclass(frozen=True)
class AsmkOptions:
  """Descriptors of an index, and how they are compared."""

  packed: bool = True  # Signs, eight per byte (ASMK*), or float32 (ASMK).
  dimension: int = 128  # Dimension of the local features.
  codebook_size: int = 65536  # Number of visual words.
  alpha: float = 3.0  # Exponent of the selectivity.
  tau: float = 0.0  # Threshold: similarities up to it count as 0.
  # Whether scores are divided by sqrt(words of the query * words of the image):
  # `use_l2_normalization` of the index configuration.
  normalize: bool = True

  def __post_init__(self) -> None:
    for name, kind, least, most in (
      ("packed", bool, False, True),
      ("dimension", numbers.Integral, 1, _MAX_DIMENSION),
      ("codebook_size", numbers.Integral, 1, _MAX_WORDS),
      ("alpha", numbers.Real, 0, _FINITE),
      ("tau", numbers.Real, -_FINITE, _FINITE),
      ("normalize", bool, False, True),
    ):
      value = getattr(self, name)
      fits = isinstance(value, kind) and (type(value) is bool) == (kind is bool)
      if not fits or not least <= value <= most:
        limits = f"{least} to {most}"
        raise errors.InputError(f"{name} must be {limits}, not {value!r}")

  @classmethod
  def from_config(cls, config: aggregate.Config) -> "AsmkOptions":
    """Create options from the configuration of the index."""
    if config.aggregation_type not in (config.ASMK, config.ASMK_STAR):
      kind = config.AggregationType.Name(config.aggregation_type)
      need = "an index needs aggregation_type ASMK or ASMK_STAR"
      raise errors.InputError(f"{need}, not {kind}")
    return cls(
      packed=config.aggregation_type == config.ASMK_STAR,
      dimension=config.feature_dimensionality,
      codebook_size=config.codebook_size,
      alpha=config.alpha,
      tau=config.tau,
      normalize=config.use_l2_normalization,
    )

  @property
  def width(self) -> int:
    """Number of stored values per descriptor: bytes or floats."""
    return -(-self.dimension // 8) if self.packed else self.dimension

  @property
  def dtype(self) -> np.dtype:
    """Type of the stored values."""
    return np.dtype(np.uint8 if self.packed else np.float32)


@dataclasses.dataclass(frozen=True)
class Postings:
  """One list of images for each visual word of some images."""

  words: np.ndarray  # [W] int32, words that occur, ascending.
  starts: np.ndarray  # [W + 1] int64, where each list starts; the last is P.
  ids: np.ndarray  # [P] uint32, images from 0, ascending within a list.
  descriptors: np.ndarray  # [P, B] uint8 packed bits, or [P, D] float32.
  images: int  # Number of images, including those without words.
  # File that ids and descriptors are mapped from; None if they are in memory.
  path: files.Path | None = None

  def __len__(self) -> int:
    return len(self.ids)

  @property
  def nbytes(self) -> int:
    """Size of all arrays in bytes."""
    fields = self.words, self.starts, self.ids, self.descriptors
    return sum(field.nbytes for field in fields)

  def add_scores(
    self,
    kernel: aggregate.Kernel,
    words: np.ndarray,
    descriptors: np.ndarray,
    scores: np.ndarray,
  ) -> None:
    """Add the similarity of images with a query to their scores, in place.

    The query has ascending words [M] and their descriptors, [M, B] or [M, D].
    Scores are [images] float64.
    """
    if not len(self.words) or not len(words):
      return
    slot = np.searchsorted(self.words, words)
    slot = np.minimum(slot, len(self.words) - 1)
    shared = np.flatnonzero(self.words[slot] == words)
    starts = self.starts[slot[shared]]
    lengths = self.starts[slot[shared] + 1] - starts
    own = aggregate.lanes(self.descriptors)
    query = aggregate.lanes(descriptors)[shared]
    step = max(_BLOCK_BYTES // (own.shape[1] * own.itemsize), 1)
    for rows, lists, taken in _blocks(starts, lengths, step):
      # `take` and `repeat` are several times as fast as indexing by arrays.
      both = np.repeat(query[lists], taken, axis=0), own.take(rows, axis=0)
      try:
        np.add.at(scores, self.ids.take(rows), kernel(*both))
      except IndexError:
        raise self._changed() from None

  def of_images(self, values: np.ndarray, rows: slice) -> np.ndarray:
    """Return values [images] of the images of some postings."""
    try:
      return values[self.ids[rows]]
    except IndexError:
      raise self._changed() from None

  def _changed(self):
    return errors.InputError("it changed after it was written", path=self.path)


def build(
  words: Sequence[np.ndarray], descriptors: Sequence[np.ndarray]
) -> Postings:
  """Return the postings of images with words [M] and their descriptors."""
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
  """Yield rows [R] of lists, the slice of these lists, and rows of each."""
  ends = np.cumsum(lengths)
  # Added to a place among all rows, they give the row within the part.
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

  `words` [W] and `starts` [W + 1] belong to the merged postings.
  """

  def __init__(self, parts: Sequence[Postings], numbers: np.ndarray) -> None:
    """Plan the merge of consecutive parts; their descriptors are not read.

    `numbers` [N] int64 are the new numbers of the images of all parts,
    ascending, or DROPPED for images that are left out.
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
    # Of each part: the postings, the new numbers of its images, the number of
    # kept postings of each word, and where they go.
    self._parts: list[tuple[Postings, Any, Any, Any]] = []
    free = self.starts.copy()
    for part, new, place, counts in zip(parts, own, places, kept, strict=True):
      self._parts.append((part, new, counts, free[place]))
      np.add.at(free, place, counts)

  def __len__(self) -> int:
    return int(self.starts[-1])

  def ids(self) -> Iterator[np.ndarray]:
    """Yield the images of all postings in pieces [P'] uint32."""
    return self._merged(np.dtype(np.uint32), 16, Postings.of_images)

  def descriptors(self, width: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Yield the descriptors of all postings in pieces [P', width]."""
    # A row is one item, so that assignment moves it as a whole.
    item = np.dtype((np.void, width * np.dtype(dtype).itemsize))

    def read(part, _, rows):
      return part.descriptors[rows].view(item)[:, 0]

    for piece in self._merged(item, item.itemsize, read):
      yield piece.view(dtype).reshape(-1, width)

  def _merged(self, dtype, size, read):
    """Yield merged pieces of the values that read(part, new, rows) returns."""
    for first, last in self._pieces(_PIECE_BYTES // size):
      piece = np.empty([self.starts[last] - self.starts[first]], dtype)
      for part, own, counts, places in self._parts:
        rows, kept, into = self._moves(part, own, counts, places, first, last)
        values = read(part, own, rows)
        piece[into] = values if kept is None else values[kept]
      yield piece

  def loaded(self, width: int, dtype: np.dtype) -> Postings:
    """Return the merged postings of the kept images, in memory."""
    ids = np.empty([len(self)], np.uint32)
    descriptors = np.empty([len(self), width], dtype)
    filled = (ids, self.ids()), (descriptors, self.descriptors(width, dtype))
    for array, pieces in filled:
      start = 0
      for piece in pieces:
        array[start : start + len(piece)] = piece
        start += len(piece)
    images = sum(int((own != DROPPED).sum()) for _, own, *_ in self._parts)
    return Postings(self.words, self.starts, ids, descriptors, images)

  def _pieces(self, step):
    """Yield ranges of at least one word, with about `step` postings."""
    first, number = 0, len(self.words)
    while first < number:
      end = self.starts[first] + max(step, 1)
      last = int(np.searchsorted(self.starts, end, side="right")) - 1
      last = min(max(last, first + 1), number)
      yield first, last
      first = last

  def _moves(self, part, numbers, counts, targets, first, last):
    """Return the postings of a part that belong to a range of words.

    These are a slice of rows; [n] bool, which of them are kept, None for all;
    and [kept] int64, their places within the piece.
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
  """Return the number of kept postings of each word of a part."""
  kept = numbers != DROPPED
  if not len(part.words) or kept.all():
    return np.diff(part.starts)
  stays = part.of_images(kept, slice(None))
  return np.add.reduceat(stays, part.starts[:-1], dtype=np.int64)


class InvertedIndex(NamedIndex):
  """Images and their visual words, searched by the selective match kernel.

  Changes reach the file when the index is saved. `metadata` is saved as JSON;
  it describes all images, for instance by a hash of the codebook.
  """

  def __init__(
    self,
    options: AsmkOptions | None = None,
    metadata: Mapping[str, Any] | None = None,
  ) -> None:
    super().__init__()
    self.options = options or AsmkOptions()
    self.metadata = dict(metadata or {})
    own = self.options
    self._kernel = aggregate.Kernel(
      own.packed, own.dimension, own.alpha, own.tau
    )
    # Row of each id: removing an image renumbers ids, but not rows.
    self._rows = np.zeros([0], np.int64)
    self._counts = np.zeros([0], np.int32)
    # Parts are never written to, so that indexes may share them.
    self._parts: list[Postings] = []

  @property
  def word_counts(self) -> np.ndarray:
    """Number of words of each image, [N] int32."""
    return self._counts[self._rows]

  @property
  def nbytes(self) -> int:
    """Size of all lists in bytes, in memory or mapped; without names."""
    own = self._rows.nbytes + self._counts.nbytes
    return own + sum(part.nbytes for part in self._parts)

  def add(self, names: Sequence[str], images: Iterable[Any]) -> None:
    """Add images with new names at the end: all, or none on an error.

    Images are read one by one. Each is an aggregate with `descriptors` and
    `words`, or a pair of them: [M, B] uint8 packed bits or [M, D] floats, or
    the same in one row, as in files of the original; and [M] ascending
    integers. An image without words is kept; its score is -1.
    """
    names = self._check_names(names)
    parts, descriptors, words, size = [], [], [], 0
    counts: list[int] = []
    none: Any = object()
    for name, image in itertools.zip_longest(names, images, fillvalue=none):
      if name is none or image is none:
        number = "more" if name is none else len(counts)
        message = f"{len(names)} names were given, but {number} images"
        raise errors.InputError(message)
      values, own = _check_image(image, self.options, name)
      descriptors.append(values)
      words.append(own)
      counts.append(len(own))
      size += values.nbytes
      if size >= _PART_BYTES or len(counts) == len(names):
        parts.append(build(words, descriptors))
        descriptors, words, size = [], [], 0
    self._extend(names, parts, counts, np.arange(len(names)))

  def remove(self, names: str | Sequence[str]) -> None:
    """Remove images: all, or none if a name is unknown."""
    self._rows = self._rows[self._without(names)]

  def merge(self, other: "InvertedIndex") -> None:
    """Append all images of another index with equal options and metadata."""
    if not isinstance(other, InvertedIndex):
      kind = type(other).__name__
      raise errors.InputError(f"can only merge an inverted index, not {kind}")
    for name in ("options", "metadata"):
      own, theirs = getattr(self, name), getattr(other, name)
      if own != theirs:
        raise errors.InputError(f"the indexes differ: {own} and {theirs}")
    names = self._check_names(other.names)
    self._extend(names, other._parts, other._counts, other._rows)

  def score_all(self, query: Any) -> np.ndarray:
    """Return the similarity of all images to a query, [N] float32 by id.

    It is -1 for images without words, and for all if the query has none.
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

  def save(self, path: files.Path) -> None:
    """Write the index to a local file, which may be the loaded one.

    Parts are merged piece by piece, so that indexes larger than the memory can
    be loaded, merged and saved.
    """
    new_ids = np.full([len(self._counts)], DROPPED, np.int64)
    new_ids[self._rows] = np.arange(len(self))
    merged = Merge(self._parts, new_ids)
    width, dtype = self.options.width, self.options.dtype
    options = dataclasses.asdict(self.options)
    header = {"options": options, "metadata": self.metadata}
    streams: dict[str, np.ndarray | array_file.Stream] = {
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
  def load(cls, path: files.Path, verify: bool = False) -> "InvertedIndex":
    """Open a local file; lists are read from it when a query needs them.

    `verify` reads the whole file and compares checksums.
    """
    header, stored = array_file.read(path, KIND, verify)
    try:
      options = AsmkOptions(**header["options"])
      index = cls(options, dict(header["metadata"]))
    except (KeyError, TypeError, ValueError) as error:
      message = f"the index has wrong options: {errors.one_line(error)}"
      raise errors.InputError(message, path=path) from None
    names = array_file.decode_names(stored, path)
    index._set_names(names, path)
    index._rows = np.arange(len(names))
    index._counts, part = _postings_of_file(stored, len(names), options, path)
    index._parts = [part]
    return index

  def _extend(self, names, parts, counts, rows):
    """Append images; `rows` [N] are relative to the current number of rows."""
    self._add_names(names)
    self._rows = np.concatenate([self._rows, rows + len(self._counts)])
    self._counts = np.concatenate([self._counts, counts]).astype(np.int32)
    self._parts = self._parts + list(parts)
    # The last two parts are merged unless the first has over twice as many
    # postings: few parts remain, and each posting moves O(log N) times.
    while len(self._parts) > 1:
      last = self._parts[-2:]
      large = sum(part.nbytes for part in last) > _MERGED_BYTES
      mapped = any(part.path for part in last)
      if large or mapped or len(last[0]) > 2 * len(last[1]):
        return
      merged = Merge(last, np.arange(sum(part.images for part in last)))
      self._parts[-2:] = [merged.loaded(self.options.width, self.options.dtype)]


def _check_image(image, options, name):
  """Return [M, B] uint8 or [M, D] float32 descriptors and [M] int32 words.

  They are copied only if their type or layout differs.
  """
  if hasattr(image, "descriptors"):
    image = image.descriptors, image.words
  try:
    descriptors, words = image
  except (TypeError, ValueError):
    kind = type(image).__name__
    message = f"an image must be aggregated descriptors and words, not {kind}"
    raise errors.InputError(message, path=name) from None
  words = _check_words(words, options, name)
  descriptors, shape = np.asarray(descriptors), (len(words), options.width)
  actual, dtype, problem = descriptors.shape, descriptors.dtype, None
  if options.packed and dtype != np.uint8:
    problem = f"descriptors of ASMK* must be packed bits (uint8), not {dtype}"
  elif not options.packed and dtype.kind != "f":
    problem = f"descriptors of ASMK must be floats, not {dtype}"
  # Files of the original keep no dimension for an empty image.
  elif actual not in (shape, (math.prod(shape),)):
    shapes = f"{list(shape)}, a row per word, not {list(actual)}"
    problem = f"descriptors must have shape {shapes}"
  if problem:
    raise errors.InputError(problem, path=name)
  with np.errstate(over="ignore"):
    values = np.ascontiguousarray(descriptors, options.dtype).reshape(shape)
  # Then the product of any two is finite.
  if not options.packed and not (np.abs(values) < _LARGEST).all():
    message = f"descriptors have NaN, infinity or values over {_LARGEST:g}"
    raise errors.InputError(message, path=name)
  return values, words


def _check_words(words, options, name):
  size, is_vlad = options.codebook_size, words is None
  words, problem = np.asarray(words), None
  if is_vlad:
    problem = "the image has no visual words (VLAD), but the index needs ASMK"
  elif words.ndim != 1 or (words.size and words.dtype.kind not in "iu"):
    kind = f"{words.dtype} {list(words.shape)}"
    problem = f"words must be a list of integers, not {kind}"
  elif words.size and not 0 <= words.min() <= words.max() < size:
    limits = f"words {words.min()} to {words.max()}"
    problem = f"{limits} do not fit a codebook of {size}"
  elif np.any(words[:-1] >= words[1:]):
    problem = "words must be in ascending order, each at most once"
  if problem:
    raise errors.InputError(problem, path=name)
  return words.astype(np.int32)


def _postings_of_file(stored, images, options, path):
  """Return word counts [N], and Postings mapped from the file."""
  number = len(stored["ids"]) if np.ndim(stored.get("ids")) else 0
  length = len(stored["words"]) if np.ndim(stored.get("words")) else 0
  expected = {
    "word_counts": (np.int32, (images,)),
    "words": (np.int32, (length,)),
    "starts": (np.int64, (length + 1,)),
    "ids": (np.uint32, (number,)),
    "descriptors": (options.dtype, (number, options.width)),
  }
  for name, (dtype, shape) in expected.items():
    array = stored.get(name)
    if array is None or array.dtype != dtype or array.shape != shape:
      kind = array if array is None else f"{array.dtype} {list(array.shape)}"
      message = f"{name} must have shape {list(shape)}, not {kind}"
      raise errors.InputError(message, path=path)
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
    raise errors.InputError("its lists do not follow each other", path=path)
  total = counts.sum(dtype=np.int64)
  if np.any(counts < 0) or total != number:
    message = f"the index has {number} postings, but its images {total} words"
    raise errors.InputError(message, path=path)
  # A plain array, as indexing a memmap is slower.
  ids, descriptors = (
    stored[name].view(np.ndarray) for name in ("ids", "descriptors")
  )
  return counts, Postings(words, starts, ids, descriptors, images, path)
