"""Search among images aggregated by ASMK or ASMK*, kept in one file.

A list for each visual word says which images have it, and what they have of
it, so that a query touches only what it shares with them. A posting is 20 bytes
at 128 dimensions, 16 of them packed bits; a million images of 900 words are
18 GB in the file, of which a query reads the lists of its words.
"""

import dataclasses

import numpy as np

from delf.python import errors
from delf.python.retrieval import (
  aggregates,
  asmk_scores,
  index_file,
  name_list,
  posting_file,
  posting_merge,
  postings,
  ranking,
)

KIND = "inverted index"
# Score of an image or query without words, as in the original.
NO_WORDS = -1.0
# Bytes of descriptors that become one part when images are added.
_PART_BYTES = 1 << 27
# Parts in memory that are merged have up to this many bytes together.
_MERGED_BYTES = 1 << 29


class InvertedIndex:
  """Images and their words, searched by the selective match kernel.

  Ids of images count from 0 in the order of `names`; they change when images
  are removed. What was added or removed is in the file once it is saved.

  Attributes:
    options: asmk_scores.AsmkOptions.
    metadata: dict for JSON, kept in the file: what all images have in common,
      such as a hash of the codebook.
  """

  def __init__(self, options=None, metadata=None):
    """Creates an empty index, of the default options if there are none."""
    self.options = options or asmk_scores.AsmkOptions()
    self.metadata = dict(metadata or {})
    self._kernel = asmk_scores.Kernel(self.options)
    self._names = name_list.NameList()
    # An image keeps its row, while ids close up behind one that is removed.
    self._rows = np.zeros([0], np.int64)
    self._counts = np.zeros([0], np.int32)
    # Never written to once they are here, so that indexes may share them.
    self._parts = []

  def __len__(self):
    return len(self._names)

  @property
  def names(self):
    """List of str, the names by id; not to be changed."""
    return self._names.names

  @property
  def word_counts(self):
    """[N] int32, number of words of each image."""
    return self._counts[self._rows]

  @property
  def nbytes(self):
    """Bytes of all lists, in memory or mapped from a file; not of names."""
    own = self._rows.nbytes + self._counts.nbytes
    return own + sum(part.nbytes for part in self._parts)

  def add(self, names, images):
    """Adds images at the end; all of them, or none if there is an error.

    Args:
      names: Sequence of N str.
      images: Iterable of N aggregates (see aggregates.checked), read one by
        one. Images without words are kept, and score -1.

    Raises:
      InputError: If a name is there already or comes twice, there are not as
        many images as names, or one does not fit the options; it names it.
    """
    names = self._names.check(names)
    parts, counts = [], []
    batches = aggregates.batches(names, images, self.options, _PART_BYTES)
    for descriptors, words in batches:
      parts.append(postings.build(words, descriptors))
      counts += map(len, words)
    self._extend(names, parts, counts, np.arange(len(names)))

  def remove(self, names):
    """Removes images; ids of those after them close up.

    Args:
      names: Sequence of str.

    Raises:
      InputError: If a name is not there; none is removed then.
    """
    kept = np.delete(np.arange(len(self)), self._names.ids(names))
    self._names = name_list.NameList([self.names[i] for i in kept])
    self._rows = self._rows[kept]

  def merge(self, other):
    """Adds all images of another InvertedIndex at the end.

    Raises:
      InputError: If options or metadata differ, or a name is in both.
    """
    if not isinstance(other, InvertedIndex):
      raise errors.InputError("an inverted index", type(other).__name__)
    for name in ("options", "metadata"):
      own, theirs = getattr(self, name), getattr(other, name)
      if own != theirs:
        raise errors.InputError(f"an index with {own}", f"{theirs}")
    names = self._names.check(other.names)
    self._extend(names, other._parts, other._counts, other._rows)

  def score_all(self, query):
    """Compares a query with all images.

    Args:
      query: Aggregate, as `add` takes it.

    Returns:
      [N] float32 by id, equal to the pairwise similarity; -1 for an image
      without words, and for all if the query has none.

    Raises:
      InputError: If the query does not fit the options, or the file is damaged.
    """
    descriptors, words = aggregates.checked(query, self.options, "query")
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

  def search(self, queries, k):
    """Finds the images with the highest scores.

    Args:
      queries: Iterable of Q aggregates, as `add` takes them.
      k: Number of images a query.

    Returns:
      ranking.Ranking with k columns; ties by lower id.

    Raises:
      InputError: As `score_all`, or if k is not over 0.
    """
    k = ranking.check_k(k)
    found = [ranking.top_k(self.score_all(q)[None], k) for q in queries]
    none = ranking.top_k(np.zeros([0, 0]), k)
    return ranking.Ranking(
      np.concatenate([none.ids, *(each.ids for each in found)]),
      np.concatenate([none.scores, *(each.scores for each in found)]),
    )

  def save(self, path):
    """Writes the index to one file, whole or not at all.

    Parts are merged on the way, piece by piece, so that indexes that are
    larger than the memory can be loaded, merged and saved.

    Args:
      path: Local path; what is there is replaced, even what was loaded.

    Raises:
      OSError: If it cannot be written.
    """
    numbers = np.full([len(self._counts)], posting_merge.DROPPED, np.int64)
    numbers[self._rows] = np.arange(len(self))
    merged = posting_merge.of_parts(self._parts, numbers)
    header = {
      "options": dataclasses.asdict(self.options),
      "metadata": self.metadata,
    }
    arrays = {
      **index_file.encode_names(self.names),
      **posting_file.arrays(merged, self.word_counts, self.options),
    }
    index_file.write(path, KIND, header, arrays)

  @classmethod
  def load(cls, path, verify=False):
    """Opens an index; lists stay in the file until a query needs them.

    Args:
      path: Local path.
      verify: Whether to read all and compare checksums.

    Returns:
      InvertedIndex. To change it leaves the file as it is.

    Raises:
      FileNotFoundError: If there is no such file.
      InputError: If it is another kind of file, cut, or of a newer version.
    """
    header, arrays = index_file.read(path, KIND, verify)
    index = cls(*posting_file.options(header, path))
    names = index_file.decode_names(arrays, path)
    index._names = name_list.NameList(names, path)
    index._rows = np.arange(len(names))
    index._counts, part = posting_file.opened(
      arrays, len(names), index.options, path
    )
    index._parts = [part]
    return index

  def _extend(self, names, parts, counts, rows):
    """Adds images, whose `rows` count from those that are there."""
    rows = rows + len(self._counts)
    self._names.add(names)
    self._rows = np.concatenate([self._rows, rows])
    self._counts = np.concatenate([self._counts, counts]).astype(np.int32)
    self._parts = self._parts + list(parts)
    self._join_small()

  def _join_small(self):
    """Merges the last parts while the one before is no larger by far.

    So there are few parts, and adding images one by one moves each posting
    about as often as a logarithm tells.
    """
    while len(self._parts) > 1:
      last = self._parts[-2:]
      size = sum(part.nbytes for part in last)
      if any(part.path for part in last) or size > _MERGED_BYTES:
        return
      if len(last[0]) > 2 * len(last[1]):
        return
      number = last[0].images + last[1].images
      merged = posting_merge.of_parts(last, np.arange(number))
      width, dtype = self.options.width, self.options.dtype
      self._parts[-2:] = [merged.loaded(width, dtype, number)]
