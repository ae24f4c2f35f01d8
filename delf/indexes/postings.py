"""Posting lists of visual words: built, scored against a query, and merged."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

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

  def __init__(self, options: Any):
    """Create the kernel of an `inverted.AsmkOptions`."""
    self._selectivity = functools.partial(
      aggregate.selectivity, alpha=options.alpha, tau=options.tau
    )
    self._table = None
    if options.packed:
      distances = np.arange(8 * options.width + 1)
      bits = aggregate.compared_bits(options.dimension)
      self._table = self._selectivity(1 - 2 * distances / bits)

  def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compare rows of [P, L] `lanes` or [P, D] float32; overwrites `second`."""
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
    kernel: Kernel,
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
    for first, last in self._pieces(_PIECE_BYTES // 16):
      piece = np.empty([self.starts[last] - self.starts[first]], np.uint32)
      for part, numbers, *plan in self._parts:
        rows, kept, targets = self._moves(part, numbers, *plan, first, last)
        ids = part.of_images(numbers, rows)
        piece[targets] = ids if kept is None else ids[kept]
      yield piece

  def descriptors(self, width: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Yield [P', width] pieces of the descriptors of all postings."""
    # A row is one item, so that assignment moves it whole.
    item = np.dtype((np.void, width * np.dtype(dtype).itemsize))
    for first, last in self._pieces(_PIECE_BYTES // item.itemsize):
      number = self.starts[last] - self.starts[first]
      piece = np.empty([number, width], dtype)
      for part, *plan in self._parts:
        rows, kept, targets = self._moves(part, *plan, first, last)
        values = part.descriptors[rows]
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
