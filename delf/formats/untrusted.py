"""Readers of Matlab files and pickles from untrusted sources.

`scipy.io.loadmat` crashes the program on some damaged files; `read_mat` checks
each size before using it. Source: The MathWorks, "MAT-File Format", level 5
(files of Matlab 5 to 7.2). `read_plain_pickle` runs no code of the pickle.
"""

import io
import math
import pickle
import pickletools
import re
import struct
import warnings
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from delf.base import errors, files

# Published ground truth has 30 kB, and at most 1 MB unpacked.
_MAX_MAT_BYTES = 2**26
_MAX_UNPACKED = 2**28
_MAX_MAT_DEPTH = 10
# A cell takes 100 bytes in memory, but may take 8 in the file, compressed.
_MAX_CELLS = 2**22
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
# NumPy types of the stored elements, and of the classes of arrays.
_TYPES = {
  1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8",
  12: "i8", 13: "u8", 16: "u1", 17: "u2", 18: "u4",
}  # fmt: skip
_CLASSES = {
  6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4",
  14: "i8", 15: "u8",
}  # fmt: skip
_TEXT = {1: "utf-8", 2: "utf-8", 16: "utf-8", 4: "utf-16", 17: "utf-16"}


def read_mat(
  path: files.Path, names: Iterable[str]
) -> dict[str, np.ndarray | str | list]:
  """Read variables of a Matlab file by name, omitting missing ones.

  The file has the format of Matlab 5 to 7.2 (`save -v7`) and at most 64 MB, 256
  MB unpacked and four million cells. Values are [n] numbers in column order,
  text, lists (cell arrays) or lists of dicts (struct arrays).
  """
  data = files.read_bytes(path, _MAX_MAT_BYTES)
  if data[:10] == b"MATLAB 7.3":
    problem = "a Matlab file of version 7.3: save it as version 7 (-v7)"
    raise errors.InputError(problem, path=path)
  order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
  if order is None:
    raise errors.InputError("not a Matlab file", path=path)
  try:
    return _MatReader(order, frozenset(names)).variables(data[_HEADER:])
  except (_DamagedError, zlib.error, struct.error, UnicodeDecodeError) as error:
    reason = str(error) if isinstance(error, _DamagedError) else ""
    problem = f"the Matlab file cannot be read: {reason or 'it is damaged'}"
    raise errors.InputError(problem, path=path) from None


class _DamagedError(Exception):
  """The content of the file is invalid."""


