"""Arrays as the bytes of a DatumProto; those of floats at memory speed.

Regular is what this library and the original write: the shape, then one packed
list, and nothing else. Integers, whose bytes are no array, go through protobuf.
"""

import math
import os

import numpy as np

from delf.protos import datum_pb2
from delf.python import errors, wire

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


def pack(arr):
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
    values = wire.to_float32(arr).reshape(-1).view(np.uint8).data
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
  dims = b"".join(wire.varint(dim) for dim in shape)
  packed = wire.delimited(_VALUE, len(dims)) + dims if dims else b""
  value = wire.delimited(_VALUE, size) if size else b""
  return b"".join(
    [
      wire.delimited(_SHAPE, len(packed)),
      packed,
      wire.delimited(_FLOAT_LIST, len(value) + size),
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
  fields = wire.delimited_fields(data, 0, size)
  (first, *shape_span), (second, *value_span) = fields
  if (first, second) != (_SHAPE, _FLOAT_LIST):
    raise ValueError("other fields than a shape and a list of floats")
  start, end = wire.packed_span(data, *shape_span)
  if end > len(data):
    raise ValueError("a long shape")
  dims, position, shape = data[start:end], 0, []
  while position < len(dims):
    # Unlike a protobuf's int64, a dim is at most 2^32 - 1 here.
    dim, position = wire.read_varint(dims, position)
    shape.append(dim)
  check_dimensions(len(shape))
  start, end = wire.packed_span(data, *value_span)
  if (end - start) % 4:
    raise ValueError("a cut float")
  return shape, start, end
