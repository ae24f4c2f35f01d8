"""Rows of the table of bad input: global descriptors and rankings."""

import functools

import faiss
import numpy as np

from delf.formats import array_file
from delf.indexes import approximate, dense, ranking, refinement

# What -> (function of a folder and a model, words that the line must have). The
# function returns arguments of `delf`, or a call of the library.
CASES = {}
_ROWS = np.eye(4, dtype=np.float32)
_NAMES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _index():
  index = dense.DenseIndex()
  index.add(_NAMES, _ROWS)
  return index


def _adding(names, descriptors):
  return functools.partial(_index().add, names, descriptors)


@_case("descriptor of another dimension", "dimension 4", "not 5")
def _dimension(folder, model):
  return _adding(["e.jpg"], np.ones([1, 5]))


@_case("query of another dimension", "queries must have dimension 4")
def _query(folder, model):
  return functools.partial(_index().search, np.ones([1, 5]), 1)


@_case("descriptor that is not a number", "finite", "NaN")
def _nan(folder, model):
  return _adding(["e.jpg"], np.full([1, 4], np.nan))


@_case("image that is indexed already", "already in the index", "b.jpg")
def _again(folder, model):
  return _adding(["b.jpg"], _ROWS[:1])


@_case("image that is given twice", "unique", "e.jpg")
def _twice(folder, model):
  return _adding(["e.jpg", "e.jpg"], _ROWS[:2])


@_case("image that is not in the index", "not in the index", "x.jpg")
def _unknown(folder, model):
  return functools.partial(_index().remove, ["x.jpg"])


@_case("descriptor too large for float16", "float16")
def _large(folder, model):
  index = dense.DenseIndex("float16")
  return functools.partial(index.add, ["e.jpg"], np.full([1, 4], 1e9))


@_case("dense index that is cut", "my.index", "whole index")
def _cut(folder, model):
  path = folder / "my.index"
  _index().save(path)
  path.write_bytes(path.read_bytes()[:-1])
  return functools.partial(dense.DenseIndex.load, path)


@_case("dense index whose values were changed", "my.index", "checksum")
def _changed(folder, model):
  path = folder / "my.index"
  _index().save(path)
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  return functools.partial(dense.DenseIndex.load, path, verify=True)


@_case("graph whose links lead nowhere", "my.index", "faiss cannot search")
def _links(folder, model):
  path = folder / "my.index"
  index = approximate.ApproximateIndex("hnsw")
  index.add(_NAMES, _ROWS)
  index.save(path)
  header, arrays = array_file.read(path, "approximate index")
  graph = faiss.deserialize_index(np.array(arrays["faiss"]))
  links = faiss.vector_to_array(graph.hnsw.neighbors)
  faiss.copy_array_to_vector(links + 9, graph.hnsw.neighbors)
  changed = {**arrays, "faiss": faiss.serialize_index(graph)}
  array_file.write(path, "approximate index", header, changed)
  return functools.partial(approximate.ApproximateIndex.load, path)


@_case("too few images for a compressed index", "at least 256", "4 descriptors")
def _few(folder, model):
  index = approximate.ApproximateIndex("ivfpq")
  return functools.partial(index.add, _NAMES, _ROWS)


@_case("refinement that there is not", "diffusion", "'difusion'")
def _refinement(folder, model):
  found = ranking.top_k(_ROWS)
  return functools.partial(refinement.refine, "difusion", _ROWS, found, _ROWS)


@_case("rankings of other queries to fuse", "of the same queries")
def _fusion(folder, model):
  pair = [ranking.top_k(_ROWS), ranking.top_k(_ROWS[:1])]
  return functools.partial(ranking.fuse, pair)