class _MatReader:
  def __init__(self, order, names):
    self._order, self._names = order, names
    self._left = _MAX_UNPACKED
    self._cells = 0

  def variables(self, data):
    variables, position = {}, 0
    while position < len(data):
      kind, content, position = self._element(data, position)
      if kind == _COMPRESSED:
        content = zlib.decompressobj().decompress(content, self._left + 1)
        self._left -= len(content)
        if self._left < 0:
          raise _DamagedError(f"it unpacks to over {_MAX_UNPACKED} bytes")
        kind, content, _ = self._element(content, 0)
      if kind != _MATRIX:
        raise _DamagedError(f"it has an element of type {kind}")
      _, _, name, _ = self._matrix_header(content)
      if name in self._names:
        variables[name] = self._matrix(content, 0)
    return variables

  def _element(self, data, position):
    """Return (type, content, start of the next element)."""
    (tag,) = struct.unpack_from(f"{self._order}I", data, position)
    if tag >> 16:  # A small element: size, type and content in 8 bytes.
      kind, size = tag & 0xFFFF, tag >> 16
      start, following = position + 4, position + 8
      if size > 4:
        raise _DamagedError
    else:
      (size,) = struct.unpack_from(f"{self._order}I", data, position + 4)
      kind, start = tag, position + 8
      following = start + size
      if kind != _COMPRESSED:
        following += -size % 8
    if start + size > len(data):
      raise _DamagedError("it is truncated")
    return kind, data[start : start + size], following

  def _numbers(self, data, position, expected=None):
    """Return ([n] numbers, their type, start of the next element)."""
    kind, content, position = self._element(data, position)
    dtype = np.dtype(self._order + _TYPES.get(kind, "u1"))
    is_expected = kind in _TYPES and expected in (None, kind)
    if not is_expected or len(content) % dtype.itemsize:
      raise _DamagedError
    return np.frombuffer(content, dtype), kind, position

  def _matrix_header(self, data):
    """Return (class, number of items, name, start of the content)."""
    flags, _, position = self._numbers(data, 0, expected=6)
    shape, _, position = self._numbers(data, position, expected=5)
    name, _, position = self._numbers(data, position, expected=1)
    if len(flags) != 2 or (shape < 0).any():
      raise _DamagedError
    count = math.prod(shape.tolist())
    return int(flags[0]) & 0xFF, count, name.tobytes().decode(), position

  def _matrix(self, data, depth):
    if not data:  # An empty field.
      return np.zeros([0])
    if depth > _MAX_MAT_DEPTH:
      raise _DamagedError(f"it has more than {_MAX_MAT_DEPTH} levels")
    kind, count, _, position = self._matrix_header(data)
    if kind == _CELL:
      return self._matrices(data, position, count, depth)
    if kind == _STRUCT:
      return self._structs(data, position, count, depth)
    if kind != _CHAR and kind not in _CLASSES:
      raise _DamagedError(f"it has an array of class {kind}")
    values, stored, _ = self._numbers(data, position)
    if kind == _CHAR:
      if stored not in _TEXT:
        raise _DamagedError("it has text of unknown encoding")
      order = {"<": "-le", ">": "-be"}[self._order]
      encoding = _TEXT[stored] + (order if values.itemsize > 1 else "")
      return values.tobytes().decode(encoding)
    if len(values) != count:
      raise _DamagedError
    with np.errstate(all="ignore"):  # The stored type may be smaller.
      return values.astype(_CLASSES[kind])

  def _matrices(self, data, position, count, depth):
    if count > (len(data) - position) // 8:
      raise _DamagedError("it is truncated")
    self._cells += count
    if self._cells > _MAX_CELLS:
      raise _DamagedError(f"it has more than {_MAX_CELLS} cells")
    matrices = []
    for _ in range(count):
      kind, content, position = self._element(data, position)
      if kind != _MATRIX:
        raise _DamagedError(f"it has an element of type {kind}")
      matrices.append(self._matrix(content, depth + 1))
    return matrices

  def _structs(self, data, position, count, depth):
    (length, *rest), _, position = self._numbers(data, position, expected=5)
    names, _, position = self._numbers(data, position, expected=1)
    if rest or length < 1 or len(names) % length:
      raise _DamagedError
    raw = names.tobytes()
    fields = [
      raw[start : start + length].split(b"\0")[0].decode()
      for start in range(0, len(raw), length)
    ]
    values = self._matrices(data, position, count * len(fields), depth)
    return [
      dict(zip(fields, values[i : i + len(fields)], strict=True))
      for i in range(0, len(values), len(fields) or 1)
    ]


# Ground truth of Revisited Oxford has 100 kB, the retrieval-SfM-120k tuples
# 50 MB.
MAX_BYTES = 2**28
_MAX_PICKLE_DEPTH = 100
_PLAIN = (str, bytes, bool, int, float, type(None))
_NUMBERS = re.compile(r"[<>|=]?([biuf][1248]|[SU]\d{1,6})")
# Opcodes with unnamed calls, or allocations of a size that the file states.
_REFUSED = {
  "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "INST", "OBJ", "NEWOBJ",
  "NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER",
}  # fmt: skip
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_ARRAY_MODULES = {
  "numpy", "numpy.core.multiarray", "numpy._core.multiarray",
  "numpy.core.numeric", "numpy._core.numeric",
}  # fmt: skip


def read_plain_pickle(path: files.Path) -> Any:
  """Read a pickle of plain data without running any code of it.

  Plain data are dicts, lists, tuples, text, numbers, None and NumPy arrays of
  numbers or strings. Any protocol is read; Python 2's strings as Latin-1.
  """
  data = files.read_bytes(path, MAX_BYTES)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # About damaged escapes.
      _check_opcodes(data)
      content = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    return _to_plain(content, {})
  except _NotPlainError as error:
    problem = f"{error}, not only lists, dicts, text, numbers and arrays"
    raise errors.InputError(f"the pickle has {problem}", path=path) from None
  except Exception:  # Damaged pickles raise nearly any error.
    raise errors.InputError("not a pickle, or damaged", path=path) from None


