"""Files of named arrays: checked, memory-mapped, replaced atomically.

    magic 8 bytes | version uint32 | checksum of the header uint32
    length of the header uint64 | length of the file uint64
    header (JSON: kind, fields of the caller, table of the arrays)
    the arrays, each at a multiple of 64 bytes

Numbers are little-endian, checksums CRC-32. The header's covers the lengths and
the JSON; those of the arrays are in the table, so that a file of many gigabytes
opens without being read.
"""

import dataclasses
import json
import math
import os
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy import typing as npt

from delf.base import errors, files

# Increased when older programs cannot read the layout.
VERSION = 1
# Like PNG's, with a byte outside of ASCII and line ends, to notice conversions.
_MAGIC = b"\x89delf\r\n\x1a"
# Magic, version, checksum; then the lengths of the header and of the file.
_START = struct.Struct("<8sII")
_LENGTHS = struct.Struct("<QQ")
_HEAD_BYTES = _START.size + _LENGTHS.size
# Arrays start at multiples of a processor's cache line.
_ALIGNMENT = 64
# Names are stored as an array, so that a header is short; longer is damaged.
_MAX_HEADER_BYTES = 1 << 24
_MAX_DIMS = 32
_DTYPES = frozenset(
  ["|b1", "|i1", "|u1", *(f"<{kind}{n}" for kind in "iuf" for n in (2, 4, 8))]
)
# Bytes written or checked at once.
_BLOCK = 1 << 24


@dataclasses.dataclass(frozen=True)
class Stream:
  """An array given as pieces, in C order, as it need not fit into memory."""

  dtype: npt.DTypeLike
  shape: Sequence[int]
  pieces: Iterable[np.ndarray]


