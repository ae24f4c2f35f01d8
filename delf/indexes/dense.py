"""Exact search among global descriptors or VLAD; an index is one file."""

from collections.abc import Sequence

import numpy as np

from delf.base import arrays, errors, files
from delf.formats import array_file
from delf.indexes import ranking
from delf.indexes.ranking import DescriptorIndex, Descriptors

FLOAT32, FLOAT16 = "float32", "float16"
STORAGES = (FLOAT32, FLOAT16)
_KIND = "dense index"
# Blocks up to this size are joined; copying larger ones costs too much.
_SMALL_BYTES = 1 << 26
# Most runs of kept rows that remain views of a block; more are copied.
_MOST_VIEWS = 64
# Scores in memory at once: 16 MB of float32.
_SCORES = 1 << 22
# Descriptor values converted at once: 16 MB of float32. More are not faster,
# and slower for float16.
_VALUES = 1 << 22
# Queries per batch; more would need shorter blocks, which are slower.
_QUERIES = 1024
# Kept scores of a batch of queries: 128 MB of keys.
_KEPT = 1 << 24
# Images in the first piece. A later piece has up to three times the images of
# all before it, since few of its scores are then among the best.
_FIRST = 512


def search(
  queries: np.ndarray,
  blocks: Sequence[np.ndarray],
  k: int,
  empty: Sequence[int] | np.ndarray = (),
) -> ranking.Ranking:
  """Find the k images with the largest dot products for each query.

  Args:
    queries: [Q, D] float32.
    blocks: Arrays [N_i, D], float32 or float16, perhaps mapped from a file; ids
      number all rows from 0. 200 MB of memory are enough for any N.
    empty: Sorted ids of images without a descriptor: ranked last, with -inf.
  """
  k, empty = ranking.check_k(k), np.asarray(empty, np.int64)
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
        # Descriptors in float32 are not copied.
        products = queries[rows] @ piece.astype(np.float32, copy=False).T
        if not np.isfinite(products.sum()):
          raise errors.InputError("descriptors have NaN or infinity")
      own = slice(*np.searchsorted(empty, [first, first + len(piece)]))
      products[:, empty[own] - first] = -np.inf
      best.add(products, first)
      first += len(piece)
    top = best.result()
    ids[rows, :kept], scores[rows, :kept] = top.ids, top.scores
  # Every row ranks all images with a descriptor before the first empty one.
  left = kept - min(kept, number - len(empty))
  ids[:, kept - left : kept] = empty[:left]
  return ranking.Ranking(ids, scores)


