"""The header of an index file: what is where, checked before it is believed."""

import json
import math
import os
import struct
import zlib

import numpy as np

from delf.python import errors

# Raised when a file is laid out so that older programs cannot read it.
VERSION = 1
# As PNG's: a byte that is no text, and line ends that a transfer as text would
# change.
_MAGIC = b"\x89delf\r\n\x1a"
# Magic, version, checksum; then the lengths of the header and of the file.
_START = struct.Struct("<8sII")
_LENGTHS = struct.Struct("<QQ")
_HEAD_BYTES = _START.size + _LENGTHS.size
# Arrays start at multiples of a processor's cache line.
_ALIGNMENT = 64
# Names are arrays, so a header is short; one that states more is no header.
_MAX_HEADER_BYTES = 1 << 24
_MAX_DIMS = 32
_DTYPES = frozenset(
  ["|b1", "|i1", "|u1", *(f"<{kind}{n}" for kind in "iuf" for n in (2, 4, 8))]
)


def is_index(path):
  """Returns whether a local file starts as an index file does."""
  try:
    with open(path, "rb") as file:
      return file.read(len(_MAGIC)) == _MAGIC
  except OSError:
    return False


def stored(dtype):
  """Returns the dtype as it is in files; raises an InputError if it is none."""
  dtype = np.dtype(dtype).newbyteorder("<")
  if dtype.str not in _DTYPES:
    raise errors.InputError("arrays of numbers for an index", f"{dtype}")
  return dtype


def values(shape):
  """Returns the number of values of a shape."""
  return math.prod(int(length) for length in shape)


def size(entry):
  """Returns the bytes of the array of an entry of the table."""
  return values(entry["shape"]) * np.dtype(entry["dtype"]).itemsize


def layout(kind, header, streams):
  """Decides where arrays go.

  Args:
    kind: Words for what the file is.
    header: dict for JSON.
    streams: dict of name -> something with `dtype` and `shape`.

  Returns:
    The table, dict with `kind`, `header` and `arrays`, whose checksums are to
    be set, and the length of the file in bytes.
  """
  table = {"kind": kind, "header": header, "arrays": []}
  for name, stream in streams.items():
    table["arrays"].append(
      {
        "name": name,
        "dtype": stored(stream.dtype).str,
        "shape": [int(length) for length in stream.shape],
        # As long as what they will be.
        "offset": f"{0:016x}",
        "crc32": f"{0:08x}",
      }
    )
  end = _HEAD_BYTES + len(_encode(table))
  for entry in table["arrays"]:
    offset = -(-end // _ALIGNMENT) * _ALIGNMENT
    entry["offset"], end = offset, offset + size(entry)
  return table, end


def pack(table, file_size):
  """Returns the bytes of a file up to its first array's padding."""
  text = _encode(_with_hex_offsets(table))
  lengths = _LENGTHS.pack(len(text), file_size)
  checksum = zlib.crc32(text, zlib.crc32(lengths))
  return _START.pack(_MAGIC, VERSION, checksum) + lengths + text


def read(path):
  """Reads and checks the header of a file.

  Args:
    path: Local path.

  Returns:
    The table, as `layout` gives it, and the length of the file in bytes.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is another file, cut, changed, or of a newer version.
  """
  try:
    with open(path, "rb") as file:
      actual = os.fstat(file.fileno()).st_size
      text = _checked_text(file, actual, path)
  except FileNotFoundError:
    raise FileNotFoundError(f"{path}: expected an index, found none") from None
  except IsADirectoryError:
    raise errors.InputError("an index file", "a folder", path) from None
  try:
    table = json.loads(text)
    for entry in table["arrays"]:
      entry["offset"] = int(entry["offset"], 16)
    _check_table(table, _HEAD_BYTES + len(text), actual)
  except (ValueError, TypeError, KeyError, RecursionError):
    raise errors.InputError(
      "an index with a table of its arrays", "one that makes no sense", path
    ) from None
  return table, actual


def _checked_text(file, actual, path):
  """Returns the JSON text of a file whose length and checksum are right."""
  head = file.read(_HEAD_BYTES)
  if not head.startswith(_MAGIC):
    raise errors.InputError("an index file", "another kind of file", path)
  if len(head) < _HEAD_BYTES:
    raise errors.InputError("a whole index", f"{actual} bytes", path)
  _, version, checksum = _START.unpack_from(head)
  if version > VERSION:
    raise errors.InputError(
      f"an index of format {VERSION} or older",
      f"format {version}, written by a newer delf",
      path,
    )
  length, stated = _LENGTHS.unpack_from(head, _START.size)
  if stated != actual:
    raise errors.InputError(
      f"a whole index of {stated} bytes", f"{actual} bytes", path
    )
  if length > min(actual - _HEAD_BYTES, _MAX_HEADER_BYTES):
    raise errors.InputError(
      "an index with a header", f"a header of {length} bytes", path
    )
  text = file.read(length)
  if zlib.crc32(text, zlib.crc32(head[_START.size :])) != checksum:
    raise errors.InputError(
      "an index as it was written", "one with a changed header (checksum)", path
    )
  return text


def _check_table(table, start, file_size):
  """Raises a ValueError or so unless the arrays lie in order in the file."""
  if not isinstance(table["kind"], str) or not isinstance(
    table["header"], dict
  ):
    raise ValueError
  names = [entry["name"] for entry in table["arrays"]]
  if len(set(names)) != len(names) or not all(map(_is_str, names)):
    raise ValueError
  end = start
  for entry in table["arrays"]:
    shape, offset = entry["shape"], entry["offset"]
    if entry["dtype"] not in _DTYPES or len(shape) > _MAX_DIMS:
      raise ValueError
    if not all(type(length) is int and length >= 0 for length in shape):
      raise ValueError
    if offset < end or offset % _ALIGNMENT or not _is_str(entry["crc32"]):
      raise ValueError
    end = offset + size(entry)
  if end > file_size:
    raise ValueError


def _is_str(value):
  return isinstance(value, str)


def _encode(table):
  return json.dumps(table, separators=(",", ":")).encode()


def _with_hex_offsets(table):
  """Returns a table with offsets of one length, whatever they are."""
  arrays = [
    {**entry, "offset": f"{entry['offset']:016x}"} for entry in table["arrays"]
  ]
  return {**table, "arrays": arrays}
