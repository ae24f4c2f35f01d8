"""Exact search among global descriptors or VLAD, kept in one file."""

from collections.abc import Sequence

import numpy as np

from delf.base import arrays, errors
from delf.formats import array_file
from delf.indexes import ranking
from delf.indexes.ranking import DescriptorIndex, Descriptors, Path

FLOAT32, FLOAT16 = "float32", "float16"
STORAGES = (FLOAT32, FLOAT16)
_KIND = "dense index"
# Blocks are joined while they are small: a copy of more costs too much.
_SMALL_BYTES = 1 << 26
# The rest of a block stays several blocks without a copy, unless they are many.
_MOST_VIEWS = 64
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


def search(
  queries: np.ndarray,
  blocks: Sequence[np.ndarray],
  k: int,
  empty: Sequence[int] = (),
) -> ranking.Ranking:
  """Find the k images with the largest dot products for each query.

  Args:
    queries: [Q, D] float32.
    blocks: Arrays [N_i, D], float32 or float16, perhaps mapped from a file; ids
      count through them. 200 MB of memory are enough whatever N is.
    empty: Ids, sorted, of images without a descriptor: last, and -inf.
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
    best, first = ranking.TopScores(len(queries[rows]), kept), 0
    for piece in _pieces(blocks, len(queries[rows])):
      with np.errstate(over="ignore", invalid="ignore"):
        # No copy where the file is float32.
        products = queries[rows] @ piece.astype(np.float32, copy=False).T
        if not np.isfinite(products.sum()):
          raise errors.InputError("finite descriptors", "NaN or infinity")
      own = slice(*np.searchsorted(empty, [first, first + len(piece)]))
      products[:, empty[own] - first] = -np.inf
      best.add(products, first)
      first += len(piece)
    found = best.result()
    ids[rows, :kept], scores[rows, :kept] = found.ids, found.scores
  # All rows have as many images with a descriptor: none of these is left out.
  left = kept - min(kept, number - len(empty))
  ids[:, kept - left : kept] = empty[:left]
  return ranking.Ranking(ids, scores)


def _pieces(blocks, queries):
  """Yield the rows of all blocks in pieces of bounded size."""
  seen = 0
  for block in blocks:
    most = max(1, min(_SCORES // queries, _VALUES // max(block.shape[1], 1)))
    start = 0
    while start < len(block):
      piece = block[start : start + min(most, max(_FIRST, 3 * seen))]
      yield piece
      seen, start = seen + len(piece), start + len(piece)


def rescore(
  queries: np.ndarray, found: ranking.Ranking, descriptors: np.ndarray
) -> ranking.Ranking:
  """Rank the images of an approximate search by exact dot products.

  A search for ten times the images that are wanted, by codes in memory, and
  this with descriptors in a file find nearly what exact search finds.
  """
  scores = np.full(found.ids.shape, -np.inf, np.float32)
  for row, ids in enumerate(found.ids):
    some = np.flatnonzero((ids >= 0) & np.isfinite(found.scores[row]))
    chosen = descriptors[ids[some]].astype(np.float32, copy=False)
    scores[row, some] = chosen @ queries[row]
  return ranking.sort_rows(found.ids, scores)


class DenseIndex(DescriptorIndex):
  """Images and their descriptors, searched by dot product.

  Descriptors are used as they are: for cosine similarity they must have unit
  length, as those that `delf extract` writes have.
  """

  def __init__(self, storage: str = FLOAT32):
    """Create an empty index.

    "float16" takes half the size, and its scores are right to about 0.0005 for
    unit length.
    """
    if storage not in STORAGES:
      raise errors.InputError(f"one of {', '.join(STORAGES)}", repr(storage))
    super().__init__()
    self.storage, self._dtype = storage, np.dtype(storage)
    # Never written to once they are here, so that indexes may share them.
    self._blocks = []

  @property
  def descriptors(self) -> np.ndarray:
    """[N, D] float32 or float16, zeros where there is none; read-only.

    Mapped from the file where the index is as it was loaded.
    """
    if len(self._blocks) != 1:
      none = np.zeros([0, self.dimension or 0], self._dtype)
      self._blocks = [np.concatenate([none, *self._blocks])]
    view = self._blocks[0].view()
    view.flags.writeable = False
    return view

  def add(self, names: Sequence[str], descriptors: Descriptors) -> None:
    """Add images at the end, with new names: all, or none on an error.

    Descriptors are [N, D] float, or a sequence of N arrays [D]; None or [0] for
    an image that was too small: it is always ranked last, with -inf.
    """
    stacked, empty = arrays.stack_descriptors(descriptors, self.dimension)
    names = self._check_names(names, len(stacked))
    with np.errstate(over="ignore"):
      stored = stacked.astype(self._dtype, copy=False)
    if stored is not stacked and not np.isfinite(stored).all():
      raise errors.InputError("descriptors below 65504 for float16", "more")
    self._extend(names, [stored], empty)

  def search(self, queries: Descriptors, k: int) -> ranking.Ranking:
    """Find the k images with the largest dot products for each query.

    Queries are given as the descriptors of `add`; the scores of an empty one
    are -inf.
    """
    queries, none = arrays.stack_descriptors(queries, self.dimension, "queries")
    blocks = self._blocks_of(queries.shape[1])
    found = search(queries, blocks, k, np.flatnonzero(self.empty))
    found.scores[none], found.ids[none] = -np.inf, -1
    some = min(k, len(self))
    found.ids[none, :some] = np.arange(some)
    return found

  def remove(self, names: str | Sequence[str]) -> None:
    """Remove images: all, or none if a name is unknown."""
    keep = self._without(names)
    parts = np.split(keep, np.cumsum([len(block) for block in self._blocks]))
    self._blocks = [
      piece
      for block, own in zip(self._blocks, parts[:-1], strict=True)
      for piece in kept(block, own)
    ]
    self.empty = self.empty[keep]

  def merge(self, other: "DenseIndex") -> None:
    """Add all images of another index of the same D and storage at the end."""
    if not isinstance(other, DenseIndex) or other.storage != self.storage:
      raise errors.InputError(f"a dense index of {self.storage}", f"{other!r}")
    arrays.check_same_dimension(self.dimension, other.dimension)
    names = self._check_names(other.names)
    self._extend(names, other._blocks_of(self.dimension), other.empty)

  def save(self, path: Path) -> None:
    """Write the index to one local file, even the one that was loaded."""
    shape = (len(self), self.dimension or 0)
    streams = {
      **array_file.encode_names(self.names),
      "empty": self.empty.astype(np.uint8),
      "descriptors": array_file.Stream(self._dtype, shape, self._blocks_of()),
    }
    array_file.write(path, _KIND, {}, streams)

  @classmethod
  def load(cls, path: Path, verify: bool = False) -> "DenseIndex":
    """Open a local file; descriptors stay in it until they are needed.

    `verify` reads all and compares checksums.
    """
    _, mapped = array_file.read(path, _KIND, verify)
    names = array_file.decode_names(mapped, path)
    descriptors, empty = mapped.get("descriptors"), mapped.get("empty")
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
    index._set_names(names, path)
    index.empty = np.array(empty, bool)
    index.dimension = descriptors.shape[1] or None
    index._blocks = [descriptors]
    return index

  def _blocks_of(self, dimension=None):
    """Return the blocks; those without descriptors get their dimension."""
    dimension = self.dimension or dimension or 0
    return [
      block
      if block.shape[1]
      else np.zeros([len(block), dimension], self._dtype)
      for block in self._blocks
    ]

  def _extend(self, names, blocks, empty):
    dimension = max([b.shape[1] for b in blocks if len(b)], default=0)
    self._add_names(names)
    self.empty = np.concatenate([self.empty, empty])
    self.dimension = self.dimension or dimension or None
    self._blocks = self._blocks_of()
    for block in filter(len, blocks):
      self._blocks = joined(self._blocks, block)


def joined(blocks: Sequence[np.ndarray], block: np.ndarray) -> list[np.ndarray]:
  """Append a block [N, D], joined with small ones before it.

  Only blocks that are no longer than what follows are joined to it, so that
  each row is copied few times though rows may come one by one.
  """
  blocks = list(blocks)
  while blocks and len(blocks[-1]) <= len(block):
    if blocks[-1].nbytes + block.nbytes > _SMALL_BYTES:
      break
    block = np.concatenate([blocks.pop(), block])
  return [*blocks, block]


def kept(block: np.ndarray, keep: np.ndarray) -> list[np.ndarray]:
  """Split a block [N, D] into the runs of rows that [N] bool keeps."""
  edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]])))
  if len(edges) > 2 * _MOST_VIEWS:
    return [block[keep]]
  return [block[start:end] for start, end in edges.reshape(-1, 2)]
