"""Approximate search among global descriptors, by faiss: HNSW and IVF-PQ."""

import contextlib
import dataclasses
from collections.abc import Sequence

import faiss
import numpy as np

from delf.base import arrays, errors
from delf.formats import array_file
from delf.indexes import ranking
from delf.indexes.ranking import DescriptorIndex, Descriptors, Path

HNSW, IVFPQ = METHODS = ("hnsw", "ivfpq")
_KIND = "approximate index"
_PRODUCT = faiss.METRIC_INNER_PRODUCT
# Dimension; a file that states more is not believed.
_LARGEST = 1 << 16
# Centroids of each part of a vector: the values of a byte.
_CENTROIDS = 256
# faiss recommends so many vectors for each centroid.
_PER_CENTROID = 39


@dataclasses.dataclass(frozen=True)
class HnswOptions:
  """Malkov and Yashunin, PAMI 2020: M, efConstruction and ef.

  Memory is 8 * links bytes an image beside the descriptor: twice as many links
  at the lowest level. A search uses at least k candidates.
  """

  links: int = 32
  build_depth: int = 100
  search_depth: int = 128

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if type(value) is not int or not 2 <= value <= 1 << 16:
        raise errors.InputError(f"{name} from 2 to 65536", repr(value))


@dataclasses.dataclass(frozen=True)
class IvfPqOptions:
  """Jegou, Douze and Schmid, PAMI 2011 (IVFADC)."""

  # Lists that vectors are divided into, or None: 4 times the square root of the
  # number of vectors that it is trained with, and fewer where each would have
  # less than 39.
  lists: int | None = None
  # Bytes of a compressed vector; D must be a multiple. None: D / 4 (or the
  # largest divisor of D below), 1/16 of the size.
  code_bytes: int | None = None
  probes: int = 32  # Lists that a search reads.

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if value is None and name != "probes":
        continue
      if type(value) is not int or not 1 <= value <= 1 << 24:
        raise errors.InputError(f"{name} over 0", repr(value))


class _Vectors:
  """A faiss index, and whether each vector ever added to it is alive.

  Ids count all vectors, rows those that are alive: not removed.
  """

  def __init__(self, index, options, alive=()):
    self.index, self.options = index, options
    self.alive = np.array(alive, bool)

  def __len__(self):
    return int(np.count_nonzero(self.alive))

  def add(self, vectors):
    ids = np.arange(len(vectors)) + len(self.alive)
    self._add(np.ascontiguousarray(vectors), ids)
    self.alive = np.concatenate([self.alive, np.ones([len(vectors)], bool)])

  def search(self, queries, k, effort):
    """Return [Q, k] scores and [Q, k] rows (-1 pads), in no set order."""
    # Held until the search is done: faiss reads it in place.
    bits = np.packbits(self.alive, bitorder="little")
    parameters = self._parameters(k, effort, bits)
    scores, ids = self.index.search(queries, k, params=parameters)
    return scores, np.where(ids >= 0, (np.cumsum(self.alive) - 1)[ids], -1)

  def copy(self):
    return type(self)(faiss.clone_index(self.index), self.options, self.alive)


