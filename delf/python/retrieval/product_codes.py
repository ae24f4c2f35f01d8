"""Compressed vectors in lists (IVF-PQ), to and from arrays that are checked."""

import dataclasses

import numpy as np

from delf.python import errors

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
