"""Approximate search among global descriptors, by faiss: HNSW and IVF-PQ."""

import dataclasses

import numpy as np

from delf.python import errors
from delf.python.retrieval import (
  descriptor_arrays,
  hnsw_graph,
  index_file,
  name_list,
  product_codes,
  ranking,
)

_KIND = "approximate index"
HNSW, IVFPQ = "hnsw", "ivfpq"
_METHODS = {
  HNSW: (hnsw_graph.HnswGraph, hnsw_graph.HnswOptions),
  IVFPQ: (product_codes.ProductCodes, product_codes.IvfPqOptions),
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
    self._names = name_list.NameList()
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
    stacked, empty = descriptor_arrays.stack(descriptors, self._dimension)
    self._prepare(stacked[~empty], train=True)

  def add(self, names, descriptors):
    """Adds images at the end; see `dense_index.DenseIndex.add`.

    Raises:
      InputError: As there, or if "ivfpq" is not trained and there are fewer
        than 256.
    """
    stacked, empty = descriptor_arrays.stack(descriptors, self._dimension)
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
    queries, none = descriptor_arrays.stack(queries, self._dimension, "queries")
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
    descriptor_arrays.check_same(self._dimension, other.dimension)
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
      **index_file.encode_names(self.names),
      "empty": self._empty.astype(np.uint8),
      **(self._vectors.arrays() if self._vectors is not None else {}),
    }
    index_file.write(path, _KIND, header, arrays)

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
    header, arrays = index_file.read(path, _KIND, verify)
    names = index_file.decode_names(arrays, path)
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
    index._names = name_list.NameList(names, path)
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
