"""Arrays as DatumProto, in memory and in files.

A DatumProto holds a shape and either floats or unsigned integers: float16, 32
and 64 are stored and read back as float32, uint8, 16, 32 and 64 as uint32. The
byte order in files is little-endian.
"""

import math

import numpy as np

from delf.base import errors, files
from delf.formats import wire
from delf.protos import datum_pb2

_KINDS = {"float_list": np.float32, "uint32_list": np.uint32}
# Field numbers of a DatumPairProto.
_FIRST, _SECOND = 1, 2

Pair = tuple[np.ndarray, np.ndarray]


def ArrayToDatum(arr: np.ndarray) -> datum_pb2.DatumProto:
  """Convert an array of any shape to a DatumProto.

  The type is float16, 32, 64 or uint8, 16, 32, 64. Floats are rounded to
  float32; beyond its range they become infinite. InputError is raised for other
  types, over 32 dimensions, or a value over 2^32 - 1.
  """
  return datum_pb2.DatumProto.FromString(SerializeToString(arr))


def ArraysToDatumPair(
  arr_1: np.ndarray, arr_2: np.ndarray
) -> datum_pb2.DatumPairProto:
  """Convert two arrays, each as in `ArrayToDatum`, to a DatumPairProto."""
  return datum_pb2.DatumPairProto.FromString(
    SerializePairToString(arr_1, arr_2)
  )


def DatumToArray(
  datum: datum_pb2.DatumProto, path: files.Path | None = None
) -> np.ndarray:
  """Convert a DatumProto to an array of its shape, float32 or uint32.

  Errors name `path`.
  """
  kind = datum.WhichOneof("kind_oneof")
  if kind is None:
    raise errors.InputError("the DatumProto has no values", path=path)
  values = np.array(getattr(datum, kind).value, dtype=_KINDS[kind])
  return _shaped(values, list(datum.shape.dim), path)


def DatumPairToArrays(
  datum_pair: datum_pb2.DatumPairProto, path: files.Path | None = None
) -> Pair:
  """Convert a DatumPairProto to two arrays, each as in `DatumToArray`."""
  first, second = datum_pair.first, datum_pair.second
  return DatumToArray(first, path), DatumToArray(second, path)


def SerializeToString(arr: np.ndarray) -> bytes:
  """Convert an array, as in `ArrayToDatum`, to bytes of a DatumProto."""
  return b"".join(wire.pack_datum(arr))


def SerializePairToString(arr_1: np.ndarray, arr_2: np.ndarray) -> bytes:
  """Convert two arrays to bytes of a DatumPairProto."""
  pieces = []
  for number, array in ((_FIRST, arr_1), (_SECOND, arr_2)):
    datum = SerializeToString(array)
    pieces += [wire.delimited(number, len(datum)), datum]
  return b"".join(pieces)


def ParseFromString(
  string: bytes, path: files.Path | None = None
) -> np.ndarray:
  """Convert bytes of a DatumProto to an array, as in `DatumToArray`."""
  try:
    shape, values = wire.unpack_floats(string)
  except ValueError:
    datum = wire.parse_message(datum_pb2.DatumProto, string, path)
    return DatumToArray(datum, path)
  return _shaped(values, shape, path)


def ParsePairFromString(string: bytes, path: files.Path | None = None) -> Pair:
  """Convert bytes of a DatumPairProto to two arrays."""
  try:
    fields = list(wire.delimited_fields(string))
  except ValueError:
    fields = []
  if [number for number, *_ in fields] == [_FIRST, _SECOND]:
    first, second = (
      ParseFromString(string[start:end], path) for _, start, end in fields
    )
    return first, second
  pair = wire.parse_message(datum_pb2.DatumPairProto, string, path)
  return DatumPairToArrays(pair, path)


def ReadFromFile(file_path: files.Path) -> np.ndarray:
  """Read a float32 or uint32 array from a `.datum` or `.delg_global` file."""
  if not files.is_remote(file_path):
    array = wire.read_floats(file_path)
    if array is not None:
      return array
  return ParseFromString(files.read_bytes(file_path), file_path)


def ReadPairFromFile(file_path: files.Path) -> Pair:
  """Read two arrays from a file of a DatumPairProto, as in `ReadFromFile`."""
  return ParsePairFromString(files.read_bytes(file_path), file_path)


def WriteToFile(data: np.ndarray, file_path: files.Path) -> None:
  """Write an array, as in `ArrayToDatum`, to a file; `data` comes first."""
  files.write_bytes(file_path, *wire.pack_datum(data))


def WritePairToFile(
  arr_1: np.ndarray, arr_2: np.ndarray, file_path: files.Path
) -> None:
  """Write two arrays, as in `ArraysToDatumPair`, to a file."""
  files.write_bytes(file_path, SerializePairToString(arr_1, arr_2))


def _shaped(values, shape, path):
  """Return values in the shape that a file states."""
  wire.check_dimensions(len(shape), path)
  if min(shape, default=0) < 0 or math.prod(shape) != values.size:
    raise errors.InputError(
      f"the shape {shape} does not fit {values.size} values", path=path
    )
  try:
    return values.reshape(shape)
  except ValueError:
    raise errors.InputError(f"invalid shape {shape}", path=path) from None