class _Hnsw(_Vectors):
  """Vectors and the graph over them.

  Removed vectors stay in the graph, as steps of the search, until half of it
  is removed; then it is built anew.
  """

  @classmethod
  def create(cls, vectors, options):
    """Return a graph without vectors, of the dimension of [N, D]."""
    index = faiss.IndexHNSWFlat(vectors.shape[1], options.links, _PRODUCT)
    index.hnsw.efConstruction = options.build_depth
    return cls(index, options)

  def _add(self, vectors, _):
    self.index.add(vectors)

  def _parameters(self, k, effort, bits):
    # More than all is no deeper, and may be more than faiss can count.
    depth = min(effort or self.options.search_depth, len(self.alive))
    parameters = faiss.SearchParametersHNSW(efSearch=max(depth, k))
    if not self.alive.all():
      parameters.sel = faiss.IDSelectorBitmap(bits)
    return parameters

  def remove(self, keep):
    self.alive[np.flatnonzero(self.alive)[~keep]] = False
    if 2 * len(self) < len(self.alive):
      vectors = _rows(self.index.storage)[self.alive]
      self.__init__(self.create(vectors, self.options).index, self.options)
      self.add(vectors)

  def merge(self, other):
    self.add(_rows(other.index.storage)[other.alive])

  def is_sound(self, dimension):
    """Return whether an index that was read can be used with these options."""
    index, number = self.index, len(self.alive)
    if not (
      isinstance(index, faiss.IndexHNSWFlat)
      and _header(index) == (dimension, _PRODUCT, True, number)
      and _is_flat(index.storage, dimension, number)
    ):
      return False
    index.hnsw.efConstruction = self.options.build_depth
    new = self.create(np.zeros([0, dimension]), self.options).index
    tables = ("assign_probas", "cum_nneighbor_per_level")
    return self._has_sound_levels() and all(
      np.array_equal(*(_array(getattr(i.hnsw, t)) for i in (index, new)))
      for t in tables
    )

  def _has_sound_levels(self):
    """Return whether links above the lowest level lead to images there.

    faiss 1.15 starts at the top and follows these links without a check.
    """
    graph, links = self.index.hnsw, self.options.links
    levels, neighbors = _array(graph.levels), _array(graph.neighbors)
    top, entry = int(levels.max(initial=0)), graph.entry_point
    start = levels[entry] if 0 <= entry < len(levels) else 0
    if graph.max_level != top - 1 or start != top:
      return False
    offsets = _array(graph.offsets)[:-1].astype(np.int64)
    for level in range(1, top):
      first = offsets[levels > level] + links * (level + 1)
      linked = neighbors[first[:, None] + np.arange(links)]
      if np.any(levels[linked[linked >= 0]] <= level):
        return False
    return True


