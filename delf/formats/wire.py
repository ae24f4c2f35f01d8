"""The few pieces of protobuf's wire format that bulk data is made of.

The messages of `delf/protos` hold arrays as packed lists; to write and read
those at memory speed, their bytes are viewed by NumPy rather than taken through
one Python object per number. Source: https://protobuf.dev/programming-guides/
encoding/.
"""

import math
import os

import numpy as np
from google.protobuf import message

from delf.base import errors
from delf.protos import datum_pb2, feature_pb2

# Wire types: the low three bits of a tag.
_LENGTH_DELIMITED = 2
_FIXED32 = 5

# Of a varint of 32 bits; protobuf takes no more for a tag or a length.
_MAX_VARINT_BYTES = 5


def varint(value):
  """Returns a non-negative int as a varint: 7 bits a byte, lowest first."""
  result = bytearray()
  while value > 0x7F:
    result.append(value & 0x7F | 0x80)
    value >>= 7
  result.append(value)
  return bytes(result)


def tag(number, wire_type=_LENGTH_DELIMITED):
  """Returns the tag that stands before a field."""
  return varint(number << 3 | wire_type)


def fixed32_tag(number):
  """Returns the tag that stands before a float field."""
  return tag(number, _FIXED32)


def delimited(number, length):
  """Returns what stands before `length` bytes of a string or message field."""
  return tag(number) + varint(length)


def read_varint(data, position):
  """Reads one varint.

  Args:
    data: bytes or memoryview.
    position: Where it starts.

  Returns:
    Its value, and the position after it.

  Raises:
    ValueError: If the data end within it, or it is over 32 bits or 5 bytes.
  """
  value = 0
  for index, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
    value |= (byte & 0x7F) << (7 * index)
    if byte < 0x80:
      if value >> 32:
        break
      return value, position + index + 1
  raise ValueError("a varint is cut or too long")


def delimited_fields(data, start=0, end=None):
  """Iterates over the fields of a message that has nothing but messages.

  Args:
    data: bytes or memoryview.
    start: Where the message starts.
    end: Where it ends; by default where the data do.

  Yields:
    (number, start, end) of each field, in the order of the data.

  Raises:
    ValueError: If the data end within a field, or a field is of another type.
  """
  end = len(data) if end is None else end
  while start < end:
    key, start = read_varint(data, start)
    length, start = read_varint(data, start)
    if key & 7 != _LENGTH_DELIMITED or length > end - start:
      raise ValueError("a field is cut or of another type")
    yield key >> 3, start, start + length
    start += length


def packed_span(data, start, end, number=1):
  """Finds the values in a message that has one packed list.

  Args:
    data: bytes or memoryview.
    start: Where the message starts.
    end: Where it ends.
    number: Field number of the list.

  Returns:
    Where the values start and end; the same where there are none.

  Raises:
    ValueError: If the message is cut, or has other fields.
  """
  if start == end:
    return start, end
  ((found, start, end),) = delimited_fields(data, start, end)
  if found != number:
    raise ValueError("another field than the list")
  return start, end


def to_float32(array, name="values"):
  """Converts numbers to contiguous little-endian float32; overflow is inf.

  Args:
    array: Array of any shape, of integers or floats.
    name: What it is, for the error.

  Returns:
    Array of the same shape.

  Raises:
    InputError: If it is of another type.
  """
  array = np.asarray(array)
  if array.dtype.kind not in "fiu":
    raise errors.InputError(
      f"numbers as {name}", f"an array of type {array.dtype}"
    )
  # Files may hold any NaN, signalling ones too, which NumPy would warn of.
  with np.errstate(over="ignore", invalid="ignore"):
    return np.asarray(array, dtype="<f4", order="C")


FLOATS = (np.float16, np.float32, np.float64)
_INTEGERS = (np.uint8, np.uint16, np.uint32, np.uint64)
_UINT32_MAX = np.iinfo(np.uint32).max

