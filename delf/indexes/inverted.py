"""Search among images aggregated by ASMK or ASMK*, kept in one file.

A list for each visual word says which images have it, and what they have of
it, so that a query touches only what it shares with them. A posting is 20 bytes
at 128 dimensions, 16 of them packed bits; a million images of 900 words are
18 GB in the file, of which a query reads the lists of its words.
"""

import dataclasses
import functools
import math
import numbers

import numpy as np

from delf.aggregation import aggregate
from delf.base import errors
from delf.formats import array_file
from delf.indexes import postings, ranking
from delf.protos import aggregation_config_pb2

# Values of ASMK that are compared are smaller; at the most they are 1.
_LARGEST = 1e6


def checked(aggregate, options, name=None):
  """Returns the descriptors and words of an image, if they can be right.

  Args:
    aggregate: What has `descriptors` and `words`, or a pair of these: [M, B]
      uint8 packed bits or [M, D] floats, or all of that in one row as in the
      files of the original; [M] integers, ascending, each once.
    options: asmk_scores.AsmkOptions.
    name: Name or path that it is about, for errors.

  Returns:
    [M, B] uint8 or [M, D] float32, C order; and [M] int32. Copied only where
    they are of another type or layout.

  Raises:
    InputError: If types, dimensions or numbers do not fit, a value is not
      finite, or a word is not in the codebook.
  """
  descriptors, words = _pair(aggregate, name)
  words = _words(words, options, name)
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


def batches_aggregates(names, images, options, size):
  """Checks images one by one, and puts them together.

  Args:
    names: list of N str, for errors.
    images: Iterable of N aggregates.
    options: asmk_scores.AsmkOptions.
    size: Bytes of descriptors that a batch reaches, but for the last.

  Yields:
    Descriptors and words, a list of each, as `checked` returns them.

  Raises:
    InputError: As `checked`, or if there are more images than names or fewer.
  """
  descriptors, words, left = [], [], size
  for name, image in _together(names, images):
    values, own = checked(image, options, name)
    descriptors.append(values)
    words.append(own)
    left -= values.nbytes
    if left <= 0:
      yield descriptors, words
      descriptors, words, left = [], [], size
  if words:
    yield descriptors, words


def _together(names, images):
  """Yields names and images; raises an InputError if one is missing."""
  images = iter(images)
  for number, name in enumerate(names):
    try:
      yield name, next(images)
    except StopIteration:
      raise errors.InputError(f"{len(names)} images", number) from None
  if next(images, None) is not None:
    raise errors.InputError(f"{len(names)} images", "more")


def _pair(aggregate, name):
  if hasattr(aggregate, "descriptors"):
    return aggregate.descriptors, aggregate.words
  try:
    descriptors, words = aggregate
  except (TypeError, ValueError):
    raise errors.InputError(
      "aggregated descriptors and their words", type(aggregate).__name__, name
    ) from None
  return descriptors, words


