"""Exact search among global descriptors or VLAD, kept in one file."""

import numpy as np

from delf.base import arrays, errors
from delf.formats import array_file
from delf.indexes import ranking

# Blocks are joined while they are small: a copy of more costs too much.
_SMALL_BYTES = 1 << 26
# What is left of a block is several blocks of no copy, unless they are many.
_MOST_VIEWS = 64


def joined(blocks, block):
  """Returns blocks with one more, which small ones before it are joined to.

  Only blocks that are no longer than what follows are joined to it, so that
  each row is copied few times though rows may come one by one.

  Args:
    blocks: list of arrays [N_i, D] of one dtype; stays as it is.
    block: [N, D] array.
  """
  blocks = list(blocks)
  while blocks and len(blocks[-1]) <= len(block):
    if blocks[-1].nbytes + block.nbytes > _SMALL_BYTES:
      break
    block = np.concatenate([blocks.pop(), block])
  return [*blocks, block]


def kept(block, keep):
  """Returns what is left of a block, as a list of blocks.

  Args:
    block: [N, D] array.
    keep: [N] bool.
  """
  edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]])))
  if len(edges) > 2 * _MOST_VIEWS:
    return [block[keep]]
  return [block[start:end] for start, end in edges.reshape(-1, 2)]


# Scores held at once: 16 MB of float32.
_SCORES = 1 << 22
# Values of descriptors that are converted at once: 16 MB of float32. More is no
# faster, and of float16 slower.
_VALUES = 1 << 22
# Queries at once; more would need shorter blocks, which are slower.
_QUERIES = 1024
# Of the whole ranking of a collection: 128 MB of keys.
_KEPT = 1 << 24
# Images of the first piece; later ones are up to three times what was before:
# few of them are better than the best of that.
_FIRST = 512