# Field numbers of datum.proto.
_SHAPE, _FLOAT_LIST = 1, 2
_VALUE = 1

# NumPy's limit, before 2.0.
_MAX_DIMS = 32

# Of a protobuf message, less what stands around the values.
_MAX_BYTES = 2**31 - 2**10

# Enough for the shape and the lengths in front of the values.
_HEAD_BYTES = 256


def pack_datum(arr):
  """Converts an array to bytes of a DatumProto.

  Args:
    arr: Array as `datum_io.ArrayToDatum` takes it.

  Returns:
    list of bytes-like pieces, so that large values need not be copied.

  Raises:
    InputError: If the array is of another type, over 32 dimensions or 2 GiB, or
      a value is over 2^32 - 1.
  """
  arr = np.asarray(arr)
  check_dimensions(arr.ndim)
  if 4 * arr.size > _MAX_BYTES:
    raise errors.InputError(
      f"at most {_MAX_BYTES // 4} values, as many as a protobuf holds", arr.size
    )
  if arr.dtype.type in FLOATS:
    values = to_float32(arr).reshape(-1).view(np.uint8).data
    return [_header(arr.shape, len(values)), values]
  values = to_uint32(arr)
  datum = datum_pb2.DatumProto(shape={"dim": arr.shape}, uint32_list={})
  datum.uint32_list.value.extend(memoryview(values.reshape(-1)))
  return [datum.SerializeToString()]


def to_uint32(arr):
  """Returns an array as uint32.

  Args:
    arr: Array of uint8, 16, 32 or 64.

  Raises:
    InputError: If it is of another type, or a value is over 2^32 - 1.
  """
  if arr.dtype.type not in _INTEGERS:
    raise errors.InputError(
      "an array of float16, 32 or 64 or uint8, 16, 32 or 64",
      f"an array of type {arr.dtype}",
    )
  if arr.dtype == np.uint64 and arr.size and arr.max() > _UINT32_MAX:
    raise errors.InputError(
      f"integers up to {_UINT32_MAX}", f"the integer {arr.max()}"
    )
  return arr.astype(np.uint32)


def check_dimensions(number, path=None):
  """Raises an InputError for a shape of too many; `path` is for it."""
  if number > _MAX_DIMS:
    raise errors.InputError(f"at most {_MAX_DIMS} dimensions", number, path)


def float_header(dimension):
  """Returns the bytes of a DatumProto [dimension] float up to its values."""
  return _header([dimension], 4 * dimension)


def unpack_floats(data):
  """Converts bytes of a regular DatumProto of floats.

  Args:
    data: bytes.

  Returns:
    The shape that is stated, list of int, and the values, [n] float32; whether
    they fit is for the caller to see.

  Raises:
    ValueError: If the bytes are anything else.
  """
  shape, start, end = _layout(data, len(data))
  packed = memoryview(data)[start:end]
  # A copy, as the bytes are neither aligned nor writable.
  return shape, np.frombuffer(packed, dtype="<f4").astype(np.float32)


def read_floats(path):
  """Reads a file of a regular DatumProto of floats into its array at once.

  Args:
    path: Local path.

  Returns:
    float32 array, or None where the file is anything else, or none.
  """
  try:
    with open(path, "rb") as file:
      size = os.fstat(file.fileno()).st_size
      shape, start, end = _layout(file.read(_HEAD_BYTES), size)
      if 4 * math.prod(shape) != end - start:
        return None
      # Not larger than the file, as `_layout` has compared.
      values = np.empty(shape, dtype="<f4")
      file.seek(start)
      whole = file.readinto(values.reshape(-1).view(np.uint8)) == end - start
      return values.astype(np.float32, copy=False) if whole else None
  except (OSError, ValueError):
    return None


