"""Posting lists of visual words: built, scored against a query, and merged."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

import numpy as np

from delf.aggregation import aggregate
from delf.base import arrays, errors

# Bytes of descriptors that are compared at once: they stay in a processor's
# cache from one operation to the next (measured: 128 KB to 256 KB are best, 1
# MB takes a quarter longer, 4 MB half as long again).
_BLOCK_BYTES = 1 << 18
# Bytes of the descriptors of a piece of merged lists.
_PIECE_BYTES = 1 << 26
# New number of an image that is left out of a merge.
DROPPED = -1


class Kernel:
  """sigma(u) of pairs of descriptors of one word."""

  def __init__(self, packed: bool, dimension: int, alpha: float, tau: float):
    self._selectivity = functools.partial(
      aggregate.selectivity, alpha=alpha, tau=tau
    )
    self._table = None
    if packed:
      bits = aggregate.compared_bits(dimension)
      distances = np.arange(8 * -(-dimension // 8) + 1)
      self._table = self._selectivity(1 - 2 * distances / bits)

  def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compare descriptors row by row.

    Args:
      first: [P, L] `lanes` or [P, D] float32.
      second: The same; it may be overwritten.

    Returns:
      [P] float64, sigma(u) of each pair.
    """
    if self._table is None:
      return self._selectivity(np.einsum("ij,ij->i", first, second))
    counts = _count_bits(np.bitwise_xor(first, second, out=second))
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


def _count_bits_by_table(values):
  """Count bits, 16 or 8 at a time; for NumPy before 2.0."""
  part = np.uint16 if values.itemsize > 1 else np.uint8
  return _bits_of_16()[values.view(part)]


@functools.cache
def _bits_of_16():
  values = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 2)
  return np.unpackbits(values, axis=1).sum(axis=1, dtype=np.uint8)


_count_bits = getattr(np, "bitwise_count", _count_bits_by_table)