def search(queries, blocks, k, empty=()):
  """Finds the images with the largest dot products.

  Args:
    queries: [Q, D] float32.
    blocks: Sequence of arrays [N_i, D], float32 or float16, perhaps mapped from
      a file; ids count through them.
    k: Number of images a query.
    empty: Ids, sorted, of images without a descriptor: last, and -inf.

  Returns:
    ranking.Ranking of k columns. Beside it, and what is mapped, up to 200
    MB are needed whatever N is.

  Raises:
    InputError: If k is not over 0, or a product is not finite.
  """
  k = ranking.check_k(k)
  empty = np.asarray(empty, np.int64)
  number = sum(map(len, blocks))
  ids = np.full([len(queries), k], -1, np.int32)
  scores = np.full([len(queries), k], -np.inf, np.float32)
  kept = min(k, number)
  step = max(1, min(_QUERIES, _KEPT // max(kept, 1)))
  for start in range(0, len(queries), step):
    rows = slice(start, start + step)
    found = _search(queries[rows], blocks, kept, empty)
    ids[rows, :kept], scores[rows, :kept] = found.ids, found.scores
  # Of images with a descriptor none is left out, so all rows have as many.
  left = kept - min(kept, number - len(empty))
  ids[:, kept - left : kept] = empty[:left]
  return ranking.Ranking(ids, scores)


def rescore(queries, found, descriptors):
  """Ranks what an approximate search found by exact dot products.

  A search for ten times the images that are wanted, by codes in memory, and
  this with descriptors in a file find nearly what exact search finds.

  Args:
    queries: [Q, D] float32.
    found: ranking.Ranking [Q, k] of these queries.
    descriptors: [N, D] float, perhaps mapped from a file.

  Returns:
    ranking.Ranking [Q, k]; where a score was -inf it stays so.
  """
  scores = np.full(found.ids.shape, -np.inf, np.float32)
  for row, ids in enumerate(found.ids):
    some = np.flatnonzero((ids >= 0) & np.isfinite(found.scores[row]))
    chosen = descriptors[ids[some]].astype(np.float32, copy=False)
    scores[row, some] = chosen @ queries[row]
  # What is not there has the highest id.
  last = np.where(found.ids < 0, np.iinfo(np.int32).max, found.ids)
  order = np.lexsort((last, -scores), axis=1)
  return ranking.Ranking(
    np.take_along_axis(found.ids, order, axis=1),
    np.take_along_axis(scores, order, axis=1),
  )


def _search(queries, blocks, k, empty):
  """Searches with some queries; images without a descriptor are left out."""
  best, first = ranking.TopScores(len(queries), k), 0
  for block in _pieces(blocks, len(queries)):
    # One without a copy where the file is float32.
    block = block.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
      scores = queries @ block.T
      if not np.isfinite(scores.sum()):
        raise errors.InputError("finite descriptors", "NaN or infinity")
    among = slice(*np.searchsorted(empty, [first, first + len(block)]))
    scores[:, empty[among] - first] = -np.inf
    best.add(scores, first)
    first += len(block)
  return best.result()


def _pieces(blocks, queries):
  """Yields the rows of all blocks in pieces of bounded size."""
  seen = 0
  for block in blocks:
    most = max(1, min(_SCORES // queries, _VALUES // max(block.shape[1], 1)))
    start = 0
    while start < len(block):
      piece = block[start : start + min(most, max(_FIRST, 3 * seen))]
      yield piece
      seen, start = seen + len(piece), start + len(piece)


_KIND = "dense index"
FLOAT32, FLOAT16 = "float32", "float16"
STORAGES = (FLOAT32, FLOAT16)


class DenseIndex:
  """Images and their descriptors, searched by dot product.

  Descriptors are used as they are: for cosine similarity they must have unit
  length, as what the extraction writes has. Ids of images count from 0 in the
  order of `names`; they change when images are removed.
  """

  def __init__(self, storage=FLOAT32):
    """Creates an empty index.

    Args:
      storage: "float32", or "float16" for half the size and scores that are
        right to about 0.0005 for unit length.

    Raises:
      InputError: If it is another.
    """
    if storage not in STORAGES:
      raise errors.InputError(f"one of {', '.join(STORAGES)}", repr(storage))
    self._dtype = np.dtype(storage)
    self._names = ranking.NameList()
    # Never written to once they are here, so that indexes may share them.
    self._blocks = []
    self._empty = np.zeros([0], bool)
    self._dimension = None

  def __len__(self):
    return len(self._names)

  @property
  def names(self):
    """List of str, the names by id; not to be changed."""
    return self._names.names

  @property
  def dimension(self):
    """D, or None while there is no descriptor."""
    return self._dimension

  @property
  def storage(self):
    """How descriptors are kept, one of STORAGES."""
    return self._dtype.name

  @property
  def empty(self):
    """[N] bool: which images have no descriptor."""
    return self._empty

  @property
  def descriptors(self):
    """[N, D] float32 or float16, zeros where there is none; read-only.

    Mapped from the file where the index is as it was loaded.
    """
    if len(self._blocks) != 1:
      shape = [0, self._dimension or 0]
      self._blocks = [
        np.concatenate([np.zeros(shape, self._dtype), *self._blocks])
      ]
    view = self._blocks[0].view()
    view.flags.writeable = False
    return view

  def add(self, names, descriptors):
    """Adds images at the end; all of them, or none if there is an error.

    Args:
      names: Sequence of N str.
      descriptors: [N, D] float, or a sequence of N arrays [D]; None or [0] for
        an image that was too small: it is always ranked last, with -inf.

    Raises:
      InputError: If a name is there already or comes twice, D is another than
        the index's, or a value is not finite.
    """
    stacked, empty = arrays.stack_descriptors(descriptors, self._dimension)
    names = self._names.check(names, len(stacked))
    with np.errstate(over="ignore"):
      stored = stacked.astype(self._dtype, copy=False)
    if stored is not stacked and not np.isfinite(stored).all():
      raise errors.InputError("descriptors below 65504 for float16", "more")
    self._extend(names, [stored], empty)

  def search(self, queries, k):
    """Finds the images with the largest dot products.

    Args:
      queries: [Q, D] float, or a sequence of Q arrays [D]; None or [0] for a
        query that was too small: all its scores are -inf.
      k: Number of images a query.

    Returns:
      ranking.Ranking with k columns.

    Raises:
      InputError: If D is another than the index's, a value is not finite, or k
        is not over 0.
    """
    queries, none = arrays.stack_descriptors(
      queries, self._dimension, "queries"
    )
    empty = np.flatnonzero(self._empty)
    parts = self._parts(queries.shape[1])
    found = search(queries, parts, k, empty)
    found.scores[none] = -np.inf
    found.ids[none] = -1
    some = min(k, len(self))
    found.ids[none, :some] = np.arange(some)
    return found

  def remove(self, names):
    """Removes images; those after them move up.

    Args:
      names: Sequence of str.

    Raises:
      InputError: If a name is not there; none is removed then.
    """
    keep = np.ones([len(self)], bool)
    keep[self._names.ids(names)] = False
    blocks, first = [], 0
    for block in self._blocks:
      blocks += kept(block, keep[first : first + len(block)])
      first += len(block)
    self._blocks, self._empty = blocks, self._empty[keep]
    self._names = self._names.kept(keep)

  def merge(self, other):
    """Adds all images of another DenseIndex at the end.

    Raises:
      InputError: If a name is in both, or D or the storage differ.
    """
    if not isinstance(other, DenseIndex) or other.storage != self.storage:
      raise errors.InputError(f"a dense index of {self.storage}", f"{other!r}")
    arrays.check_same_dimension(self._dimension, other.dimension)
    names = self._names.check(other.names)
    self._extend(names, other._parts(self._dimension), other.empty)

  def save(self, path):
    """Writes the index to one file, whole or not at all.

    Args:
      path: Local path; what is there is replaced, even what was loaded.

    Raises:
      OSError: If it cannot be written.
    """
    parts = self._parts()
    shape = (len(self), self._dimension or 0)
    arrays = {
      **array_file.encode_names(self.names),
      "empty": self._empty.astype(np.uint8),
      "descriptors": array_file.Stream(self._dtype, shape, parts),
    }
    array_file.write(path, _KIND, {}, arrays)

  @classmethod
  def load(cls, path, verify=False):
    """Opens an index; descriptors stay in the file until they are needed.

    Args:
      path: Local path.
      verify: Whether to read all and compare checksums.

    Returns:
      DenseIndex. To change it leaves the file as it is.

    Raises:
      FileNotFoundError: If there is no such file.
      InputError: If it is another kind of file, cut, or of a newer version.
    """
    _, arrays = array_file.read(path, _KIND, verify)
    names = array_file.decode_names(arrays, path)
    descriptors, empty = arrays.get("descriptors"), arrays.get("empty")
    if (
      descriptors is None
      or empty is None
      or descriptors.ndim != 2
      or descriptors.dtype.name not in STORAGES
      or empty.shape != (len(names),)
      or len(descriptors) != len(names)
    ):
      raise errors.InputError("a descriptor of each image", "others", path)
    index = cls(descriptors.dtype.name)
    index._names = ranking.NameList(names, path)
    index._empty = np.array(empty, bool)
    index._dimension = descriptors.shape[1] or None
    index._blocks = [descriptors]
    return index

  def _parts(self, dimension=None):
    """Returns the blocks; those without descriptors get their dimension."""
    dimension = self._dimension or dimension or 0
    return [
      block
      if block.shape[1]
      else np.zeros([len(block), dimension], self._dtype)
      for block in self._blocks
    ]

  def _extend(self, names, blocks, empty):
    dimension = max([b.shape[1] for b in blocks if len(b)], default=0)
    self._names.add(names)
    self._empty = np.concatenate([self._empty, empty])
    self._dimension = self._dimension or dimension or None
    self._blocks = self._parts()
    for block in blocks:
      if len(block):
        self._blocks = joined(self._blocks, block)
