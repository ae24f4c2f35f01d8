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
_FIRST, _SECOND = 1, 2


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
  return _from_proto(datum, None)


def DatumPairToArrays(datum_pair):
  """Converts a DatumPairProto to two arrays, each as in `DatumToArray`."""
  return _from_proto(datum_pair.first, None), _from_proto(
    datum_pair.second, None
  )


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


def to_float32(array):
  """Returns an array as contiguous little-endian float32; overflow is inf."""
  with np.errstate(over="ignore"):
    return np.ascontiguousarray(array, dtype="<f4")


def _pieces(arr):
  """Returns the bytes-like pieces of an array's DatumProto."""
  arr = np.asarray(arr)
  if arr.dtype.type in _FLOATS:
    values = to_float32(arr).reshape(-1).view(np.uint8).data
    return [list_header(arr.shape, _FLOAT_LIST, len(values)), values]
  if arr.dtype.type in _INTEGERS:
    if arr.dtype == np.uint64 and arr.size and arr.max() > _UINT32_MAX:
      raise errors.InputError(
        f"integers up to {_UINT32_MAX}", f"the integer {arr.max()}"
      )
    values = _varints(arr)
    return [list_header(arr.shape, _UINT32_LIST, len(values)), values]
  raise errors.InputError(
    "an array of float16, 32 or 64 or uint8, 16, 32 or 64",
    f"an array of type {arr.dtype}",
  )


def _varints(arr):
  """Returns unsigned integers below 2^32 as packed varints."""
  values = arr.reshape(-1).astype(np.uint32)
  # One row per value, one column per group of 7 bits; 5 groups hold 32 bits.
  groups = np.empty([values.size, 5], dtype=np.uint8)
  for index in range(5):
    groups[:, index] = values >> np.uint32(7 * index) & np.uint32(0x7F)
  lengths = np.ones(values.size, dtype=np.uint8)
  for index in range(1, 5):
    lengths += values >= np.uint32(1 << (7 * index))
  columns = np.arange(5, dtype=np.uint8)
  groups[columns < lengths[:, None] - 1] |= 0x80
  return groups[columns < lengths[:, None]].tobytes()


def _parse(data, path):
  """Converts bytes of a DatumProto to an array; `path` is for errors."""
  array = _parse_floats(data)
  if array is not None:
    return array
  datum = datum_pb2.DatumProto()
  _merge(datum, data, path)
  return _from_proto(datum, path)


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
  return _from_proto(pair.first, path), _from_proto(pair.second, path)


def _merge(proto, data, path):
  try:
    proto.MergeFromString(bytes(data))
  except message.DecodeError:
    raise errors.InputError(
      f"a whole {proto.DESCRIPTOR.name}",
      f"{len(data)} bytes that are cut or of another format",
      path,
    ) from None


def _parse_floats(data):
  """Returns the float32 array of a regular DatumProto, or None.

  Regular is what this module and the original write: the shape, then one list
  of packed floats, and nothing else. All else is left to protobuf's parser.
  """
  try:
    (shape, start, end), (floats, start_2, end_2) = wire.delimited_fields(data)
    dims = _packed(data, start, end)
    values = _packed(data, start_2, end_2)
    if (shape, floats) != (_SHAPE, _FLOAT_LIST) or len(values) % 4:
      return None
    shape = []
    position = 0
    while position < len(dims):
      dim, position = wire.read_varint(dims, position)
      shape.append(dim)
  except ValueError:
    return None
  if math.prod(shape) * 4 != len(values):
    return None
  return np.frombuffer(values, dtype="<f4").astype(np.float32).reshape(shape)


def _packed(data, start, end):
  """Returns the content of a message whose one field is a packed list."""
  if start == end:
    return b""
  ((number, start, end),) = wire.delimited_fields(data, start, end)
  if number != _VALUE:
    raise ValueError("another field than a list of values")
  return memoryview(data)[start:end]


def _from_proto(datum, path):
  kind = datum.WhichOneof("kind_oneof")
  if kind is None:
    raise errors.InputError("a DatumProto with values", "one without", path)
  dtype = np.float32 if kind == "float_list" else np.uint32
  values = getattr(datum, kind).value
  shape = list(datum.shape.dim)
  if min(shape, default=0) < 0 or math.prod(shape) != len(values):
    raise errors.InputError(
      f"as many values as the shape {shape} states", f"{len(values)}", path
    )
  return np.array(values, dtype=dtype).reshape(shape)
