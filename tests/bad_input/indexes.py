"""Rows of the table of bad input: indexes of aggregated images."""

import functools
import struct

import numpy as np

from delf.indexes import dense, inverted

# What -> (function of a folder and a model, words that the line must have). The
# function returns arguments of `delf`, or a call of the library.
CASES = {}
_BITS = np.zeros([2, 4], np.uint8)


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _index(packed=True):
  options = inverted.AsmkOptions(packed, dimension=32, codebook_size=9)
  return inverted.InvertedIndex(options)


def _saved(folder):
  index = _index()
  index.add(["a.jpg"], [(_BITS, [1, 5])])
  index.save(folder / "my.index")
  return folder / "my.index"


def _load(path, verify=False):
  return functools.partial(inverted.InvertedIndex.load, path, verify)


def _adding(words, bits=_BITS, names=("b.jpg",), index=None):
  index = _index() if index is None else index
  return functools.partial(index.add, names, [(bits, words)] * len(names))


@_case("index that is missing", "my.index")
def _missing(folder, model):
  return _load(folder / "my.index")


@_case("index that is cut", "my.index", "whole index")
def _cut(folder, model):
  path = _saved(folder)
  path.write_bytes(path.read_bytes()[:-1])
  return ["info", str(path)]


@_case("index cut within its header", "my.index")
def _cut_header(folder, model):
  path = _saved(folder)
  path.write_bytes(path.read_bytes()[:30])
  return ["info", str(path)]


@_case("index of a newer format", "my.index", "written by a newer delf")
def _newer(folder, model):
  path = _saved(folder)
  data = bytearray(path.read_bytes())
  data[8:12] = struct.pack("<I", 99)
  path.write_bytes(data)
  return ["info", str(path)]


@_case("index that states more than it has", "my.index", "header")
def _hostile(folder, model):
  path = _saved(folder)
  data = bytearray(path.read_bytes())
  data[16:24] = struct.pack("<Q", 1 << 60)
  path.write_bytes(data)
  return ["info", str(path)]


@_case("index whose bytes have changed", "my.index", "checksum")
def _changed(folder, model):
  path = _saved(folder)
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  return _load(path, verify=True)


@_case("index of another kind", "my.index", "inverted", "dense")
def _other_kind(folder, model):
  dense.DenseIndex().save(folder / "my.index")
  return _load(folder / "my.index")


@_case("aggregate of another dimension", "b.jpg", "[2, 4]", "[2, 5]")
def _other_dimension(folder, model):
  return _adding([1, 5], np.zeros([2, 5], np.uint8))


@_case("aggregate with words of another codebook", "b.jpg", "codebook of 9")
def _other_codebook(folder, model):
  return _adding([1, 9])


@_case("aggregate with a word twice", "b.jpg", "ascending")
def _word_twice(folder, model):
  return _adding([1, 1])


@_case("aggregate with NaN", "b.jpg", "NaN")
def _nan(folder, model):
  return _adding([1], np.full([1, 32], np.nan), index=_index(packed=False))


@_case("VLAD in an inverted index", "b.jpg", "VLAD")
def _vlad(folder, model):
  return _adding(None)


@_case("image that is in the index already", "a.jpg")
def _known(folder, model):
  index = inverted.InvertedIndex.load(_saved(folder))
  return _adding([1, 5], names=["a.jpg"], index=index)


@_case("images of one name", "b.jpg")
def _duplicates(folder, model):
  return _adding([1, 5], names=["b.jpg", "b.jpg"])


@_case("removing an image that the index lacks", "c.jpg")
def _unknown(folder, model):
  index = inverted.InvertedIndex.load(_saved(folder))
  return functools.partial(index.remove, ["a.jpg", "c.jpg"])


@_case("merging indexes of other settings", "dimension=40", "dimension=32")
def _other_settings(folder, model):
  options = inverted.AsmkOptions(dimension=40)
  other = inverted.InvertedIndex(options)
  return functools.partial(_index().merge, other)
