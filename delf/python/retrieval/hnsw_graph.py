"""A graph of near neighbours (HNSW), to and from arrays that are checked."""

import dataclasses

import numpy as np

from delf.python import errors


@dataclasses.dataclass(frozen=True)
class HnswOptions:
  """Malkov and Yashunin, PAMI 2020; words as there in brackets.

  Attributes:
    links: Neighbours of each image in the graph (M); twice as many at the
      lowest level. Memory is 8 * links bytes an image beside the descriptor.
    build_depth: Candidates while building (efConstruction).
    search_depth: Candidates while searching (ef); at least k are used.
  """

  links: int = 32
  build_depth: int = 100
  search_depth: int = 128

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if type(value) is not int or not 2 <= value <= 1 << 16:
        raise errors.InputError(f"{field.name} from 2 to 65536", repr(value))


class HnswGraph:
  """Vectors and the graph over them. Rows are those that were not removed.

  Removed vectors stay in the graph, as steps of the search, until half of it
  is removed; then it is built anew.
  """

  def __init__(self, dimension, options):
    import faiss

    self._options = options
    self._index = faiss.IndexHNSWFlat(
      dimension, options.links, faiss.METRIC_INNER_PRODUCT
    )
    self._index.hnsw.efConstruction = options.build_depth
    self._alive = np.zeros([0], bool)

  def __len__(self):
    return int(np.count_nonzero(self._alive))

  @property
  def trained(self):
    """Whether vectors can be added: always."""
    return True

  def add(self, vectors):
    """Adds [N, D] float32 vectors."""
    self._index.add(np.ascontiguousarray(vectors))
    self._alive = np.concatenate([self._alive, np.ones([len(vectors)], bool)])

  def search(self, queries, k, depth=None):
    """Returns [Q, k] scores and [Q, k] rows (-1 pads), in no set order."""
    import faiss

    # Held until the search is done: faiss reads it in place.
    bits = np.packbits(self._alive, bitorder="little")
    rows = np.cumsum(self._alive) - 1
    parameters = faiss.SearchParametersHNSW(
      # More than all is no deeper, and may be more than faiss can count.
      efSearch=max(min(depth or self._options.search_depth, len(rows)), k)
    )
    if not self._alive.all():
      parameters.sel = faiss.IDSelectorBitmap(bits)
    scores, labels = self._index.search(queries, k, params=parameters)
    return scores, np.where(labels >= 0, rows[labels], -1)

  def remove(self, keep):
    """Removes the rows that are not in [N] bool."""
    alive = self._alive.copy()
    alive[np.flatnonzero(alive)[~keep]] = False
    if 2 * np.count_nonzero(alive) < len(alive):
      vectors = self._vectors()[alive]
      self.__init__(self._index.d, self._options)
      self.add(vectors)
    else:
      self._alive = alive

  def merge(self, other):
    """Adds the vectors of another graph, one by one as if they were new."""
    self.add(other._vectors()[other._alive])

  def arrays(self):
    """Returns the arrays of a file, by name."""
    import faiss

    graph = self._index.hnsw
    return {
      "vectors": self._vectors(),
      "alive": self._alive.astype(np.uint8),
      "levels": faiss.vector_to_array(graph.levels),
      "neighbors": faiss.vector_to_array(graph.neighbors),
      "entry": np.array([graph.entry_point], np.int32),
    }

  @classmethod
  def from_arrays(cls, arrays, dimension, options, path):
    """Creates a graph from what `arrays` gave.

    faiss follows links without looking, so each is checked first.

    Raises:
      InputError: If they are not arrays of a graph.
    """
    import faiss

    graph = cls(dimension, options)
    index = graph._index
    found = _checked(arrays, dimension, options.links, path)
    # faiss has a table of so many levels, and reads past it without looking.
    most = index.hnsw.cum_nneighbor_per_level.size() - 1
    if found["levels"].max(initial=0) > most:
      raise errors.InputError(f"a graph of up to {most} levels", "more", path)
    offsets = _offsets(found["levels"], options.links)
    _check_links(found, offsets, options.links, path)
    index.storage.add(np.ascontiguousarray(found["vectors"]))
    faiss.copy_array_to_vector(found["levels"], index.hnsw.levels)
    faiss.copy_array_to_vector(found["neighbors"], index.hnsw.neighbors)
    faiss.copy_array_to_vector(offsets.astype(np.uint64), index.hnsw.offsets)
    index.hnsw.entry_point = int(found["entry"][0])
    index.hnsw.max_level = int(found["levels"].max(initial=0)) - 1
    index.ntotal = len(offsets) - 1
    graph._alive = found["alive"].astype(bool)
    return graph

  def _vectors(self):
    """Returns [N, D] float32, a view of the vectors of all that was added."""
    import faiss

    size = self._index.ntotal * self._index.d
    if not size:
      return np.zeros([0, self._index.d], np.float32)
    storage = faiss.downcast_index(self._index.storage)
    values = faiss.rev_swig_ptr(storage.get_xb(), size)
    return values.reshape(-1, self._index.d)


def _offsets(levels, links):
  """Returns [N + 1] int64: where the links of each image start."""
  slots = links * (levels.astype(np.int64) + 1)
  return np.concatenate([[0], np.cumsum(slots)])


def _checked(arrays, dimension, links, path):
  """Returns the arrays in memory, of the right types and sizes."""
  kinds = {
    "vectors": np.float32,
    "alive": np.uint8,
    "levels": np.int32,
    "neighbors": np.int32,
    "entry": np.int32,
  }
  for name, dtype in kinds.items():
    if name not in arrays or arrays[name].dtype != dtype:
      raise errors.InputError("an index with a graph", f"no {name}", path)
  number = len(arrays["vectors"])
  shapes = {
    "vectors": (number, dimension),
    "alive": (number,),
    "levels": (number,),
    "entry": (1,),
  }
  found = {name: np.array(arrays[name]) for name in kinds}
  fits = all(found[name].shape == shape for name, shape in shapes.items())
  if not fits or not np.isfinite(found["vectors"]).all():
    raise errors.InputError("a graph of finite vectors", "another", path)
  levels = found["levels"]
  if np.any(levels < 1):
    raise errors.InputError("a graph with levels", "others", path)
  if found["neighbors"].shape != (_offsets(levels, links)[-1],):
    raise errors.InputError("a graph with all its links", "others", path)
  return found


def _check_links(found, offsets, links, path):
  """Raises an InputError if a link leads to where there is no image."""
  levels, neighbors = found["levels"], found["neighbors"]
  entry = found["entry"][0]
  if not len(levels):
    right = entry == -1
  else:
    right = 0 <= entry < len(levels) and levels[entry] == levels.max()
  right = right and np.all((neighbors >= -1) & (neighbors < len(levels)))
  for level in range(1, int(levels.max(initial=0))):
    if not right:
      break
    # Whoever is linked at a level must have links there itself.
    start = offsets[:-1][levels > level] + links * (level + 1)
    linked = neighbors[start[:, None] + np.arange(links)]
    right = np.all(levels[linked[linked >= 0]] > level)
  if not right:
    raise errors.InputError("a graph whose links fit", "another", path)
