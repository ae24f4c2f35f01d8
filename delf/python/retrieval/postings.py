"""Which images have a word, and what they have of it: lists by word."""

import dataclasses

import numpy as np

from delf.python import errors, orders
from delf.python.retrieval import asmk_scores

# Bytes of descriptors that are looked at together: they stay in a processor's
# cache from one operation to the next (measured: 128 KB to 256 KB are best, 1
# MB takes a quarter longer, 4 MB half as long again).
_BLOCK_BYTES = 1 << 18


@dataclasses.dataclass(frozen=True)
class Postings:
  """The words of some images, by word; all lists follow each other.

  Attributes:
    words: [W] int32, the words that occur, ascending.
    starts: [W + 1] int64, where the list of each word starts; the last is P.
    ids: [P] uint32, images by number from 0, ascending within a list.
    descriptors: [P, B] uint8 packed bits, or [P, D] float32.
    images: Number of images; the last may be without words.
    path: File that ids and descriptors are mapped from, or None if they are in
      memory.
  """

  words: np.ndarray
  starts: np.ndarray
  ids: np.ndarray
  descriptors: np.ndarray
  images: int
  path: object = None

  def __len__(self):
    return len(self.ids)

  @property
  def nbytes(self):
    """Bytes of all arrays."""
    arrays = self.words, self.starts, self.ids, self.descriptors
    return sum(array.nbytes for array in arrays)

  def add_scores(self, kernel, words, descriptors, scores):
    """Adds what each image has in common with a query.

    Args:
      kernel: asmk_scores.Kernel.
      words: [M] int32, those of the query, ascending.
      descriptors: [M, B] uint8 or [M, D] float32, one for each word.
      scores: [images] float64, which is added to.

    Raises:
      InputError: If the file has images that it cannot have.
    """
    if not len(self.words) or not len(words):
      return
    place = np.searchsorted(self.words, words)
    place = np.minimum(place, len(self.words) - 1)
    shared = np.flatnonzero(self.words[place] == words)
    starts = self.starts[place[shared]]
    lengths = self.starts[place[shared] + 1] - starts
    own = asmk_scores.lanes(self.descriptors)
    asked = asmk_scores.lanes(descriptors)[shared]
    step = max(_BLOCK_BYTES // (own.shape[1] * own.itemsize), 1)
    for rows, lists, taken in _blocks(starts, lengths, step):
      # `take` and `repeat` are several times as fast as indexing by arrays.
      both = np.repeat(asked[lists], taken, axis=0), own.take(rows, axis=0)
      try:
        np.add.at(scores, self.ids.take(rows), kernel(*both))
      except IndexError:
        raise self._changed() from None

  def of_images(self, values, rows):
    """Returns what the image of each posting has.

    Args:
      values: [images] array.
      rows: slice of the postings.

    Returns:
      [rows] array of values.

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


def build(words, descriptors):
  """Makes the lists of some images.

  Args:
    words: list of [M] int32, one for each image; a word at most once.
    descriptors: list of [M, B] uint8 or [M, D] float32; not empty.

  Returns:
    Postings.
  """
  lengths = [len(each) for each in words]
  together = np.concatenate(words)
  order = orders.stable(together)
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
  """Yields the rows of lists, at most `step` at once, and whose they are.

  Args:
    starts: [L] int64, first row of each list.
    lengths: [L] int64, over 0.
    step: int.

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
