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
import os
import zlib

import numpy as np

from delf.python import errors, files
from delf.python.retrieval import index_header

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
  table, size = index_header.layout(kind, header, streams)
  with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
    for entry, stream in zip(table["arrays"], streams.values(), strict=True):
      file.seek(entry["offset"])
      entry["crc32"] = f"{_write_pieces(file, stream):08x}"
    file.truncate(size)
    file.seek(0)
    file.write(index_header.pack(table, size))
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
  table, size = index_header.read(path)
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
    end = entry["offset"] + index_header.size(entry)
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
  table, size = index_header.read(path)
  return {
    "kind": table["kind"],
    "version": index_header.VERSION,
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
  dtype = index_header.stored(stream.dtype)
  left, checksum = index_header.values(stream.shape), 0
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
