"""Several lists of postings as one, piece by piece, so that none is loaded."""

import dataclasses

import numpy as np

from delf.python.retrieval import postings

# Bytes of the descriptors of a piece.
_PIECE_BYTES = 1 << 26
# Number that stands for an image that is left out.
DROPPED = -1


@dataclasses.dataclass(frozen=True)
class _Part:
  source: postings.Postings
  numbers: np.ndarray  # [images] int64, the new number of each, or DROPPED
  kept: np.ndarray  # [V] int64, places in `source.words` of what is kept
  counts: np.ndarray  # [V] int64, postings kept of each of these words
  places: np.ndarray  # [V] int64, place of each word among all words
  targets: np.ndarray  # [V] int64, where its postings go


class Merge:
  """The postings of several parts, those of each word one after the other.

  Attributes:
    words: [W] int32, ascending.
    starts: [W + 1] int64.
  """

  def __init__(self, parts):
    """Finds out what goes where; only the lists' lengths are looked at.

    Args:
      parts: list of (postings.Postings, numbers [images] int64). New numbers
        ascend within a part and from part to part; DROPPED leaves one out.
    """
    kept = [_kept(source, numbers) for source, numbers in parts]
    words = [
      source.words[places]
      for (source, _), (places, _) in zip(parts, kept, strict=True)
    ]
    none = np.zeros([0], np.int32)
    self.words = np.unique(np.concatenate([none, *words]))
    places = [np.searchsorted(self.words, each) for each in words]
    totals = np.zeros([len(self.words)], np.int64)
    for place, (_, counts) in zip(places, kept, strict=True):
      totals[place] += counts
    self.starts = np.concatenate([[0], np.cumsum(totals)]).astype(np.int64)
    self._parts, free = [], self.starts[:-1].copy()
    for part, place, own in zip(parts, places, kept, strict=True):
      self._parts.append(_Part(*part, *own, place, free[place]))
      free[place] += own[1]

  def __len__(self):
    return int(self.starts[-1])

  def ids(self):
    """Yields [P'] uint32 pieces of the images of all postings."""
    for first, last in self._pieces(_PIECE_BYTES // 16):
      piece = np.empty([self.starts[last] - self.starts[first]], np.uint32)
      for part in self._parts:
        rows, kept, targets = self._moves(part, first, last)
        numbers = part.source.of_images(part.numbers, rows)
        piece[targets] = numbers if kept is None else numbers[kept]
      yield piece

  def descriptors(self, width, dtype):
    """Yields [P', width] pieces of the descriptors of all postings."""
    row_bytes = width * np.dtype(dtype).itemsize
    for first, last in self._pieces(_PIECE_BYTES // row_bytes):
      number = self.starts[last] - self.starts[first]
      piece = np.empty([number, width], dtype)
      for part in self._parts:
        rows, kept, targets = self._moves(part, first, last)
        values = part.source.descriptors[rows]
        values = values if kept is None else values[kept]
        _as_items(piece)[targets] = _as_items(values)
      yield piece

  def loaded(self, width, dtype, images):
    """Returns all as postings.Postings of so many images, in memory."""
    ids = np.empty([len(self)], np.uint32)
    descriptors = np.empty([len(self), width], dtype)
    _fill(ids, self.ids())
    _fill(descriptors, self.descriptors(width, dtype))
    return postings.Postings(self.words, self.starts, ids, descriptors, images)

  def _pieces(self, step):
    """Yields ranges of words with about `step` postings, at least one word."""
    first, number = 0, len(self.words)
    while first < number:
      end = self.starts[first] + max(step, 1)
      last = int(np.searchsorted(self.starts, end, side="right")) - 1
      last = min(max(last, first + 1), number)
      yield first, last
      first = last

  def _moves(self, part, first, last):
    """Returns which postings of a part belong to the words, and where.

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


def of_parts(parts, numbers):
  """Returns the Merge of parts whose images follow each other.

  Args:
    parts: list of postings.Postings.
    numbers: [N] int64, new numbers of all their images, as Merge takes them.
  """
  ends = np.cumsum([part.images for part in parts], dtype=np.int64)
  own = np.split(numbers, ends[:-1]) if parts else []
  return Merge(list(zip(parts, own, strict=True)))


def _kept(source, numbers):
  """Returns which words have postings left, and how many each."""
  counts = np.diff(source.starts)
  if len(counts) and np.any(numbers == DROPPED):
    stays = source.of_images(numbers != DROPPED, slice(None))
    counts = np.add.reduceat(stays, source.starts[:-1], dtype=np.int64)
  places = np.flatnonzero(counts)
  return places, counts[places]


def _as_items(rows):
  """Returns rows as one item each, so that assignment moves them whole."""
  size = rows.shape[1] * rows.itemsize
  return rows.view(np.dtype((np.void, size)))[:, 0]


def _fill(array, pieces):
  start = 0
  for piece in pieces:
    array[start : start + len(piece)] = piece
    start += len(piece)
