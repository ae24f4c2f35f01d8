"""Exact search among global descriptors or VLAD, kept in one file."""

import numpy as np

from delf.python import errors
from delf.python.retrieval import (
  descriptor_arrays,
  descriptor_blocks,
  exact_search,
  index_file,
  name_list,
)

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
    self._names = name_list.NameList()
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
    stacked, empty = descriptor_arrays.stack(descriptors, self._dimension)
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
    queries, none = descriptor_arrays.stack(queries, self._dimension, "queries")
    empty = np.flatnonzero(self._empty)
    parts = self._parts(queries.shape[1])
    found = exact_search.search(queries, parts, k, empty)
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
      blocks += descriptor_blocks.kept(block, keep[first : first + len(block)])
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
    descriptor_arrays.check_same(self._dimension, other.dimension)
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
      **index_file.encode_names(self.names),
      "empty": self._empty.astype(np.uint8),
      "descriptors": index_file.Stream(self._dtype, shape, parts),
    }
    index_file.write(path, _KIND, {}, arrays)

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
    _, arrays = index_file.read(path, _KIND, verify)
    names = index_file.decode_names(arrays, path)
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
    index._names = name_list.NameList(names, path)
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
        self._blocks = descriptor_blocks.joined(self._blocks, block)
