"""Approximate search among global descriptors with faiss: HNSW and IVF-PQ."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np

from delf.base import arrays, errors, files
from delf.formats import array_file
from delf.indexes import ranking
from delf.indexes.ranking import DescriptorIndex, Descriptors

HNSW, IVFPQ = METHODS = ("hnsw", "ivfpq")
_KIND = "approximate index"
_PRODUCT = faiss.METRIC_INNER_PRODUCT
_LARGEST = 1 << 16  # Dimension; a file with more is rejected.
_CENTROIDS = 256  # Centroids of each part of a vector: the values of a byte.
_PER_CENTROID = 39  # Training vectors per centroid, as faiss recommends.


@dataclasses.dataclass(frozen=True)
class HnswOptions:
  """M, efConstruction and ef of Malkov and Yashunin, PAMI 2020.

  Besides its descriptor an image takes 8 * links bytes, as the lowest level has
  2 * links. A search keeps at least k candidates.
  """

  links: int = 32
  build_depth: int = 100
  search_depth: int = 128

  def __post_init__(self) -> None:
    for name, value in dataclasses.asdict(self).items():
      if type(value) is not int or not 2 <= value <= 1 << 16:
        raise errors.InputError(f"{name} must be 2 to 65536, not {value!r}")


@dataclasses.dataclass(frozen=True)
class IvfPqOptions:
  """Lists, codes and probes of Jegou, Douze and Schmid, PAMI 2011 (IVFADC)."""

  # Number of inverted lists. None: 4 times the square root of the number of
  # training vectors, but at least 39 of them per list.
  lists: int | None = None
  # Bytes per compressed vector, a divisor of D. None: D / 4 or the next smaller
  # divisor, 1/16 of the size.
  code_bytes: int | None = None
  probes: int = 32  # Lists that a search reads.

  def __post_init__(self) -> None:
    for name, value in dataclasses.asdict(self).items():
      if value is None and name != "probes":
        continue
      if type(value) is not int or not 1 <= value <= 1 << 24:
        raise errors.InputError(f"{name} must be over 0, not {value!r}")


class _Vectors:
  """A faiss index, and whether each vector ever added is alive (not removed).

  Ids number all vectors ever added, rows only those alive.
  """

  _add: Callable  # Adds contiguous vectors [N, D] with ids [N].
  _parameters: Callable  # Returns faiss's search parameters.

  def __init__(self, index, options, alive=()):
    self.index, self.options = index, options
    self.alive = np.array(alive, bool)

  def __len__(self) -> int:
    return int(np.count_nonzero(self.alive))

  def add(self, vectors):
    ids = np.arange(len(vectors)) + len(self.alive)
    self._add(np.ascontiguousarray(vectors), ids)
    self.alive = np.concatenate([self.alive, np.ones([len(vectors)], bool)])

  def search(self, queries, k, effort):
    """Return [Q, k] scores and rows (-1 pads), in no particular order."""
    # Kept alive during the search: faiss reads it in place.
    bits = np.packbits(self.alive, bitorder="little")
    parameters = self._parameters(k, effort, bits)
    scores, ids = self.index.search(queries, k, params=parameters)
    return scores, np.where(ids >= 0, (np.cumsum(self.alive) - 1)[ids], -1)

  def copy(self):
    return type(self)(faiss.clone_index(self.index), self.options, self.alive)


class _Hnsw(_Vectors):
  """Vectors and a graph over them.

  Removed vectors stay in the graph as steps of the search; once over half are
  removed, the graph is rebuilt.
  """

  @classmethod
  def create(cls, vectors, options):
    """Return an empty graph for the dimension of vectors [N, D]."""
    index = faiss.IndexHNSWFlat(vectors.shape[1], options.links, _PRODUCT)
    index.hnsw.efConstruction = options.build_depth
    return cls(index, options)

  def _add(self, vectors, _):
    self.index.add(vectors)

  def _parameters(self, k, effort, bits):
    # A depth over all vectors is useless, and may overflow in faiss.
    depth = min(effort or self.options.search_depth, len(self.alive))
    parameters = faiss.SearchParametersHNSW()  # type: ignore[attr-defined]
    parameters.efSearch = max(depth, k)
    if not self.alive.all():
      parameters.sel = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg]
    return parameters

  def remove(self, keep):
    self.alive[np.flatnonzero(self.alive)[~keep]] = False
    if 2 * len(self) < len(self.alive):
      vectors = _rows(self.index.storage)[self.alive]
      self.index = self.create(vectors, self.options).index
      self.alive = self.alive[:0]
      self.add(vectors)

  def merge(self, other):
    self.add(_rows(other.index.storage)[other.alive])

  def is_sound(self, dimension):
    """Return whether an index read from a file fits the options."""
    index, number = self.index, len(self.alive)
    if not (
      isinstance(index, faiss.IndexHNSWFlat)
      and _header(index) == (dimension, _PRODUCT, True, number)
      and _is_flat(index.storage, dimension, number)
    ):
      return False
    index.hnsw.efConstruction = self.options.build_depth
    new = self.create(np.zeros([0, dimension]), self.options).index
    one, two = (
      (_array(i.hnsw.assign_probas), _array(i.hnsw.cum_nneighbor_per_level))
      for i in (index, new)
    )
    return self._has_sound_levels() and all(map(np.array_equal, one, two))

  def _has_sound_levels(self):
    """Return whether links above the lowest level stay within their level.

    faiss 1.15 follows them from the top without a check.
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
  """Codes of vectors, in one list per cluster."""

  @classmethod
  def create(cls, vectors, options):
    """Return empty lists, with centroids trained on vectors [N, D]."""
    if len(vectors) < _CENTROIDS:
      raise errors.InputError(
        f"{len(vectors)} descriptors cannot train a compressed index, which"
        f" needs at least {_CENTROIDS} (an exact one needs none)"
      )
    lists = options.lists or min(
      int(4 * len(vectors) ** 0.5), max(1, len(vectors) // _PER_CENTROID)
    )
    index = _new_codes(vectors.shape[1], min(lists, len(vectors)), options)
    # Keeps faiss from warning of few vectors on standard error.
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.train(np.ascontiguousarray(vectors))
    return cls(index, options)

  def _add(self, vectors, ids):
    self.index.add_with_ids(vectors, ids)

  def _parameters(self, _, effort, __):
    probes = min(effort or self.options.probes, self.index.nlist)
    return faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]

  def remove(self, keep):
    ids = np.flatnonzero(self.alive)[~keep]
    self.index.remove_ids(ids)
    self.alive[ids] = False

  def merge(self, other):
    if not all(map(np.array_equal, self._trained(), other._trained())):
      raise errors.InputError(
        "compressed indexes that were trained separately cannot be merged: load"
        " both from copies of one trained file"
      )
    self.index.merge_from(other.copy().index, len(self.alive))
    self.alive = np.concatenate([self.alive, other.alive])

  def _trained(self):
    return _rows(self.index.quantizer), _array(self.index.pq.centroids)

  def is_sound(self, dimension):
    """Return whether an index read from a file fits the options."""
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
      and index.direct_map.type == faiss.DirectMap.NoMap  # type: ignore[attr-defined]
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
  quarter = range(max(dimension // 4, 1), 0, -1)
  parts = options.code_bytes or next(n for n in quarter if not dimension % n)
  if dimension % parts:
    message = f"code_bytes must divide the dimension {dimension}, not {parts}"
    raise errors.InputError(message)
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
  """Return whether a faiss index stores `number` finite vectors."""
  index = index and faiss.downcast_index(index)
  return (
    isinstance(index, faiss.IndexFlat)
    and _header(index) == (dimension, _PRODUCT, True, number)
    and index.codes.size() == 4 * dimension * number
    and bool(np.isfinite(_rows(index)).all())
  )


_KINDS: dict[str, Any] = {
  HNSW: (_Hnsw, HnswOptions),
  IVFPQ: (_IvfPq, IvfPqOptions),
}


class ApproximateIndex(DescriptorIndex):
  """Images searched by dot product, faster than exact search, but with misses.

  "hnsw" keeps whole descriptors, which must have unit length, and misses few
  images. "ivfpq" keeps short codes; scores are those of the decoded vectors.
  `ranking.recall` compares either with exact search.

  A file holds the index as faiss writes it. Reading limits the memory of faiss
  and checks the result against the options (`tools/fuzz_index.py`).
  """

  def __init__(self, method: str = HNSW, **options: int | None) -> None:
    """Create an empty index; options are fields of the method's dataclass."""
    if method not in METHODS:
      choices = " or ".join(METHODS)
      raise errors.InputError(f"method must be {choices}, not {method!r}")
    super().__init__()
    self._method = method
    self._kind, make_options = _KINDS[method]
    try:
      self._options = make_options(**options)
    except TypeError as error:
      message = f"wrong options of {method}: {errors.one_line(error)}"
      raise errors.InputError(message) from None
    self._vectors: Any = None  # Of the images with a descriptor, in order.

  def train(self, descriptors: Descriptors) -> None:
    """Fit an empty "ivfpq" to a sample of at least 256, better 50 per list.

    Otherwise the first call of `add` trains it. "hnsw" needs no training.
    """
    if len(self):
      message = f"only an empty index can be trained, not {len(self)} images"
      raise errors.InputError(message)
    stacked, empty = arrays.stack_descriptors(descriptors, self.dimension)
    self._create(stacked[~empty])

  def add(self, names: Sequence[str], descriptors: Descriptors) -> None:
    """Add images at the end; see `dense.DenseIndex.add`.

    An untrained "ivfpq" needs at least 256.
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

    Rows with fewer than k images end with -1. `effort` overrides the option
    `search_depth` or `probes`.
    """
    k = ranking.check_k(k)
    if effort is not None and (type(effort) is not int or effort < 1):
      raise errors.InputError(f"effort must be over 0, not {effort!r}")
    queries, none = arrays.stack_descriptors(queries, self.dimension, "queries")
    ids = np.full([len(queries), k], -1, np.int64)
    scores = np.full([len(queries), k], -np.inf, np.float32)
    if self._vectors and len(queries):
      some = min(k, len(self._vectors))
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
    """Append all images of another index.

    Method, options, D and the training of "ivfpq" must be the same.
    """
    if not isinstance(other, ApproximateIndex) or (
      (other._method, other._options) != (self._method, self._options)
    ):
      message = f"can only merge {self._method} with the same options"
      raise errors.InputError(message)
    arrays.check_same_dimension(self.dimension, other.dimension)
    names = self._check_names(other.names)
    if self._vectors is None and other._vectors is not None:
      self.dimension, self._vectors = other.dimension, other._vectors.copy()
    elif other._vectors is not None:
      self._vectors.merge(other._vectors)
    self._add_names(names)
    self.empty = np.concatenate([self.empty, other.empty])

  def save(self, path: files.Path) -> None:
    """Write the index to a local file, whole or not at all."""
    options = dataclasses.asdict(self._options)
    header: dict[str, Any] = {"method": self._method, "options": options}
    header["dimension"] = self.dimension
    contents = array_file.encode_names(self.names)
    contents["empty"] = self.empty.astype(np.uint8)
    if self._vectors is not None:
      contents["alive"] = self._vectors.alive.astype(np.uint8)
      contents["faiss"] = faiss.serialize_index(self._vectors.index)
    array_file.write(path, _KIND, header, contents)

  @classmethod
  def load(cls, path: files.Path, verify: bool = False) -> "ApproximateIndex":
    """Read an index into memory; see `dense.DenseIndex.load`."""
    header, contents = array_file.read(path, _KIND, verify)
    names = array_file.decode_names(contents, path)
    dimension, empty = header.get("dimension"), contents.get("empty")
    known = type(dimension) is int and 1 <= dimension <= _LARGEST
    fits = getattr(empty, "shape", None) == (len(names),)
    if not (known or dimension is None) or not fits:
      raise errors.InputError("the index does not fit its names", path=path)
    try:
      index = cls(header["method"], **header["options"])
    except (errors.InputError, KeyError, TypeError) as error:
      message = f"the index has wrong options: {errors.one_line(error)}"
      raise errors.InputError(message, path=path) from None
    index._set_names(names, path)
    index.empty, index.dimension = np.array(empty, bool), dimension
    if dimension is not None:
      index._vectors = index._read_vectors(contents, path)
    if len(index._vectors or ()) != np.count_nonzero(~index.empty):
      raise errors.InputError("images lack their descriptors", path=path)
    return index

  def _read_vectors(self, contents, path):
    data, alive = contents.get("faiss"), contents.get("alive")
    if data is None and ("vectors" in contents or "codes" in contents):
      message = "the index is of an older version of delf: build it again"
      raise errors.InputError(message, path=path)
    kinds = [a is not None and (a.dtype, a.ndim) for a in (data, alive)]
    if kinds != [(np.uint8, 1)] * 2:
      raise errors.InputError("the index lacks its vectors", path=path)
    try:
      # The table of products with centroids is not part of the file, and dot
      # products do not need it.
      flags = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE
      with _limits(len(data)):
        read = faiss.deserialize_index(np.asarray(data), flags)
    except (RuntimeError, MemoryError):
      read = None
    vectors = self._kind(read, self._options, alive)
    if not vectors.is_sound(self.dimension):
      raise errors.InputError("faiss cannot search this index", path=path)
    return vectors


@contextlib.contextmanager
def _limits(size):
  """Keep faiss from reading vectors or lists longer than `size`."""
  kinds = "vector_byte", "loop"
  before = [getattr(faiss, f"get_deserialization_{k}_limit")() for k in kinds]
  try:
    for kind in kinds:
      getattr(faiss, f"set_deserialization_{kind}_limit")(size)
    yield
  finally:
    for kind, limit in zip(kinds, before, strict=True):
      getattr(faiss, f"set_deserialization_{kind}_limit")(limit)