class _NotPlainError(Exception):
  """Names a content of the pickle that is not plain data."""


def _check_opcodes(data):
  """Refuse opcodes and indices of the memo that plain data do not need."""
  # `pickletools.genops` fails on byte strings of Python 2 that are not ASCII.
  file, name = io.BytesIO(data), None
  while name != "STOP":
    opcode = _OPCODES[file.read(1).decode("latin1")]
    name, argument = opcode.name, 0
    if name == "STRING":
      file.readline()
    elif opcode.arg:
      argument = opcode.arg.reader(file)
    if name in _REFUSED:
      raise _NotPlainError(f"the opcode {name}")
    if name in ("PUT", "LONG_BINPUT") and argument > len(data):
      raise _NotPlainError("a memo larger than the file")


class _Unpickler(pickle.Unpickler):
  def find_class(self, module, name):
    """Return a stand-in for one of the few known names."""
    # New functions each time, since a pickle may set their attributes.
    if (module, name) == ("_codecs", "encode"):
      return lambda text, encoding="latin1": _latin1(text)
    if (module, name) == ("__builtin__", "bytes"):
      return lambda: b""
    known = {
      "_reconstruct": lambda *_: _Array(),
      "scalar": lambda dtype, data: _Array((), dtype, data),
      "dtype": lambda kind, *_: _Dtype(kind),
      "ndarray": "ndarray",
      "_frombuffer": lambda data, dtype, shape, order: _Array(
        shape, dtype, data, order == "F"
      ),
    }
    if module in _ARRAY_MODULES and name in known:
      return known[name]
    raise _NotPlainError(f"{module}.{name}")


class _Dtype:
  """Stand-in for numpy.dtype."""

  def __init__(self, kind):
    self.kind, self.order = kind, "="

  def __setstate__(self, state):
    self.order = state[1]


class _Array:
  """Stand-in for numpy.ndarray and NumPy's numbers."""

  def __init__(self, shape=(0,), dtype=None, data=b"", fortran=False):
    self.__setstate__((None, shape, dtype, fortran, data))

  def __setstate__(self, state):
    _, self.shape, self.dtype, self.fortran, self.data = state

  def numpy(self):
    if not isinstance(self.dtype, _Dtype):
      raise _NotPlainError("an array of unknown type")
    kind, order = self.dtype.kind, self.dtype.order
    name = kind if kind[:1] in "<>|=" else order + kind
    if not _NUMBERS.fullmatch(name):
      raise _NotPlainError(f"an array of {name}")
    flat = np.frombuffer(_latin1(self.data), np.dtype(name))
    array = flat.reshape(self.shape, order="F" if self.fortran else "C")
    return array[()] if self.shape == () else array


def _latin1(text):
  return text.encode("latin1") if isinstance(text, str) else bytes(text)


def _to_plain(value, done, depth=0):
  """Convert an unpickled value; `done` maps ids to values and results."""
  if isinstance(value, _PLAIN):
    return value
  if depth > _MAX_PICKLE_DEPTH:
    raise _NotPlainError(f"more than {_MAX_PICKLE_DEPTH} levels")
  if id(value) in done:
    return done[id(value)][1]
  if isinstance(value, _Array):
    plain = value.numpy()
  elif type(value) in (list, tuple):
    plain = type(value)(_to_plain(item, done, depth + 1) for item in value)
  elif type(value) is dict:
    if not all(isinstance(key, _PLAIN) for key in value):
      raise _NotPlainError("a key that is neither text nor a number")
    plain = {k: _to_plain(item, done, depth + 1) for k, item in value.items()}
  else:
    raise _NotPlainError(type(value).__name__.lstrip("_"))
  # The value is kept, so that its id is not used again.
  done[id(value)] = value, plain
  return plain