def write(
  path: files.Path,
  kind: str,
  header: dict,
  arrays: Mapping[str, np.ndarray | Stream],
) -> None:
  """Write arrays of numbers, and a header for JSON, to one local file."""
  if files.is_remote(path):
    raise errors.InputError("an index needs a local path", path=path)
  streams = {
    name: each
    if isinstance(each, Stream)
    else Stream(np.asarray(each).dtype, np.shape(each), [each])
    for name, each in arrays.items()
  }
  entries = [
    {
      "name": name,
      "dtype": _stored_dtype(stream.dtype).str,
      "shape": [int(length) for length in stream.shape],
      # Placeholders of the final length.
      "offset": f"{0:016x}",
      "crc32": f"{0:08x}",
    }
    for name, stream in streams.items()
  ]
  table = {"kind": kind, "header": header, "arrays": entries}
  end = _HEAD_BYTES + len(_encode(table))
  with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
    for entry, stream in zip(entries, streams.values(), strict=True):
      offset = -(-end // _ALIGNMENT) * _ALIGNMENT
      file.seek(offset)
      entry["offset"] = f"{offset:016x}"
      entry["crc32"] = f"{_write_pieces(file, stream):08x}"
      end = offset + array_bytes(entry)
    file.truncate(end)
    file.seek(0)
    text = _encode(table)
    lengths = _LENGTHS.pack(len(text), end)
    checksum = zlib.crc32(text, zlib.crc32(lengths))
    file.write(_START.pack(_MAGIC, VERSION, checksum) + lengths + text)
    file.flush()
    # The data must be on disk before the final name.
    os.fsync(file.fileno())


def _stored_dtype(dtype):
  dtype = np.dtype(dtype).newbyteorder("<")
  if dtype.str not in _DTYPES:
    raise errors.InputError(f"an index holds arrays of numbers, not of {dtype}")
  return dtype


def _write_pieces(file, stream):
  dtype = _stored_dtype(stream.dtype)
  left, checksum = math.prod(map(int, stream.shape)), 0
  for piece in stream.pieces:
    flat = np.ascontiguousarray(piece).reshape(-1)
    left -= len(flat)
    step = max(_BLOCK // dtype.itemsize, 1)
    for start in range(0, len(flat), step):
      block = flat[start : start + step].astype(dtype, copy=False)
      file.write(block.view(np.uint8).data)
      checksum = zlib.crc32(block.view(np.uint8).data, checksum)
  if left:
    raise errors.InputError("the pieces of an array do not fill its shape")
  return checksum


def array_bytes(entry: dict) -> int:
  """Return the size in bytes of the array of a table entry."""
  return math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize


def _encode(table):
  return json.dumps(table, separators=(",", ":")).encode()


def read(
  path: files.Path, kind: str, verify: bool = False
) -> tuple[dict, dict[str, np.ndarray]]:
  """Open a file of arrays without loading them.

  Returns the caller's header, and read-only memory maps by name, which keep
  their values if `write` replaces the file. Raises InputError if it is damaged;
  damage of arrays is found only with `verify`, which compares their checksums.
  """
  table, size = read_table(path)
  if table["kind"] != kind:
    problem = f"an index of the kind '{table['kind']}', not '{kind}'"
    raise errors.InputError(problem, path=path)
  whole = np.memmap(path, dtype=np.uint8, mode="r")
  if len(whole) != size:
    raise errors.InputError("the index changed while it was opened", path=path)
  arrays = {}
  for entry in table["arrays"]:
    data = whole[entry["offset"] : entry["offset"] + array_bytes(entry)]
    if verify and f"{_checksum(data):08x}" != entry["crc32"]:
      raise _damaged(f"{entry['name']} were changed (wrong checksum)", path)
    values = data.view(np.dtype(entry["dtype"]))
    arrays[entry["name"]] = values.reshape(entry["shape"])
  return table["header"], arrays


def _checksum(data):
  checksum = 0
  for start in range(0, len(data), _BLOCK):
    checksum = zlib.crc32(data[start : start + _BLOCK].data, checksum)
  return checksum


def is_index(path: files.Path) -> bool:
  """Return whether a local file starts like a file of arrays."""
  try:
    with open(path, "rb") as file:
      return file.read(len(_MAGIC)) == _MAGIC
  except OSError:
    return False


def describe(path: files.Path) -> dict:
  """Return `kind`, `version`, `bytes`, `header` and `arrays` without values."""
  table, size = read_table(path)
  arrays = {
    e["name"]: {"dtype": e["dtype"], "shape": e["shape"]}
    for e in table["arrays"]
  }
  return {**table, "version": VERSION, "bytes": size, "arrays": arrays}


def read_table(path: files.Path) -> tuple[dict, int]:
  """Read and check the table; return it and the size of the file in bytes.

  The table has `kind`, `header` and a list `arrays` of dicts with `name`,
  `dtype`, `shape`, `offset` and `crc32`.
  """
  try:
    with open(path, "rb") as file:
      size = os.fstat(file.fileno()).st_size
      text = _read_header(file, size, path)
  except FileNotFoundError:
    raise FileNotFoundError(f"{path}: no such index") from None
  except IsADirectoryError:
    raise errors.InputError("a folder, not an index file", path=path) from None
  try:
    table = json.loads(text)
    for entry in table["arrays"]:
      entry["offset"] = int(entry["offset"], 16)
    _check_table(table, _HEAD_BYTES + len(text), size)
  except (ValueError, TypeError, KeyError, RecursionError):
    raise _damaged("invalid table of arrays", path) from None
  return table, size


def _damaged(problem, path):
  return errors.InputError(f"damaged index: {problem}", path=path)


def _read_header(file, size, path):
  """Return the JSON text, having checked the lengths and the checksum."""
  head = file.read(_HEAD_BYTES)
  if not head.startswith(_MAGIC):
    raise errors.InputError("not an index file", path=path)
  if len(head) < _HEAD_BYTES:
    raise _damaged(f"not a whole index but {size} bytes", path)
  _, version, checksum = _START.unpack_from(head)
  if version > VERSION:
    reason = f"written by a newer delf: this one reads up to format {VERSION}"
    raise errors.InputError(f"index format {version}, {reason}", path=path)
  length, stated = _LENGTHS.unpack_from(head, _START.size)
  if stated != size:
    raise _damaged(f"not a whole index but {size} bytes of {stated}", path)
  if length > min(size - _HEAD_BYTES, _MAX_HEADER_BYTES):
    raise _damaged(f"a header of {length} bytes", path)
  text = file.read(length)
  if zlib.crc32(text, zlib.crc32(head[_START.size :])) != checksum:
    raise _damaged("wrong checksum of the header", path)
  return text


def _check_table(table, end, file_size):
  """Raise ValueError, TypeError or KeyError unless arrays follow in order."""
  kind, header, arrays = table["kind"], table["header"], table["arrays"]
  texts = [kind, *(e["name"] for e in arrays), *(e["crc32"] for e in arrays)]
  if {str} != set(map(type, texts)) or not isinstance(header, dict):
    raise ValueError
  if len({entry["name"] for entry in arrays}) != len(arrays):
    raise ValueError
  for entry in arrays:
    shape, offset = entry["shape"], entry["offset"]
    if entry["dtype"] not in _DTYPES or len(shape) > _MAX_DIMS:
      raise ValueError
    if not all(type(length) is int and length >= 0 for length in shape):
      raise ValueError
    if offset < end or offset % _ALIGNMENT:
      raise ValueError
    end = offset + array_bytes(entry)
  if end > file_size:
    raise ValueError


def encode_names(names: Iterable[str]) -> dict[str, np.ndarray]:
  """Convert N names of images to arrays.

  `names` is their UTF-8, concatenated, as uint8; `name_ends` is int64 [N].
  """
  try:
    # Bytes of a file's name that are not UTF-8 are kept.
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
  except (AttributeError, UnicodeEncodeError) as error:
    reason = errors.one_line(error)
    raise errors.InputError(f"names must be text: {reason}") from None
  lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
  return {
    "names": np.frombuffer(b"".join(encoded), np.uint8),
    "name_ends": np.cumsum(lengths, dtype=np.int64),
  }


def decode_names(
  arrays: Mapping[str, np.ndarray], path: files.Path | None = None
) -> list[str]:
  """Invert `encode_names`; raise InputError if the arrays are inconsistent."""
  for name, dtype in (("names", np.uint8), ("name_ends", np.int64)):
    array = arrays.get(name)
    if array is None or array.dtype != dtype or array.ndim != 1:
      raise _damaged("no names", path)
  text, starts = arrays["names"], np.concatenate([[0], arrays["name_ends"]])
  if starts[-1] != text.size or np.any(starts[:-1] > starts[1:]):
    raise _damaged("wrong lengths of names", path)
  data, starts = text.tobytes(), starts.tolist()
  return [
    data[start:end].decode("utf-8", "surrogateescape")
    for start, end in zip(starts[:-1], starts[1:], strict=True)
  ]