def _header(shape, size):
  """Returns the bytes of a DatumProto up to its `size` bytes of floats."""
  dims = b"".join(varint(dim) for dim in shape)
  packed = delimited(_VALUE, len(dims)) + dims if dims else b""
  value = delimited(_VALUE, size) if size else b""
  return b"".join(
    [
      delimited(_SHAPE, len(packed)),
      packed,
      delimited(_FLOAT_LIST, len(value) + size),
      value,
    ]
  )


def _layout(data, size):
  """Finds the values of a regular DatumProto of floats.

  Args:
    data: bytes, the first ones of the message or all.
    size: Bytes of the whole message.

  Returns:
    Shape, and where the packed values start and end.

  Raises:
    ValueError: If the message is not regular, or its shape not in the data.
  """
  fields = delimited_fields(data, 0, size)
  (first, *shape_span), (second, *value_span) = fields
  if (first, second) != (_SHAPE, _FLOAT_LIST):
    raise ValueError("other fields than a shape and a list of floats")
  start, end = packed_span(data, *shape_span)
  if end > len(data):
    raise ValueError("a long shape")
  dims, position, shape = data[start:end], 0, []
  while position < len(dims):
    # Unlike a protobuf's int64, a dim is at most 2^32 - 1 here.
    dim, position = read_varint(dims, position)
    shape.append(dim)
  check_dimensions(len(shape))
  start, end = packed_span(data, *value_span)
  if (end - start) % 4:
    raise ValueError("a cut float")
  return shape, start, end


# Field numbers of feature.proto.
_FEATURE = 1
_DESCRIPTOR = 1
_SCALARS = {"x": 2, "y": 3, "scale": 4, "orientation": 5, "strength": 6}


def pack_features(descriptors, columns):
  """Converts features to bytes of a DelfFeatures.

  Args:
    descriptors: [N, D] float.
    columns: dict of `x`, `y`, `scale`, `orientation` and `strength`, each [N].

  Returns:
    bytes.
  """
  constant = _constant(descriptors.shape[1])
  records = np.full([len(descriptors)], constant, dtype=constant.dtype)
  records["descriptor"] = to_float32(descriptors)
  for name in _SCALARS:
    records[name] = columns[name]
  return records.tobytes()


def view_features(data):
  """Views bytes of a DelfFeatures as records.

  Args:
    data: bytes, not empty.

  Returns:
    [N] array with the fields `descriptor` [N, D] and `x`, `y`, `scale`,
    `orientation`, `strength` [N], all float32 and not aligned; or None where
    the bytes are not records of one layout, every tag and length of each
    compared.
  """
  try:
    _, start, end = next(delimited_fields(data))
    first = feature_pb2.DelfFeature.FromString(data[start:end])
  except (ValueError, message.DecodeError):
    return None
  constant = _constant(len(first.descriptor.float_list.value))
  if len(data) % constant.dtype.itemsize:
    return None
  records = np.frombuffer(data, dtype=constant.dtype)
  names = ["head", *(f"{name}_tag" for name in _SCALARS)]
  if all((records[name] == constant[name]).all() for name in names):
    return records
  return None


def _constant(dimension):
  """Returns a record, [], with what is the same in all.

  Args:
    dimension: Values of the descriptor.

  Returns:
    [] array of the records' dtype, in which `head` and, before each scalar, its
    tag are set.
  """
  datum = float_header(dimension)
  size = len(datum) + 4 * dimension
  body = delimited(_DESCRIPTOR, size)
  tail = 5 * len(_SCALARS)
  head = delimited(_FEATURE, len(body) + size + tail) + body + datum
  fields = [("head", np.uint8, [len(head)]), ("descriptor", "<f4", [dimension])]
  for name in _SCALARS:
    fields += [(f"{name}_tag", np.uint8), (name, "<f4")]
  record = np.zeros([], dtype=fields)
  record["head"] = np.frombuffer(head, dtype=np.uint8)
  for name, number in _SCALARS.items():
    record[f"{name}_tag"] = fixed32_tag(number)[0]
  return record
