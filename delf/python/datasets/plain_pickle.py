"""Reading pickles of plain data without running what else they may hold.

A pickle is a program: it may call any function by its name. Here the only names
that it can use are those that NumPy arrays and numbers are written with, and
those stand for functions of this module, so that NumPy's own, which trust what
they are given, never see the data.
"""

import io
import pickle
import pickletools
import re
import warnings

import numpy as np

from delf.python import errors, files

# Ground truth of Revisited Oxford has 100 kB, the retrieval-SfM-120k tuples
# 50 MB.
MAX_BYTES = 2**28
_MAX_DEPTH = 100
_PLAIN = (str, bytes, bool, int, float, type(None))
_NUMBERS = re.compile(r"[<>|=]?([biuf][1248]|[SU]\d{1,6})")
# Opcodes that call by other ways than a name, or that reserve memory by a
# number that stands in the file.
_REFUSED = {
  "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "INST", "OBJ", "NEWOBJ",
  "NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER",
}  # fmt: skip
_ARRAY_MODULES = {
  "numpy",
  "numpy.core.multiarray",
  "numpy._core.multiarray",
  "numpy.core.numeric",
  "numpy._core.numeric",
}


def read(path):
  """Reads a pickle of plain data.

  Args:
    path: Path of a pickle of any protocol, Python 2's too (its strings are
      read as Latin-1).

  Returns:
    dict, list, tuple, str, bytes, number, None, or NumPy array of numbers or
    strings, or these within each other.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no whole pickle, is over `MAX_BYTES`, or holds anything
      else, such as code; nothing of that is run.
  """
  data = files.read_bytes(path, MAX_BYTES)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Of damaged escapes.
      _check(data)
      found = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    return _Plain().convert(found)
  except _NotPlainError as error:
    raise errors.InputError(
      "a pickle of plain data (lists, dicts, text, numbers, arrays)",
      str(error),
      path,
    ) from None
  except Exception:  # Damaged pickles raise nearly anything.
    raise errors.InputError(
      "a pickle", "something else, or a damaged one", path
    ) from None


class _NotPlainError(Exception):
  """The pickle holds what is not plain; says what."""


def _check(data):
  """Refuses opcodes, and places in the memo, that plain data does not need."""
  for opcode, argument in _opcodes(io.BytesIO(data)):
    if opcode.name in _REFUSED:
      raise _NotPlainError(f"the opcode {opcode.name}")
    if opcode.name in ("PUT", "LONG_BINPUT") and argument > len(data):
      raise _NotPlainError("a memo larger than the file")


def _opcodes(file):
  """Yields (opcode, argument); sizes are checked by reading.

  `pickletools.genops` stops at byte strings of Python 2 that are not ASCII.
  """
  name = None
  while name != "STOP":
    opcode = pickletools.code2op[file.read(1).decode("latin1")]
    name = opcode.name
    if name == "STRING":
      yield opcode, file.readline()
    else:
      yield opcode, opcode.arg.reader(file) if opcode.arg else None


class _Unpickler(pickle.Unpickler):
  def find_class(self, module, name):
    """Gives what stands for the few names that are known.

    Functions are new each time, so that what a pickle does to one stays there.
    """
    if (module, name) == ("_codecs", "encode"):
      return lambda text, encoding="latin1": _latin1(text)
    if (module, name) == ("__builtin__", "bytes"):
      return lambda: b""
    if module in _ARRAY_MODULES:
      if name == "_reconstruct":
        return lambda *_: _Array()
      if name == "scalar":
        return lambda dtype, data: _Array((), dtype, data)
      if name == "dtype":
        return lambda kind, *_: _Dtype(kind)
      if name == "ndarray":
        return "ndarray"
      if name == "_frombuffer":
        return lambda data, dtype, shape, order: _Array(
          shape, dtype, data, order == "F"
        )
    raise _NotPlainError(f"{module}.{name}")


class _Dtype:
  """What stands for numpy.dtype."""

  def __init__(self, kind):
    self.kind, self.order = kind, "="

  def __setstate__(self, state):
    self.order = state[1]

  def numpy(self):
    name = self.kind if self.kind[:1] in "<>|=" else self.order + self.kind
    if not _NUMBERS.fullmatch(name):
      raise _NotPlainError(f"an array of {name}")
    return np.dtype(name)


class _Array:
  """What stands for numpy.ndarray, and for NumPy's numbers."""

  def __init__(self, shape=(0,), dtype=None, data=b"", fortran=False):
    self.shape, self.dtype, self.data = shape, dtype, data
    self.fortran = fortran

  def __setstate__(self, state):
    _, self.shape, self.dtype, self.fortran, self.data = state

  def numpy(self):
    if not isinstance(self.dtype, _Dtype):
      raise _NotPlainError("an array of unknown type")
    flat = np.frombuffer(_latin1(self.data), self.dtype.numpy())
    array = flat.reshape(self.shape, order="F" if self.fortran else "C")
    return array[()] if self.shape == () else array


def _latin1(text):
  return text.encode("latin1") if isinstance(text, str) else bytes(text)


class _Plain:
  """Turns what was read into plain data; each object once."""

  def __init__(self):
    self._done = {}

  def convert(self, value, depth=0):
    if isinstance(value, _PLAIN):
      return value
    if depth > _MAX_DEPTH:
      raise _NotPlainError(f"more than {_MAX_DEPTH} levels")
    if id(value) not in self._done:
      # The value too, so that its id is not given to another.
      self._done[id(value)] = value, self._convert(value, depth + 1)
    return self._done[id(value)][1]

  def _convert(self, value, depth):
    if isinstance(value, _Array):
      return value.numpy()
    if type(value) in (list, tuple):
      return type(value)(self.convert(item, depth) for item in value)
    if type(value) is dict:
      if not all(isinstance(key, _PLAIN) for key in value):
        raise _NotPlainError("a key that is no text or number")
      return {key: self.convert(item, depth) for key, item in value.items()}
    raise _NotPlainError(type(value).__name__.lstrip("_"))