def _words(words, options, name):
  if words is None:
    raise errors.InputError("visual words (ASMK)", "none (VLAD)", name)
  words = np.asarray(words)
  if words.ndim != 1 or (words.size and words.dtype.kind not in "iu"):
    raise errors.InputError(
      "words as a list of integers",
      f"{words.dtype} {list(words.shape)}",
      name,
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


# So that a damaged file cannot ask for tables that fill the memory.
_MAX_DIMENSION = 1 << 16
_MAX_WORDS = (1 << 31) - 1


@dataclasses.dataclass(frozen=True)
class AsmkOptions:
  """What is compared, and how.

  Attributes:
    packed: Whether descriptors are signs, eight to a byte (ASMK*), or float32
      (ASMK).
    dimension: Dimension of the local features.
    codebook_size: Number of visual words.
    alpha: Exponent of the selectivity, 0 or over.
    tau: Similarity of two descriptors that must be exceeded to count.
    normalize: Whether scores are divided by sqrt(words of the query * words of
      the image): `use_l2_normalization` of the index configuration.
  """

  packed: bool = True
  dimension: int = 128
  codebook_size: int = 65536
  alpha: float = 3.0
  tau: float = 0.0
  normalize: bool = True

  def __post_init__(self):
    for name, most in (
      ("dimension", _MAX_DIMENSION),
      ("codebook_size", _MAX_WORDS),
    ):
      value = getattr(self, name)
      if not _is_number(value, numbers.Integral) or not 1 <= value <= most:
        raise errors.InputError(f"{name} of 1 to {most}", repr(value))
    for name in ("alpha", "tau"):
      value = getattr(self, name)
      if not _is_number(value, numbers.Real) or not math.isfinite(value):
        raise errors.InputError(f"{name} that is finite", repr(value))
    if self.alpha < 0:
      raise errors.InputError("alpha of 0 or over", self.alpha)
    for name in ("packed", "normalize"):
      if not isinstance(getattr(self, name), bool):
        raise errors.InputError(f"{name} true or false", getattr(self, name))

  @classmethod
  def from_config(cls, config):
    """Returns the options of an AggregationConfig, that of the *index*.

    Raises:
      InputError: If its type is another than ASMK and ASMK_STAR.
    """
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
  def width(self):
    """Values of one descriptor as it is stored: bytes, or floats."""
    return -(-self.dimension // 8) if self.packed else self.dimension

  @property
  def dtype(self):
    """Type of these values."""
    return np.dtype(np.uint8 if self.packed else np.float32)


class Kernel:
  """Computes sigma(u) for pairs of descriptors of one word."""

  def __init__(self, options):
    self._options = options
    if options.packed:
      distances = np.arange(8 * options.width + 1)
      bits = aggregate.compared_bits(options.dimension)
      self._table = self._selectivity(1 - 2 * distances / bits)

  def __call__(self, first, second):
    """Compares descriptors row by row.

    Args:
      first: [P, L] lanes (see `lanes`), or [P, D] float32.
      second: The same. It may be overwritten.

    Returns:
      [P] float64, sigma(u) of each pair.
    """
    if self._options.packed:
      return self._table[_hamming(first, second)]
    products = np.einsum("ij,ij->i", first, second)
    return self._selectivity(products)

  def _selectivity(self, values):
    options = self._options
    return aggregate.selectivity(values, options.alpha, options.tau)


def lanes(descriptors):
  """Returns packed bits as the widest integers that they are made of.

  Args:
    descriptors: [P, B] array, C order; packed if uint8, else it is returned.

  Returns:
    [P, B / n] array of unsigned integers of n = 8, 4, 2 or 1 bytes: a view.
  """
  if descriptors.dtype != np.uint8:
    return descriptors
  width = descriptors.shape[1]
  size = next(size for size in (8, 4, 2, 1) if width % size == 0)
  return descriptors.view(np.dtype(f"u{size}"))


def _hamming(first, second):
  """Returns [P] intp, bits in which rows of lanes differ."""
  differing = np.bitwise_xor(first, second, out=second)
  counts = _count_bits(differing)
  # A reduction over so short an axis takes longer than these few sums.
  distances = counts[:, 0].astype(np.intp)
  for lane in range(1, counts.shape[1]):
    distances += counts[:, lane]
  return distances


def _count_bits_by_table(values):
  """Counts bits, 16 or 8 at a time; for NumPy before 2.0."""
  part = np.uint16 if values.itemsize > 1 else np.uint8
  return _bits_of_16()[values.view(part)]


@functools.cache
def _bits_of_16():
  values = np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 2)
  return np.unpackbits(values, axis=1).sum(axis=1, dtype=np.uint8)


_count_bits = getattr(np, "bitwise_count", _count_bits_by_table)


def _is_number(value, kind):
  return isinstance(value, kind) and not isinstance(value, bool)


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
    self.options = options or AsmkOptions()
    self.metadata = dict(metadata or {})
    self._kernel = Kernel(self.options)
    self._names = ranking.NameList()
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
    batches = batches_aggregates(names, images, self.options, _PART_BYTES)
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
    self._names = ranking.NameList([self.names[i] for i in kept])
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
    descriptors, words = checked(query, self.options, "query")
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
    numbers = np.full([len(self._counts)], postings.DROPPED, np.int64)
    numbers[self._rows] = np.arange(len(self))
    merged = postings.of_parts(self._parts, numbers)
    header = {
      "options": dataclasses.asdict(self.options),
      "metadata": self.metadata,
    }
    arrays = {
      **array_file.encode_names(self.names),
      **postings.arrays_posting_file(merged, self.word_counts, self.options),
    }
    array_file.write(path, KIND, header, arrays)

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
    header, arrays = array_file.read(path, KIND, verify)
    index = cls(*postings.options(header, path))
    names = array_file.decode_names(arrays, path)
    index._names = ranking.NameList(names, path)
    index._rows = np.arange(len(names))
    index._counts, part = postings.opened(
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
      merged = postings.of_parts(last, np.arange(number))
      width, dtype = self.options.width, self.options.dtype
      self._parts[-2:] = [merged.loaded(width, dtype, number)]
