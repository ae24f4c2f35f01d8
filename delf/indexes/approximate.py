"""Approximate search among global descriptors, by faiss: HNSW and IVF-PQ."""

import dataclasses

import numpy as np

from delf.base import arrays, errors
from delf.formats import array_file
from delf.indexes import ranking


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


# Values of a byte: words of each part of a vector.
_WORDS = 256
# faiss asks for as many vectors for each centre that it finds.
_EACH = 39


@dataclasses.dataclass(frozen=True)
class IvfPqOptions:
  """Jegou, Douze and Schmid, PAMI 2011 (IVFADC).

  Attributes:
    lists: Lists that vectors are divided into, or None: 4 times the square
      root of the number of vectors that it is trained with, and fewer where
      each would have less than 39.
    code_bytes: Bytes of a compressed vector; D must be a multiple. None: D / 4
      (or what divides D and is next below), 1/16 of the size.
    probes: Lists that a search reads.
  """

  lists: int | None = None
  code_bytes: int | None = None
  probes: int = 32

  def __post_init__(self):
    for name in ("lists", "code_bytes", "probes"):
      value = getattr(self, name)
      if value is None and name != "probes":
        continue
      if type(value) is not int or not 1 <= value <= 1 << 24:
        raise errors.InputError(f"{name} over 0", repr(value))