def _pieces(blocks, queries):
  """Yield the rows of all blocks in pieces of limited size."""
  seen = 0
  for block in blocks:
    most = max(1, min(_SCORES // queries, _VALUES // max(block.shape[1], 1)))
    start = 0
    while start < len(block):
      piece = block[start : start + min(most, max(_FIRST, 3 * seen))]
      yield piece
      seen, start = seen + len(piece), start + len(piece)


def rescore(
  queries: np.ndarray, candidates: ranking.Ranking, descriptors: np.ndarray
) -> ranking.Ranking:
  """Rank the images of an approximate search by exact dot products.

  An approximate search for 10 k images by codes in memory, rescored with
  descriptors in a file, finds nearly the same k images as exact search.
  """
  scores = np.full(candidates.ids.shape, -np.inf, np.float32)
  for row, ids in enumerate(candidates.ids):
    some = np.flatnonzero((ids >= 0) & np.isfinite(candidates.scores[row]))
    chosen = descriptors[ids[some]].astype(np.float32, copy=False)
    scores[row, some] = chosen @ queries[row]
  return ranking.sort_rows(candidates.ids, scores)


class DenseIndex(DescriptorIndex):
  """Images and their descriptors, searched by dot product.

  Descriptors are not normalised: for cosine similarity they must have unit
  length, like those that `delf extract` writes.
  """

  def __init__(self, storage: str = FLOAT32) -> None:
    """Create an empty index.

    "float16" halves the size; scores of unit-length descriptors are then off by
    up to about 0.0005.
    """
    if storage not in STORAGES:
      choices = " or ".join(STORAGES)
      raise errors.InputError(f"storage must be {choices}, not {storage!r}")
    super().__init__()
    self.storage, self._dtype = storage, np.dtype(storage)
    # Blocks are never written to, so that indexes may share them.
    self._blocks: list[np.ndarray] = []

  @property
  def descriptors(self) -> np.ndarray:
    """[N, D] float32 or float16, zeros for missing ones; read-only.

    Mapped from the file as long as the loaded index is unchanged.
    """
    if len(self._blocks) != 1:
      none = np.zeros([0, self.dimension or 0], self._dtype)
      self._blocks = [np.concatenate([none, *self._blocks])]
    view = self._blocks[0].view()
    view.flags.writeable = False
    return view

  def add(self, names: Sequence[str], descriptors: Descriptors) -> None:
    """Add images with new names at the end: all, or none on an error.

    Descriptors are [N, D] float, or N arrays [D]; None or [0] for an image that
    was too small: it is always ranked last, with -inf.
    """
    stacked, empty = arrays.stack_descriptors(descriptors, self.dimension)
    names = self._check_names(names, len(stacked))
    with np.errstate(over="ignore"):
      stored = stacked.astype(self._dtype, copy=False)
    if stored is not stacked and not np.isfinite(stored).all():
      raise errors.InputError("descriptors exceed 65504, too large for float16")
    self._extend(names, [stored], empty)

  def search(self, queries: Descriptors, k: int) -> ranking.Ranking:
    """Find the k images with the largest dot products for each query.

    Queries are like the descriptors of `add`; all scores of an empty query are
    -inf.
    """
    queries, none = arrays.stack_descriptors(queries, self.dimension, "queries")
    blocks = self._blocks_of(queries.shape[1])
    best = search(queries, blocks, k, np.flatnonzero(self.empty))
    best.scores[none], best.ids[none] = -np.inf, -1
    some = min(k, len(self))
    best.ids[none, :some] = np.arange(some)
    return best

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
    """Append all images of another index with the same D and storage."""
    if not isinstance(other, DenseIndex) or other.storage != self.storage:
      theirs = getattr(other, "storage", type(other).__name__)
      raise errors.InputError(f"cannot merge {theirs} into {self.storage}")
    arrays.check_same_dimension(self.dimension, other.dimension)
    names = self._check_names(other.names)
    self._extend(names, other._blocks_of(self.dimension), other.empty)

  def save(self, path: files.Path) -> None:
    """Write the index to a local file, which may be the loaded one."""
    shape = (len(self), self.dimension or 0)
    streams: dict[str, np.ndarray | array_file.Stream] = {
      **array_file.encode_names(self.names),
      "empty": self.empty.astype(np.uint8),
      "descriptors": array_file.Stream(self._dtype, shape, self._blocks_of()),
    }
    array_file.write(path, _KIND, {}, streams)

  @classmethod
  def load(cls, path: files.Path, verify: bool = False) -> "DenseIndex":
    """Open a local file; descriptors are read from it when needed.

    `verify` reads the whole file and compares checksums.
    """
    _, mapped = array_file.read(path, _KIND, verify)
    names = array_file.decode_names(mapped, path)
    none = np.zeros([])
    descriptors, empty = (mapped.get(n, none) for n in ("descriptors", "empty"))
    known = descriptors.ndim == 2 and descriptors.dtype.name in STORAGES
    shapes = descriptors.shape[:1], empty.shape
    if not known or shapes != ((len(names),),) * 2:
      raise errors.InputError("images lack their descriptors", path=path)
    index = cls(descriptors.dtype.name)
    index._set_names(names, path)
    index.empty = np.array(empty, bool)
    index.dimension = descriptors.shape[1] or None
    index._blocks = [descriptors]
    return index

  def _blocks_of(self, dimension=None):
    """Return the blocks, those of dimension 0 as zeros of `dimension`."""
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

  A block is only joined with as many rows or more, so that each row is copied
  few times even if rows are added one by one.
  """
  blocks = list(blocks)
  while blocks and len(blocks[-1]) <= len(block):
    if blocks[-1].nbytes + block.nbytes > _SMALL_BYTES:
      break
    block = np.concatenate([blocks.pop(), block])
  return [*blocks, block]


def kept(block: np.ndarray, keep: np.ndarray) -> list[np.ndarray]:
  """Split a block [N, D] into its runs of rows where `keep` [N] is True."""
  edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]])))
  if len(edges) > 2 * _MOST_VIEWS:
    return [block[keep]]
  return [block[start:end] for start, end in edges.reshape(-1, 2)]