class _IvfPq(_Vectors):
  """Codes of vectors, in lists of near ones."""

  @classmethod
  def create(cls, vectors, options):
    """Return lists and centroids that are trained with [N, D] vectors."""
    if len(vectors) < _CENTROIDS:
      raise errors.InputError(
        f"at least {_CENTROIDS} descriptors to train a compressed index with"
        " (an exact one needs none)",
        f"{len(vectors)}",
      )
    lists = options.lists or min(
      int(4 * len(vectors) ** 0.5), max(1, len(vectors) // _PER_CENTROID)
    )
    index = _new_codes(vectors.shape[1], min(lists, len(vectors)), options)
    # faiss would warn of few vectors on standard error.
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.train(np.ascontiguousarray(vectors))
    return cls(index, options)

  def _add(self, vectors, ids):
    self.index.add_with_ids(vectors, ids)

  def _parameters(self, _, effort, __):
    probes = min(effort or self.options.probes, self.index.nlist)
    return faiss.SearchParametersIVF(nprobe=probes)

  def remove(self, keep):
    ids = np.flatnonzero(self.alive)[~keep]
    self.index.remove_ids(ids)
    self.alive[ids] = False

  def merge(self, other):
    if not all(map(np.array_equal, self._trained(), other._trained())):
      raise errors.InputError(
        "a compressed index of the same training (loaded from one file)",
        "one that was trained apart",
      )
    self.index.merge_from(other.copy().index, len(self.alive))
    self.alive = np.concatenate([self.alive, other.alive])

  def _trained(self):
    return _rows(self.index.quantizer), _array(self.index.pq.centroids)

  def is_sound(self, dimension):
    """Return whether an index that was read can be used with these options."""
    index, alive = self.index, np.flatnonzero(self.alive)
    lists = index.nlist if isinstance(index, faiss.IndexIVFPQ) else 0
    if not (
      1 <= lists <= (self.options.lists or 1 << 24)
      and _header(index) == (dimension, _PRODUCT, True, len(alive))
      and _is_flat(index.quantizer, dimension, lists)
    ):
      return False
    new = _new_codes(dimension, lists, self.options)
    codes = faiss.downcast_InvertedLists(index.invlists)
    if not (
      index.by_residual
      and index.direct_map.type == faiss.DirectMap.NoMap
      and index.code_size == new.code_size
      and (index.pq.M, index.pq.nbits) == (new.pq.M, new.pq.nbits)
      and isinstance(codes, faiss.ArrayInvertedLists)
      and (codes.nlist, codes.code_size) == (lists, new.code_size)
      and np.isfinite(_array(index.pq.centroids)).all()
    ):
      return False
    ids = [np.zeros([0], np.int64)]
    for i in range(lists):
      if size := codes.list_size(i):
        ids.append(faiss.rev_swig_ptr(codes.get_ids(i), size))
    return np.array_equal(np.sort(np.concatenate(ids)), alive)


def _new_codes(dimension, lists, options):
  """Return an untrained IVF-PQ index."""
  parts = options.code_bytes or next(
    parts
    for parts in range(max(dimension // 4, 1), 0, -1)
    if not dimension % parts
  )
  if dimension % parts:
    raise errors.InputError(
      f"code_bytes that divide the dimension {dimension}", f"{parts}"
    )
  quantizer = faiss.IndexFlatIP(dimension)
  return faiss.IndexIVFPQ(quantizer, dimension, lists, parts, 8, _PRODUCT)


_array = faiss.vector_to_array


def _rows(flat):
  """View the vectors [N, D] float32 of a flat faiss index."""
  flat = faiss.downcast_index(flat)
  if not flat.ntotal:
    return np.zeros([0, flat.d], np.float32)
  values = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
  return values.reshape(-1, flat.d)


def _header(index):
  return index.d, index.metric_type, index.is_trained, index.ntotal


def _is_flat(index, dimension, number):
  """Return whether a faiss index holds so many finite vectors as they are."""
  index = index and faiss.downcast_index(index)
  return (
    isinstance(index, faiss.IndexFlat)
    and _header(index) == (dimension, _PRODUCT, True, number)
    and index.codes.size() == 4 * dimension * number
    and bool(np.isfinite(_rows(index)).all())
  )


_KINDS = {HNSW: (_Hnsw, HnswOptions), IVFPQ: (_IvfPq, IvfPqOptions)}


class ApproximateIndex(DescriptorIndex):
  """Images searched by dot product, faster than exactly, with some missed.

  "hnsw" keeps descriptors whole and finds nearly all; "ivfpq" keeps codes of
  some bytes, and its scores are those of the decoded vectors.
  `ranking.recall` measures either against exact search. HNSW needs descriptors
  of unit length.

  A file holds the index as faiss writes it. faiss reads it within limits, and
  the result is checked against the options (`tools/fuzz_index.py`).
  """

  def __init__(self, method: str = HNSW, **options: int | None):
    """Create an empty index; options are those of the method's dataclass."""
    if method not in METHODS:
      raise errors.InputError(f"one of {', '.join(METHODS)}", repr(method))
    super().__init__()
    self._method = method
    self._kind, make_options = _KINDS[method]
    try:
      self._options = make_options(**options)
    except TypeError as error:
      raise errors.InputError(
        f"options of {method}", errors.one_line(error)
      ) from None
    # Of the images that have a descriptor, in their order.
    self._vectors = None

  def train(self, descriptors: Descriptors) -> None:
    """Fit an empty "ivfpq" to a sample of at least 256, better of 50 per list.

    Without it, the first that are added are trained with. "hnsw" needs none.
    """
    if len(self):
      raise errors.InputError("an empty index to train", f"{len(self)} images")
    stacked, empty = arrays.stack_descriptors(descriptors, self.dimension)
    self._create(stacked[~empty])

  def add(self, names: Sequence[str], descriptors: Descriptors) -> None:
    """Add images at the end; see `dense.DenseIndex.add`.

    An "ivfpq" that is not trained needs at least 256.
    """
    stacked, empty = arrays.stack_descriptors(descriptors, self.dimension)
    names = self._check_names(names, len(stacked))
    if not empty.all():
      if self._vectors is None:
        self._create(stacked[~empty])
      self._vectors.add(stacked[~empty])
    self._add_names(names)
    self.empty = np.concatenate([self.empty, empty])

  def _create(self, vectors):
    self._vectors = self._kind.create(vectors, self._options)
    self.dimension = vectors.shape[1]

  def search(
    self, queries: Descriptors, k: int, effort: int | None = None
  ) -> ranking.Ranking:
    """Find images with large dot products; see `dense.DenseIndex.search`.

    A search that finds fewer than k has -1 last. `effort` is for this search in
    place of the option `search_depth` or `probes`.
    """
    k = ranking.check_k(k)
    if effort is not None and (type(effort) is not int or effort < 1):
      raise errors.InputError("an effort over 0", repr(effort))
    queries, none = arrays.stack_descriptors(queries, self.dimension, "queries")
    ids = np.full([len(queries), k], -1, np.int64)
    scores = np.full([len(queries), k], -np.inf, np.float32)
    some = min(k, len(self._vectors or ()))
    if some and len(queries):
      products, rows = self._vectors.search(queries, some, effort)
      known = (rows >= 0) & ~none[:, None]
      ids[:, :some] = np.where(known, np.flatnonzero(~self.empty)[rows], -1)
      scores[:, :some] = np.where(known, products, -np.inf)
    return ranking.sort_rows(ids, scores)

  def remove(self, names: str | Sequence[str]) -> None:
    """Remove images: all, or none if a name is unknown."""
    keep = self._without(names)
    if self._vectors is not None:
      self._vectors.remove(keep[~self.empty])
    self.empty = self.empty[keep]

  def merge(self, other: "ApproximateIndex") -> None:
    """Add all images of another index at the end.

    Method, options, D and the training of "ivfpq" must be the same.
    """
    if not isinstance(other, ApproximateIndex) or (
      (other._method, other._options) != (self._method, self._options)
    ):
      raise errors.InputError(
        f"an index of {self._method} with the same options", "another"
      )
    arrays.check_same_dimension(self.dimension, other.dimension)
    names = self._check_names(other.names)
    if other._vectors is not None and self._vectors is None:
      self.dimension, self._vectors = other.dimension, other._vectors.copy()
    elif other._vectors is not None:
      self._vectors.merge(other._vectors)
    self._add_names(names)
    self.empty = np.concatenate([self.empty, other.empty])

  def save(self, path: Path) -> None:
    """Write the index to one local file, whole or not at all."""
    header = {
      "method": self._method,
      "options": dataclasses.asdict(self._options),
      "dimension": self.dimension,
    }
    contents = {
      **array_file.encode_names(self.names),
      "empty": self.empty.astype(np.uint8),
    }
    if self._vectors is not None:
      contents["alive"] = self._vectors.alive.astype(np.uint8)
      contents["faiss"] = faiss.serialize_index(self._vectors.index)
    array_file.write(path, _KIND, header, contents)

  @classmethod
  def load(cls, path: Path, verify: bool = False) -> "ApproximateIndex":
    """Read an index into memory; see `dense.DenseIndex.load`."""
    header, contents = array_file.read(path, _KIND, verify)
    names = array_file.decode_names(contents, path)
    dimension, empty = header.get("dimension"), contents.get("empty")
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
    index._set_names(names, path)
    index.empty, index.dimension = np.array(empty, bool), dimension
    if dimension is not None:
      index._vectors = index._read_vectors(contents, path)
    if len(index._vectors or ()) != np.count_nonzero(~index.empty):
      raise errors.InputError("a descriptor of each image", "others", path)
    return index

  def _read_vectors(self, contents, path):
    data, alive = contents.get("faiss"), contents.get("alive")
    if data is None and ("vectors" in contents or "codes" in contents):
      raise errors.InputError(
        "an approximate index of this version of delf",
        "one of an older version (build it again)",
        path,
      )
    kinds = [a is not None and (a.dtype, a.ndim) for a in (data, alive)]
    if kinds != [(np.uint8, 1)] * 2:
      raise errors.InputError("an index with its vectors", "another", path)
    try:
      # No table of products with centroids: it is not part of the file, and
      # dot products do without.
      flags = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE
      with _limits(len(data)):
        read = faiss.deserialize_index(np.asarray(data), flags)
    except (RuntimeError, MemoryError):
      read = None
    vectors = self._kind(read, self._options, alive)
    if not vectors.is_sound(self.dimension):
      raise errors.InputError(
        "an index that faiss can search with its options", "another", path
      )
    return vectors


@contextlib.contextmanager
def _limits(size):
  """Let faiss read no vector of more bytes, and no list of more items."""
  kinds = "vector_byte", "loop"
  before = [getattr(faiss, f"get_deserialization_{k}_limit")() for k in kinds]
  try:
    for kind in kinds:
      getattr(faiss, f"set_deserialization_{kind}_limit")(size)
    yield
  finally:
    for kind, limit in zip(kinds, before, strict=True):
      getattr(faiss, f"set_deserialization_{kind}_limit")(limit)
