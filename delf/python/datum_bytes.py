"""Arrays as the bytes of a regular DatumProto.

Regular is what this library and the original write: the shape, then one packed
list, and nothing else.
"""

import math
import os

import numpy as np

from delf.python import errors, wire

_FLOATS = (np.float16, np.float32, np.float64)
_INTEGERS = (np.uint8, np.uint16, np.uint32, np.uint64)
_UINT32_MAX = np.iinfo(np.uint32).max

# Field numbers of datum.proto.
_SHAPE, _FLOAT_LIST, _UINT32_LIST = 1, 2, 3
_VALUE = 1

# Enough for the shape and the lengths in front of the values.
_HEAD_BYTES = 256


def pack(arr):
  """Converts an array to bytes of a DatumProto.

  Args:
    arr: Array as `datum_io.ArrayToDatum` takes it.

  Returns:
    list of bytes-like pieces, so that large values need not be copied.

  Raises:
    InputError: If the array is of another type, or a value is over 2^32 - 1.
  """
  arr = np.asarray(arr)
  if arr.dtype.type in _FLOATS:
    values = wire.to_float32(arr).reshape(-1).view(np.uint8).data
    return [_header(arr.shape, _FLOAT_LIST, len(values)), values]
  if arr.dtype.type in _INTEGERS:
    if arr.dtype == np.uint64 and arr.size and arr.max() > _UINT32_MAX:
      raise errors.InputError(
        f"integers up to {_UINT32_MAX}", f"the integer {arr.max()}"
      )
    values = wire.pack_varints(arr.reshape(-1).astype(np.uint32))
    return [_header(arr.shape, _UINT32_LIST, len(values)), values]
  raise errors.InputError(
    "an array of float16, 32 or 64 or uint8, 16, 32 or 64",
    f"an array of type {arr.dtype}",
  )


def float_header(dimension):
  """Returns the bytes of a DatumProto [dimension] float up to its values."""
  return _header([dimension], _FLOAT_LIST, 4 * dimension)


def unpack(data):
  """Converts bytes of a regular DatumProto.

  Args:
    data: bytes.

  Returns:
    The shape that is stated, list of int, and the values, [n] float32 or
    uint32; whether they fit is for the caller to see.

  Raises:
    ValueError: If the bytes are anything else.
  """
  shape, kind, start, end = _layout(data, len(data))
  packed = memoryview(data)[start:end]
  if kind == _UINT32_LIST:
    return shape, wire.unpack_varints(packed)
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
      shape, kind, start, end = _layout(file.read(_HEAD_BYTES), size)
      if kind != _FLOAT_LIST or 4 * math.prod(shape) != end - start:
        return None
      # Not larger than the file, as `_layout` has compared.
      values = np.empty(shape, dtype="<f4")
      file.seek(start)
      whole = file.readinto(values.reshape(-1).view(np.uint8)) == end - start
      return values.astype(np.float32, copy=False) if whole else None
  except (OSError, ValueError):
    return None


def _header(shape, number, size):
  """Returns the bytes of a DatumProto up to its `size` bytes of values."""
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


def _layout(data, size):
  """Finds the values of a regular DatumProto.

  Args:
    data: bytes, the first ones of the message or all.
    size: Bytes of the whole message.

  Returns:
    Shape, field number of the list, and where its packed values start and end.

  Raises:
    ValueError: If the message is not regular, or its shape not in the data.
  """
  fields = wire.delimited_fields(data, 0, size)
  (first, *shape_span), (kind, *value_span) = fields
  if first != _SHAPE or kind not in (_FLOAT_LIST, _UINT32_LIST):
    raise ValueError("other fields than a shape and a list")
  start, end = wire.packed_span(data, *shape_span)
  if end > len(data):
    raise ValueError("a long shape")
  # Unlike a protobuf's int64, dims are at most 2^32 - 1 here.
  shape = wire.unpack_varints(data[start:end]).tolist()
  start, end = wire.packed_span(data, *value_span)
  if kind == _FLOAT_LIST and (end - start) % 4:
    raise ValueError("a cut float")
  return shape, kind, start, end
