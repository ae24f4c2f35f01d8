"""Arrays as DatumProto, in memory and in files.

A DatumProto holds a shape and either floats or unsigned integers: float16, 32
and 64 are stored as float32, uint8, 16, 32 and 64 as uint32, and read back as
those two. Byte order in files is little-endian, as in all protobufs.
"""

import math

import numpy as np
from google.protobuf import message

from delf.base import errors, files
from delf.formats import wire
from delf.protos import datum_pb2

_KINDS = {"float_list": np.float32, "uint32_list": np.uint32}
# Field numbers of datum.proto.
_FIRST, _SECOND = 1, 2


def ArrayToDatum(arr):
  """Converts an array to a DatumProto.

  Args:
    arr: Array of any shape; float16, 32, 64 or uint8, 16, 32, 64.

  Returns:
    DatumProto. Floats are rounded to float32; beyond its range they become
    infinite.

  Raises:
    InputError: If the array is of another type or over 32 dimensions, or a
      value is over 2^32 - 1.
  """
  return datum_pb2.DatumProto.FromString(SerializeToString(arr))


def ArraysToDatumPair(arr_1, arr_2):
  """Converts two arrays, each as in `ArrayToDatum`, to a DatumPairProto."""
  return datum_pb2.DatumPairProto.FromString(
    SerializePairToString(arr_1, arr_2)
  )


def DatumToArray(datum):
  """Converts a DatumProto to an array.

  Args:
    datum: DatumProto.

  Returns:
    Array of the shape that the datum states, float32 or uint32.

  Raises:
    InputError: If it holds no values, or not as many as its shape states.
  """
  return from_proto(datum)


def DatumPairToArrays(datum_pair):
  """Converts a DatumPairProto to two arrays, each as in `DatumToArray`."""
  return from_proto(datum_pair.first), from_proto(datum_pair.second)


def SerializeToString(arr):
  """Converts an array, as in `ArrayToDatum`, to bytes of a DatumProto."""
  return b"".join(wire.pack_datum(arr))


def SerializePairToString(arr_1, arr_2):
  """Converts two arrays to bytes of a DatumPairProto."""
  first, second = SerializeToString(arr_1), SerializeToString(arr_2)
  return b"".join(
    [
      wire.delimited(_FIRST, len(first)),
      first,
      wire.delimited(_SECOND, len(second)),
      second,
    ]
  )


def ParseFromString(string):
  """Converts bytes of a DatumProto to an array, as in `DatumToArray`."""
  return _parse(string, None)


def ParsePairFromString(string):
  """Converts bytes of a DatumPairProto to two arrays."""
  return _parse_pair(string, None)


def ReadFromFile(file_path):
  """Reads an array from a `.datum` or `.delg_global` file.

  Args:
    file_path: Path of the file.

  Returns:
    float32 or uint32 array of the shape that the file states.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is cut, or is not a DatumProto.
  """
  if not files.is_remote(file_path):
    array = wire.read_floats(file_path)
    if array is not None:
      return array
  return _parse(files.read_bytes(file_path), file_path)


def ReadPairFromFile(file_path):
  """Reads two arrays from a file of a DatumPairProto, as in `ReadFromFile`."""
  return _parse_pair(files.read_bytes(file_path), file_path)


def WriteToFile(data, file_path):
  """Writes an array, as in `ArrayToDatum`, to a file; note the order."""
  files.write_bytes(file_path, *wire.pack_datum(data))


def WritePairToFile(arr_1, arr_2, file_path):
  """Writes two arrays, as in `ArraysToDatumPair`, to a file."""
  files.write_bytes(file_path, SerializePairToString(arr_1, arr_2))


def from_proto(datum, path=None):
  """Converts a DatumProto as `DatumToArray` does; `path` is for errors."""
  kind = datum.WhichOneof("kind_oneof")
  if kind is None:
    raise errors.InputError("a DatumProto with values", "one without", path)
  values = np.array(getattr(datum, kind).value, dtype=_KINDS[kind])
  return _shaped(values, list(datum.shape.dim), path)


def _parse(data, path):
  """Converts bytes of a DatumProto to an array; `path` is for errors."""
  try:
    shape, values = wire.unpack_floats(data)
  except ValueError:
    datum = datum_pb2.DatumProto()
    _merge(datum, data, path)
    return from_proto(datum, path)
  return _shaped(values, shape, path)


def _parse_pair(data, path):
  """Converts bytes of a DatumPairProto to arrays; `path` is for errors."""
  try:
    (first, start_1, end_1), (second, start_2, end_2) = wire.delimited_fields(
      data
    )
  except ValueError:
    first = second = None
  if (first, second) == (_FIRST, _SECOND):
    return _parse(data[start_1:end_1], path), _parse(data[start_2:end_2], path)
  pair = datum_pb2.DatumPairProto()
  _merge(pair, data, path)
  return from_proto(pair.first, path), from_proto(pair.second, path)


def _merge(proto, data, path):
  try:
    proto.MergeFromString(bytes(data))
  except message.DecodeError:
    raise errors.InputError(
      f"a whole {proto.DESCRIPTOR.name}",
      f"{len(data)} bytes that are cut or of another format",
      path,
    ) from None


def _shaped(values, shape, path):
  """Returns values in the shape that a file states, if it can be."""
  wire.check_dimensions(len(shape), path)
  if min(shape, default=0) < 0 or math.prod(shape) != values.size:
    raise errors.InputError(
      f"as many values as the shape {shape} states", f"{values.size}", path
    )
  try:
    return values.reshape(shape)
  except ValueError:
    raise errors.InputError("a shape", f"{shape}", path) from None
