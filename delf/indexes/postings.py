"""Which images have a word, and what they have of it: lists by word."""

import dataclasses

import numpy as np

from delf.base import arrays, errors
from delf.formats import array_file
from delf.indexes import inverted

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
    own = inverted.lanes(self.descriptors)
    asked = inverted.lanes(descriptors)[shared]
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


def arrays_posting_file(merged, word_counts, options):
  """Returns the arrays of a file; the large ones are written in pieces.

  Args:
    merged: posting_merge.Merge.
    word_counts: [N] int32, words of each image.
    options: asmk_scores.AsmkOptions.

  Returns:
    dict for index_file.write: `word_counts`, `words`, `starts`, `ids` and
    `descriptors`, as in postings.Postings.
  """
  number, width, dtype = len(merged), options.width, options.dtype
  return {
    "word_counts": word_counts,
    "words": merged.words,
    "starts": merged.starts,
    "ids": array_file.Stream(np.uint32, (number,), merged.ids()),
    "descriptors": array_file.Stream(
      dtype, (number, width), merged.descriptors(width, dtype)
    ),
  }


def options(header, path):
  """Returns the options and metadata in the header of a file.

  Raises:
    InputError: If there are none, or they cannot be.
  """
  try:
    found = inverted.AsmkOptions(**header["options"])
    metadata = dict(header["metadata"])
  except (KeyError, TypeError, ValueError) as error:
    raise errors.InputError(
      "an inverted index with its options", errors.one_line(error), path
    ) from None
  return found, metadata


def opened(found, images, options, path):
  """Returns what `arrays` wrote.

  Args:
    found: dict of name -> array, of index_file.read.
    images: Number of images, N.
    options: asmk_scores.AsmkOptions.
    path: The file.

  Returns:
    [N] int32 words of each image, and postings.Postings, whose ids and
    descriptors stay in the file and are not looked at.

  Raises:
    InputError: If they do not fit together.
  """
  number = len(found["ids"]) if np.ndim(found.get("ids")) else 0
  words = len(found["words"]) if np.ndim(found.get("words")) else 0
  expected = {
    "word_counts": (np.int32, (images,)),
    "words": (np.int32, (words,)),
    "starts": (np.int64, (words + 1,)),
    "ids": (np.uint32, (number,)),
    "descriptors": (options.dtype, (number, options.width)),
  }
  for name, (dtype, shape) in expected.items():
    array = found.get(name)
    if array is None or array.dtype != dtype or array.shape != shape:
      raise errors.InputError(
        f"{name} of shape {list(shape)}",
        "none" if array is None else f"{array.dtype} {list(array.shape)}",
        path,
      )
  counts, words, starts = (
    np.array(found[name]) for name in ("word_counts", "words", "starts")
  )
  _check(counts, words, starts, number, options.codebook_size, path)
  # A plain view, as memmap's own indexing takes time.
  ids, descriptors = (
    found[name].view(np.ndarray) for name in ("ids", "descriptors")
  )
  return counts, Postings(words, starts, ids, descriptors, images, path)


def _check(counts, words, starts, number, codebook_size, path):
  ascend = np.all(words[:-1] < words[1:])
  inside = not len(words) or 0 <= words[0] <= words[-1] < codebook_size
  follow = starts[0] == 0 and starts[-1] == number
  if not (ascend and inside and follow and np.all(starts[:-1] < starts[1:])):
    raise errors.InputError("lists that follow each other", "others", path)
  if np.any(counts < 0) or counts.sum(dtype=np.int64) != number:
    raise errors.InputError(
      f"{number} words in all images", f"{counts.sum(dtype=np.int64)}", path
    )


# Bytes of the descriptors of a piece.
_PIECE_BYTES = 1 << 26
# Number that stands for an image that is left out.
DROPPED = -1


@dataclasses.dataclass(frozen=True)
class _Part:
  source: Postings
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
    return Postings(self.words, self.starts, ids, descriptors, images)

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
