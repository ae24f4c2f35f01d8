"""Arrays as DatumProto, in memory and in files.

A DatumProto holds a shape and either floats or unsigned integers: float16, 32
and 64 are stored as float32, uint8, 16, 32 and 64 as uint32, and read back as
those two. Byte order in files is little-endian, as in all protobufs.
"""

import math

import numpy as np
from google.protobuf import message

from delf.protos import datum_pb2
from delf.python import errors, files, wire

_FLOATS = (np.float16, np.float32, np.float64)
_INTEGERS = (np.uint8, np.uint16, np.uint32, np.uint64)
_UINT32_MAX = np.iinfo(np.uint32).max

# Field numbers of datum.proto.
_SHAPE, _FLOAT_LIST, _UINT32_LIST = 1, 2, 3
_VALUE = 1
_KINDS = {"float_list": np.float32, "uint32_list": np.uint32}
_FIRST, _SECOND = 1, 2
# NumPy's limit, before 2.0.
_MAX_DIMS = 32


def ArrayToDatum(arr):
  """Converts an array to a DatumProto.

  Args:
    arr: Array of any shape; float16, 32, 64 or uint8, 16, 32, 64.

  Returns:
    DatumProto. Floats are rounded to float32; beyond its range they become
    infinite.

  Raises:
    InputError: If the array is of another type, or a value is over 2^32 - 1.
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
  return b"".join(_pieces(arr))


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
  return _parse(files.read_bytes(file_path), file_path)


def ReadPairFromFile(file_path):
  """Reads two arrays from a file of a DatumPairProto, as in `ReadFromFile`."""
  return _parse_pair(files.read_bytes(file_path), file_path)


def WriteToFile(data, file_path):
  """Writes an array, as in `ArrayToDatum`, to a file; note the order."""
  files.write_bytes(file_path, SerializeToString(data))


def WritePairToFile(arr_1, arr_2, file_path):
  """Writes two arrays, as in `ArraysToDatumPair`, to a file."""
  files.write_bytes(file_path, SerializePairToString(arr_1, arr_2))


def list_header(shape, number, size):
  """Returns the bytes of a DatumProto up to its packed values.

  Args:
    shape: Ints, the shape of the array.
    number: Field number of the list of values.
    size: Bytes of the packed values.
  """
  dims = b"".join(wire.varint(dim) for dim in shape)
  packed = wire.delimited(_VALUE, len(dims)) + dims if dims else b""
  value = wire.delimited(_VALUE, size) if size else b""
  return b"".join(
    [
      wire.delimited(_SHAPE, len(packed)),
      packed,
      wire.delimited(number, len(value) + size),
      value,
    ]
  )


def float_header(dimension):
  """Returns the bytes of a DatumProto [dimension] float up to its values."""
  return list_header([dimension], _FLOAT_LIST, 4 * dimension)


def from_proto(datum, path=None):
  """Converts a DatumProto as `DatumToArray` does; `path` is for errors."""
  kind = datum.WhichOneof("kind_oneof")
  if kind is None:
    raise errors.InputError("a DatumProto with values", "one without", path)
  values = np.array(getattr(datum, kind).value, dtype=_KINDS[kind])
  return _shaped(values, list(datum.shape.dim), path)


def _pieces(arr):
  """Returns the bytes-like pieces of an array's DatumProto."""
  arr = np.asarray(arr)
  if arr.dtype.type in _FLOATS:
    values = wire.to_float32(arr).reshape(-1).view(np.uint8).data
    return [list_header(arr.shape, _FLOAT_LIST, len(values)), values]
  if arr.dtype.type in _INTEGERS:
    if arr.dtype == np.uint64 and arr.size and arr.max() > _UINT32_MAX:
      raise errors.InputError(
        f"integers up to {_UINT32_MAX}", f"the integer {arr.max()}"
      )
    values = wire.pack_varints(arr.reshape(-1).astype(np.uint32))
    return [list_header(arr.shape, _UINT32_LIST, len(values)), values]
  raise errors.InputError(
    "an array of float16, 32 or 64 or uint8, 16, 32 or 64",
    f"an array of type {arr.dtype}",
  )


def _parse(data, path):
  """Converts bytes of a DatumProto to an array; `path` is for errors."""
  try:
    shape, values = _parse_regular(data)
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


def _parse_regular(data):
  """Returns the shape and the values of a DatumProto, or raises ValueError.

  Regular is what this module and the original write: the shape, then one packed
  list, and nothing else. All else is left to protobuf's parser.
  """
  (first, start, end), (kind, start_2, end_2) = wire.delimited_fields(data)
  if first != _SHAPE or kind not in (_FLOAT_LIST, _UINT32_LIST):
    raise ValueError("other fields than a shape and a list")
  # Unlike a protobuf's int64, dims are at most 2^32 - 1 here.
  shape = wire.unpack_varints(wire.packed_list(data, start, end)).tolist()
  packed = wire.packed_list(data, start_2, end_2)
  if kind == _UINT32_LIST:
    return shape, wire.unpack_varints(packed)
  # A copy, as the bytes are neither aligned nor writable.
  return shape, np.frombuffer(packed, dtype="<f4").astype(np.float32)


def _shaped(values, shape, path):
  """Returns values in the shape that a file states, if it can be."""
  if len(shape) > _MAX_DIMS:
    raise errors.InputError(
      f"at most {_MAX_DIMS} dimensions", f"{len(shape)}", path
    )
  if min(shape, default=0) < 0 or math.prod(shape) != values.size:
    raise errors.InputError(
      f"as many values as the shape {shape} states", f"{values.size}", path
    )
  try:
    return values.reshape(shape)
  except ValueError:
    raise errors.InputError("a shape", f"{shape}", path) from None