class ProductCodes:
  """The codes of vectors, and what they mean, as arrays.

  faiss's own object is made from them at the next search after a change.
  """

  def __init__(self, dimension, options):
    parts = options.code_bytes or _parts(dimension)
    if dimension % parts:
      raise errors.InputError(
        f"code_bytes that divide the dimension {dimension}", f"{parts}"
      )
    self._dimension, self._options = dimension, options
    self._words = np.zeros([parts, _WORDS, dimension // parts], np.float32)
    self._centres = np.zeros([0, dimension], np.float32)
    self._lists = np.zeros([0], np.int32)
    self._codes = np.zeros([0, parts], np.uint8)
    self._index = None

  def __len__(self):
    return len(self._lists)

  @property
  def trained(self):
    """Whether vectors can be added."""
    return len(self._centres) > 0

  def train(self, vectors):
    """Finds lists and words.

    Args:
      vectors: [N, D] float32, at least 256; some thousand for each hundred of
        lists. What was added is lost.

    Raises:
      InputError: If they are fewer than 256.
    """
    import faiss

    if len(vectors) < _WORDS:
      raise errors.InputError(
        f"at least {_WORDS} descriptors to train a compressed index with"
        " (an exact one needs none)",
        f"{len(vectors)}",
      )
    self.__init__(self._dimension, self._options)
    lists = self._options.lists or min(
      int(4 * len(vectors) ** 0.5), max(1, len(vectors) // _EACH)
    )
    lists = min(lists, len(vectors))
    index = self._new_index(lists)
    # What it says of few goes to standard error, past our own words.
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.train(np.ascontiguousarray(vectors))
    self._centres = index.quantizer.reconstruct_n(0, lists)
    self._words = faiss.vector_to_array(index.pq.centroids).reshape(
      self._words.shape
    )

  def add(self, vectors):
    """Adds [N, D] float32 vectors."""
    index = self._faiss()
    lists = index.quantizer.search(vectors, 1)[1][:, 0]
    codes = index.pq.compute_codes(vectors - self._centres[lists])
    self._extend(lists.astype(np.int32), codes)

  def search(self, queries, k, probes=None):
    """Returns [Q, k] scores and [Q, k] rows (-1 pads), in no set order."""
    import faiss

    parameters = faiss.SearchParametersIVF(
      nprobe=min(probes or self._options.probes, len(self._centres))
    )
    return self._faiss().search(queries, k, params=parameters)

  def remove(self, keep):
    """Removes the rows that are not in [N] bool."""
    self._lists, self._codes = self._lists[keep], self._codes[keep]
    self._index = None

  def merge(self, other):
    """Adds the codes of another object.

    Raises:
      InputError: If it was trained apart: its codes mean something else.
    """
    same = all(
      np.array_equal(getattr(self, name), getattr(other, name))
      for name in ("_centres", "_words")
    )
    if not same:
      raise errors.InputError(
        "a compressed index of the same training (loaded from one file)",
        "one that was trained apart",
      )
    self._extend(other._lists, other._codes)

  def arrays(self):
    """Returns the arrays of a file, by name."""
    return {
      "centres": self._centres,
      "words": self._words,
      "lists": self._lists,
      "codes": self._codes,
    }

  @classmethod
  def from_arrays(cls, arrays, dimension, options, path):
    """Creates an object from what `arrays` gave.

    Raises:
      InputError: If they are not arrays of one.
    """
    codes = cls(dimension, options)
    expected = codes.arrays()
    for name, array in expected.items():
      if name not in arrays or arrays[name].dtype != array.dtype:
        raise errors.InputError("a compressed index", f"no {name}", path)
    found = {name: np.array(arrays[name]) for name in expected}
    fits = all(
      found[name].shape[1:] == array.shape[1:]
      for name, array in expected.items()
    )
    fits = fits and len(found["words"]) == len(codes._words)
    fits = fits and len(found["lists"]) == len(found["codes"])
    lists, number = found["lists"], len(found["centres"])
    fits = fits and np.all((lists >= 0) & (lists < number))
    floats = ("centres", "words")
    if not fits or not all(np.isfinite(found[name]).all() for name in floats):
      raise errors.InputError("codes that fit their lists", "others", path)
    codes._centres, codes._words = found["centres"], found["words"]
    codes._lists, codes._codes = lists, found["codes"]
    return codes

  def _extend(self, lists, codes):
    self._lists = np.concatenate([self._lists, lists])
    self._codes = np.concatenate([self._codes, codes])
    self._index = None

  def _new_index(self, lists):
    """Returns an untrained faiss index."""
    import faiss

    quantizer = faiss.IndexFlatIP(self._dimension)
    return faiss.IndexIVFPQ(
      quantizer,
      self._dimension,
      lists,
      len(self._words),
      8,
      faiss.METRIC_INNER_PRODUCT,
    )

  def _faiss(self):
    """Returns the faiss index of the arrays."""
    import faiss

    if self._index is not None:
      return self._index
    index = self._new_index(len(self._centres))
    index.quantizer.add(self._centres)
    faiss.copy_array_to_vector(self._words.ravel(), index.pq.centroids)
    index.is_trained = True
    order = np.argsort(self._lists, kind="stable").astype(np.int64)
    codes = np.ascontiguousarray(self._codes[order])
    starts = np.searchsorted(
      self._lists[order], np.arange(len(self._centres) + 1)
    )
    for number, (start, end) in enumerate(
      zip(starts[:-1], starts[1:], strict=True)
    ):
      if end > start:
        index.invlists.add_entries(
          number,
          int(end - start),
          faiss.swig_ptr(order[start:end]),
          faiss.swig_ptr(codes[start:end]),
        )
    index.ntotal = len(self)
    self._index = index
    return index


def _parts(dimension):
  """Returns the largest divisor of D that is at most D / 4, or 1."""
  return next(
    parts
    for parts in range(max(dimension // 4, 1), 0, -1)
    if not dimension % parts
  )


_KIND = "approximate index"
HNSW, IVFPQ = "hnsw", "ivfpq"
_METHODS = {
  HNSW: (HnswGraph, HnswOptions),
  IVFPQ: (ProductCodes, IvfPqOptions),
}
METHODS = tuple(_METHODS)
# Dimension; a file that states more is not believed.
_LARGEST = 1 << 16


class ApproximateIndex:
  """Images searched by dot product, faster than exactly, with some missed.

  "hnsw" keeps descriptors whole and finds nearly all; "ivfpq" keeps codes of
  some bytes, and its scores are those of what the codes stand for.
  `ranking.recall` measures either against exact search. HNSW needs descriptors
  of unit length.

  A file holds the arrays of what faiss works with, which are checked when they
  are read; faiss's own files are not used, because its reader trusts them.
  """

  def __init__(self, method=HNSW, **options):
    """Creates an empty index.

    Args:
      method: "hnsw" or "ivfpq".
      **options: Fields of hnsw_graph.HnswOptions or product_codes.IvfPqOptions.

    Raises:
      InputError: If there is no such method, or an option is wrong.
    """
    if method not in _METHODS:
      raise errors.InputError(f"one of {', '.join(METHODS)}", repr(method))
    self._method = method
    try:
      self._options = _METHODS[method][1](**options)
    except TypeError as error:
      raise errors.InputError(
        f"options of {method}", errors.one_line(error)
      ) from None
    self._names = ranking.NameList()
    self._empty = np.zeros([0], bool)
    self._dimension = None
    # Of the images that have a descriptor, in their order.
    self._vectors = None

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

  def train(self, descriptors):
    """Fits an empty "ivfpq" to descriptors; "hnsw" needs none.

    Without it, the first that are added are trained with.

    Args:
      descriptors: As in `add`; a sample of at least 256, better of 50 for each
        list.

    Raises:
      InputError: If the index has images, or they are too few or not fit.
    """
    if len(self):
      raise errors.InputError("an empty index to train", f"{len(self)} images")
    stacked, empty = arrays.stack_descriptors(descriptors, self._dimension)
    self._prepare(stacked[~empty], train=True)

  def add(self, names, descriptors):
    """Adds images at the end; see `dense_index.DenseIndex.add`.

    Raises:
      InputError: As there, or if "ivfpq" is not trained and there are fewer
        than 256.
    """
    stacked, empty = arrays.stack_descriptors(descriptors, self._dimension)
    names = self._names.check(names, len(stacked))
    if not empty.all():
      self._prepare(stacked[~empty])
      self._vectors.add(stacked[~empty])
    self._names.add(names)
    self._empty = np.concatenate([self._empty, empty])

  def search(self, queries, k, effort=None):
    """Finds images with large dot products.

    Args:
      queries: As in `dense_index.DenseIndex.search`.
      k: Number of images a query.
      effort: For this search in place of the option `search_depth` or `probes`.

    Returns:
      ranking.Ranking with k columns; a search that finds fewer has -1 last.

    Raises:
      InputError: As there, or if the effort is not over 0.
    """
    k = ranking.check_k(k)
    if effort is not None and (type(effort) is not int or effort < 1):
      raise errors.InputError("an effort over 0", repr(effort))
    queries, none = arrays.stack_descriptors(
      queries, self._dimension, "queries"
    )
    ids = np.full([len(queries), k], -1, np.int64)
    scores = np.full([len(queries), k], -np.inf, np.float32)
    some = min(k, len(self._vectors or ()))
    if some and len(queries):
      found, rows = self._vectors.search(queries, some, effort)
      there = (rows >= 0) & ~none[:, None]
      places = np.flatnonzero(~self._empty)
      ids[:, :some] = np.where(there, places[rows], -1)
      scores[:, :some] = np.where(there, found, -np.inf)
    order = np.lexsort((ids, -scores), axis=1)
    return ranking.Ranking(
      np.take_along_axis(ids, order, axis=1).astype(np.int32),
      np.take_along_axis(scores, order, axis=1),
    )

  def remove(self, names):
    """Removes images; those after them move up.

    Raises:
      InputError: If a name is not there; none is removed then.
    """
    keep = np.ones([len(self)], bool)
    keep[self._names.ids(names)] = False
    if self._vectors is not None:
      self._vectors.remove(keep[~self._empty])
    self._empty = self._empty[keep]
    self._names = self._names.kept(keep)

  def merge(self, other):
    """Adds all images of another ApproximateIndex at the end.

    Raises:
      InputError: If a name is in both, or the method, options, D, or the
        training of "ivfpq" differ.
    """
    if not isinstance(other, ApproximateIndex) or (
      (other._method, other._options) != (self._method, self._options)
    ):
      raise errors.InputError(
        f"an index of {self._method} with the same options", "another"
      )
    arrays.check_same_dimension(self._dimension, other.dimension)
    names = self._names.check(other.names)
    if other._vectors is not None and self._vectors is None:
      self._dimension = other.dimension
      self._vectors = self._of_arrays(other._vectors.arrays(), None)
    elif other._vectors is not None:
      self._vectors.merge(other._vectors)
    self._names.add(names)
    self._empty = np.concatenate([self._empty, other._empty])

  def save(self, path):
    """Writes the index to one file, whole or not at all."""
    header = {
      "method": self._method,
      "options": dataclasses.asdict(self._options),
      "dimension": self._dimension,
    }
    arrays = {
      **array_file.encode_names(self.names),
      "empty": self._empty.astype(np.uint8),
      **(self._vectors.arrays() if self._vectors is not None else {}),
    }
    array_file.write(path, _KIND, header, arrays)

  @classmethod
  def load(cls, path, verify=False):
    """Reads an index into memory.

    Args:
      path: Local path.
      verify: Whether to compare checksums.

    Returns:
      ApproximateIndex.

    Raises:
      FileNotFoundError: If there is no such file.
      InputError: If it is another kind of file, cut, changed so that it makes
        no sense, or of a newer version.
    """
    header, arrays = array_file.read(path, _KIND, verify)
    names = array_file.decode_names(arrays, path)
    dimension, empty = header.get("dimension"), arrays.get("empty")
    known = type(dimension) is int and 1 <= dimension <= _LARGEST
    if (
      not (known or dimension is None)
      or empty is None
      or empty.shape != (len(names),)
    ):
      raise errors.InputError("an index that fits its names", "another", path)
    try:
      index = cls(header["method"], **header["options"])
    except (errors.InputError, KeyError, TypeError) as error:
      raise errors.InputError(
        "an index with its options", errors.one_line(error), path
      ) from None
    index._names = ranking.NameList(names, path)
    index._empty = np.array(empty, bool)
    index._dimension = dimension
    if dimension is not None:
      index._vectors = index._of_arrays(arrays, path)
    number = len(index._vectors or ())
    if number != np.count_nonzero(~index._empty):
      raise errors.InputError("a descriptor of each image", "others", path)
    return index

  def _of_arrays(self, arrays, path):
    kind = _METHODS[self._method][0]
    return kind.from_arrays(arrays, self._dimension, self._options, path)

  def _prepare(self, vectors, train=False):
    """Makes what holds vectors, of their dimension, and trains it."""
    if self._vectors is None or train:
      made = _METHODS[self._method][0](vectors.shape[1], self._options)
      if not made.trained:
        made.train(vectors)
      self._vectors, self._dimension = made, vectors.shape[1]
