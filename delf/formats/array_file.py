"""One file of named arrays: checked, memory-mapped, replaced as a whole.

    magic 8 bytes | version uint32 | checksum of the header uint32
    length of the header uint64 | length of the file uint64
    header (JSON: kind, fields of the caller, table of the arrays)
    the arrays, each at a multiple of 64 bytes

Numbers are little-endian, checksums CRC-32. That of the header is over what
follows it up to the first array's padding; those of the arrays are in the
table, so that a file of many gigabytes opens without being read.
"""

import dataclasses
import json
import math
import os
import struct
import zlib

import numpy as np

from delf.base import errors, files

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


def size_index_header(entry):
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
    entry["offset"], end = offset, offset + size_index_header(entry)
  return table, end


def pack(table, file_size):
  """Returns the bytes of a file up to its first array's padding."""
  text = _encode(_with_hex_offsets(table))
  lengths = _LENGTHS.pack(len(text), file_size)
  checksum = zlib.crc32(text, zlib.crc32(lengths))
  return _START.pack(_MAGIC, VERSION, checksum) + lengths + text


def read_index_header(path):
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
    end = offset + size_index_header(entry)
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


# Bytes written or checked at once.
_BLOCK = 1 << 24


@dataclasses.dataclass(frozen=True)
class Stream:
  """An array that is written in pieces, as it need not fit into memory.

  Attributes:
    dtype: What np.dtype takes.
    shape: tuple of int.
    pieces: Iterable of arrays of this dtype, which follow each other in C
      order and together have the values of the shape.
  """

  dtype: object
  shape: tuple
  pieces: object


def write(path, kind, header, arrays):
  """Writes arrays into one file, whole or not at all.

  Args:
    path: Local path. What is there is replaced once all is written.
    kind: Words for what the file is, such as "inverted index".
    header: dict for JSON of what else the reader must know.
    arrays: dict of name -> array of numbers, or Stream.

  Raises:
    InputError: If the path is remote or an array is not of numbers.
    OSError: If it cannot be written; it names the path.
  """
  if files.is_remote(path):
    raise errors.InputError("a local path for an index", path)
  streams = {name: _stream(array) for name, array in arrays.items()}
  table, size = layout(kind, header, streams)
  with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
    for entry, stream in zip(table["arrays"], streams.values(), strict=True):
      file.seek(entry["offset"])
      entry["crc32"] = f"{_write_pieces(file, stream):08x}"
    file.truncate(size)
    file.seek(0)
    file.write(pack(table, size))
    file.flush()
    # The name must not be on disk before what it stands for.
    os.fsync(file.fileno())


def read(path, kind, verify=False):
  """Opens a file of arrays without loading them.

  Args:
    path: Local path.
    kind: What the file must be, as it was written.
    verify: Whether to read all and compare checksums. Without, what was changed
      on the disk within the arrays goes unseen.

  Returns:
    The caller's header, dict, and dict of name -> np.memmap, read-only. They
    keep what they were though the file is replaced by `write`.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is another file, cut, changed, or of a newer version.
  """
  table, size = read_index_header(path)
  if table["kind"] != kind:
    raise errors.InputError(
      f"an index file of the kind '{kind}'", f"one of '{table['kind']}'", path
    )
  whole = np.memmap(path, dtype=np.uint8, mode="r")
  if len(whole) != size:
    raise errors.InputError("an index that stays", "one that changes", path)
  arrays = {}
  for entry in table["arrays"]:
    dtype = np.dtype(entry["dtype"])
    end = entry["offset"] + size_index_header(entry)
    data = whole[entry["offset"] : end]
    if verify and f"{_checksum(data):08x}" != entry["crc32"]:
      raise errors.InputError(
        "an index as it was written",
        f"one whose {entry['name']} were changed (checksum)",
        path,
      )
    arrays[entry["name"]] = data.view(dtype).reshape(entry["shape"])
  return table["header"], arrays


def describe(path):
  """Returns what a file is: `kind`, `version`, `header` and `arrays`.

  Args:
    path: Local path.

  Returns:
    dict; `arrays` is name -> {"dtype", "shape"}.

  Raises:
    As `read` does.
  """
  table, size = read_index_header(path)
  return {
    "kind": table["kind"],
    "version": VERSION,
    "bytes": size,
    "header": table["header"],
    "arrays": {
      entry["name"]: {"dtype": entry["dtype"], "shape": entry["shape"]}
      for entry in table["arrays"]
    },
  }


def encode_names(names):
  """Converts names of images to arrays.

  Args:
    names: list of str.

  Returns:
    dict: `names` uint8, UTF-8, one after the other, and `name_ends` int64 [N].

  Raises:
    InputError: If a name is not text.
  """
  try:
    # What is no UTF-8 in a file's name stays as it is.
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
  except (AttributeError, UnicodeEncodeError) as error:
    raise errors.InputError("names as text", errors.one_line(error)) from None
  lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
  return {
    "names": np.frombuffer(b"".join(encoded), np.uint8),
    "name_ends": np.cumsum(lengths, dtype=np.int64),
  }


def decode_names(arrays, path=None):
  """Converts the arrays of `encode_names` back; `path` is for errors.

  Returns:
    list of str.

  Raises:
    InputError: If they do not fit together.
  """
  text, ends = arrays.get("names"), arrays.get("name_ends")
  if not (_is_list(text, np.uint8) and _is_list(ends, np.int64)):
    raise errors.InputError("an index with names", "one without", path)
  starts = np.concatenate([[0], ends])
  if starts[-1] != text.size or np.any(starts[:-1] > starts[1:]):
    raise errors.InputError("names as long as stated", "others", path)
  data, starts = text.tobytes(), starts.tolist()
  return [
    data[start:end].decode("utf-8", "surrogateescape")
    for start, end in zip(starts[:-1], starts[1:], strict=True)
  ]


def _is_list(array, dtype):
  return array is not None and array.dtype == dtype and array.ndim == 1


def _stream(array):
  if isinstance(array, Stream):
    return array
  array = np.asarray(array)
  flat = np.ascontiguousarray(array).reshape(-1)
  return Stream(array.dtype, array.shape, [flat])


def _write_pieces(file, stream):
  """Writes an array; returns its checksum."""
  dtype = stored(stream.dtype)
  left, checksum = values(stream.shape), 0
  for piece in stream.pieces:
    flat = np.ascontiguousarray(piece).reshape(-1)
    left -= len(flat)
    step = max(_BLOCK // dtype.itemsize, 1)
    for start in range(0, len(flat), step):
      block = flat[start : start + step].astype(dtype, copy=False)
      file.write(block.view(np.uint8).data)
      checksum = zlib.crc32(block.view(np.uint8).data, checksum)
  if left:
    raise errors.InputError("as many values as the shape states", "others")
  return checksum


def _checksum(data):
  checksum = 0
  for start in range(0, len(data), _BLOCK):
    checksum = zlib.crc32(data[start : start + _BLOCK].data, checksum)
  return checksum