@dataclasses.dataclass(frozen=True)
class Postings:
  """The visual words of some images as one list per word, one after the other.

  Attributes:
    words: [W] int32, the words that occur, ascending.
    starts: [W + 1] int64, where the list of each word starts; the last is P.
    ids: [P] uint32, images by number from 0, ascending within a list.
    descriptors: [P, B] uint8 packed bits, or [P, D] float32.
    images: Number of images; some may be without words.
    path: File that ids and descriptors are mapped from, or None if they are in
      memory.
  """

  words: np.ndarray
  starts: np.ndarray
  ids: np.ndarray
  descriptors: np.ndarray
  images: int
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
    kernel: Kernel,
    words: np.ndarray,
    descriptors: np.ndarray,
    scores: np.ndarray,
  ) -> None:
    """Add what each image has in common with a query.

    Args:
      kernel: Kernel of these descriptors.
      words: [M] int32, those of the query, ascending.
      descriptors: [M, B] uint8 or [M, D] float32, one for each word.
      scores: [images] float64, which is added to.

    Raises:
      InputError: If the file has images that it cannot have.
    """
    if not len(self.words) or not len(words):
      return
    slot = np.searchsorted(self.words, words)
    slot = np.minimum(slot, len(self.words) - 1)
    shared = np.flatnonzero(self.words[slot] == words)
    starts = self.starts[slot[shared]]
    lengths = self.starts[slot[shared] + 1] - starts
    own, query = lanes(self.descriptors), lanes(descriptors)[shared]
    step = max(_BLOCK_BYTES // (own.shape[1] * own.itemsize), 1)
    for rows, lists, taken in _blocks(starts, lengths, step):
      # `take` and `repeat` are several times as fast as indexing by arrays.
      both = np.repeat(query[lists], taken, axis=0), own.take(rows, axis=0)
      try:
        np.add.at(scores, self.ids.take(rows), kernel(*both))
      except IndexError:
        raise self._changed() from None

  def of_images(self, values: np.ndarray, rows: slice) -> np.ndarray:
    """Return values [images] at the images of some postings.

    Raises:
      InputError: If the file has images that it cannot have.
    """
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
  """Make the lists of some images.

  Args:
    words: [M] int32 of each image; a word at most once.
    descriptors: [M, B] uint8 or [M, D] float32 of each image.
  """
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
  """Yield the rows of lists [L], at most `step` at once.

  Yields:
    [R] int64 rows; slice of the lists that they are of; and how many rows are
    of each of these.
  """
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


@dataclasses.dataclass(frozen=True)
class _Part:
  source: Postings
  numbers: np.ndarray  # [images] int64, the new number of each, or DROPPED
  kept: np.ndarray  # [V] int64, places in `source.words` of kept words
  counts: np.ndarray  # [V] int64, postings kept of each of these words
  places: np.ndarray  # [V] int64, place of each word among all words
  targets: np.ndarray  # [V] int64, where its postings go


class Merge:
  """The postings of several parts, merged piece by piece.

  Attributes:
    words: [W] int32, ascending.
    starts: [W + 1] int64.
  """

  def __init__(self, parts: Sequence[Postings], numbers: np.ndarray):
    """Plan the merge; only the lists' lengths are read.

    Args:
      parts: Postings of images that follow each other.
      numbers: [N] int64, new number of each image of all parts, ascending;
        DROPPED leaves one out.
    """
    ends = np.cumsum([part.images for part in parts], dtype=np.int64)
    own = np.split(numbers, ends[:-1]) if parts else []
    kept = [_kept(*each) for each in zip(parts, own, strict=True)]
    words = [
      source.words[rows] for source, (rows, _) in zip(parts, kept, strict=True)
    ]
    self.words = np.unique(np.concatenate([np.zeros([0], np.int32), *words]))
    places = [np.searchsorted(self.words, each) for each in words]
    totals = np.zeros([len(self.words)], np.int64)
    for place, (_, counts) in zip(places, kept, strict=True):
      totals[place] += counts
    self.starts = np.concatenate([[0], np.cumsum(totals)]).astype(np.int64)
    self._parts, free = [], self.starts[:-1].copy()
    for source, number, place, (rows, counts) in zip(
      parts, own, places, kept, strict=True
    ):
      self._parts.append(
        _Part(source, number, rows, counts, place, free[place])
      )
      free[place] += counts

  def __len__(self):
    return int(self.starts[-1])

  def ids(self) -> Iterator[np.ndarray]:
    """Yield [P'] uint32 pieces of the images of all postings."""
    for first, last in self._pieces(_PIECE_BYTES // 16):
      piece = np.empty([self.starts[last] - self.starts[first]], np.uint32)
      for part in self._parts:
        rows, kept, targets = self._moves(part, first, last)
        numbers = part.source.of_images(part.numbers, rows)
        piece[targets] = numbers if kept is None else numbers[kept]
      yield piece

  def descriptors(self, width: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Yield [P', width] pieces of the descriptors of all postings."""
    # A row is one item, so that assignment moves it whole.
    item = np.dtype((np.void, width * np.dtype(dtype).itemsize))
    for first, last in self._pieces(_PIECE_BYTES // item.itemsize):
      number = self.starts[last] - self.starts[first]
      piece = np.empty([number, width], dtype)
      for part in self._parts:
        rows, kept, targets = self._moves(part, first, last)
        values = part.source.descriptors[rows]
        values = values if kept is None else values[kept]
        piece.view(item)[targets, 0] = values.view(item)[:, 0]
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
    images = sum(np.count_nonzero(p.numbers != DROPPED) for p in self._parts)
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

  def _moves(self, part, first, last):
    """Find the postings of a part that belong to a range of words.

    Returns:
      slice of the part's postings; [n] bool, which of these are kept, or None
      for all; and [kept] int64, their places within the piece.
    """
    begin, end = np.searchsorted(part.places, [first, last])
    if begin == end:
      return slice(0), None, np.zeros([0], np.int64)
    starts, words = part.source.starts, part.kept[[begin, end - 1]]
    rows = slice(int(starts[words[0]]), int(starts[words[1] + 1]))
    counts = part.counts[begin:end]
    shifts = part.targets[begin:end] - (np.cumsum(counts) - counts)
    targets = np.repeat(shifts - self.starts[first], counts)
    targets += np.arange(len(targets))
    if len(targets) == rows.stop - rows.start:
      return rows, None, targets
    numbers = part.source.of_images(part.numbers, rows)
    return rows, numbers != DROPPED, targets


def _kept(source, numbers):
  """Return which words have postings left, and how many each."""
  counts = np.diff(source.starts)
  if len(counts) and np.any(numbers == DROPPED):
    stays = source.of_images(numbers != DROPPED, slice(None))
    counts = np.add.reduceat(stays, source.starts[:-1], dtype=np.int64)
  places = np.flatnonzero(counts)
  return places, counts[places]
