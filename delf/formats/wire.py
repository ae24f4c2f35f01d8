"""Protobuf's wire format, in the parts that arrays need.

The messages of `delf/protos` store arrays as packed lists, which NumPy views at
memory speed, without a Python object for each number. Source:
https://protobuf.dev/programming-guides/encoding/.
"""

import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf import message
from numpy import typing as npt

from delf.base import errors, files
from delf.protos import datum_pb2, feature_pb2

_Bytes = bytes | memoryview | mmap.mmap
_Message = TypeVar("_Message", bound=message.Message)

# Wire types: the low three bits of a tag.
_LENGTH_DELIMITED = 2
_FIXED32 = 5
# Bytes of a varint of 32 bits, the largest for tags and lengths.
_MAX_VARINT_BYTES = 5

FLOATS = (np.float16, np.float32, np.float64)
_INTEGERS = (np.uint8, np.uint16, np.uint32, np.uint64)
_UINT32_MAX = np.iinfo(np.uint32).max
# NumPy's limit before version 2.0.
_MAX_DIMS = 32
# Limit of a protobuf message, less the bytes around the values.
_MAX_BYTES = 2**31 - 2**10
# Enough for the shape and the lengths that precede the values.
_HEAD_BYTES = 256

# Field numbers of datum.proto and its lists, and of feature.proto.
_SHAPE, _FLOAT_LIST = 1, 2
_VALUE = _FEATURE = _DESCRIPTOR = 1
_SCALARS = {"x": 2, "y": 3, "scale": 4, "orientation": 5, "strength": 6}


def varint(value: int) -> bytes:
  """Return a non-negative integer as a varint: 7 bits a byte, lowest first."""
  result = bytearray()
  while value > 0x7F:
    result.append(value & 0x7F | 0x80)
    value >>= 7
  result.append(value)
  return bytes(result)


def tag(number: int, wire_type: int = _LENGTH_DELIMITED) -> bytes:
  """Return the tag of a field."""
  return varint(number << 3 | wire_type)


def delimited(number: int, length: int) -> bytes:
  """Return the bytes that precede a string or message field's content."""
  return tag(number) + varint(length)


def read_varint(data: _Bytes, position: int) -> tuple[int, int]:
  """Read a varint of up to 32 bits; return the value and the next position."""
  value = 0
  for index, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
    value |= (byte & 0x7F) << (7 * index)
    if byte < 0x80:
      if value >> 32:
        break
      return value, position + index + 1
  raise ValueError("a varint is truncated or too long")


def delimited_fields(
  data: _Bytes, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, int, int]]:
  """Yield (number, start, end) of each field; ValueError unless delimited."""
  end = len(data) if end is None else end
  while start < end:
    key, start = read_varint(data, start)
    length, start = read_varint(data, start)
    if key & 7 != _LENGTH_DELIMITED or length > end - start:
      raise ValueError("a field is truncated or of another type")
    yield key >> 3, start, start + length
    start += length


def packed_span(
  data: _Bytes, start: int, end: int, number: int = 1
) -> tuple[int, int]:
  """Return start and end of the values of a message of one packed list."""
  if start == end:
    return start, end
  ((first, start, end),) = delimited_fields(data, start, end)
  if first != number:
    raise ValueError(f"field {first} instead of the list, {number}")
  return start, end


def parse_message(
  kind: type[_Message], data: _Bytes, path: files.Path | None = None
) -> _Message:
  """Parse bytes as a message class; raise InputError if they are damaged."""
  try:
    return kind.FromString(bytes(data))
  except message.DecodeError:
    content = f"{len(data)} bytes, truncated or of another format"
    problem = f"not a whole {kind.DESCRIPTOR.name} message but {content}"
    raise errors.InputError(problem, path=path) from None


def to_float32(array: npt.ArrayLike, name: str = "values") -> np.ndarray:
  """Convert numbers to contiguous little-endian float32; overflow gives inf."""
  array = np.asarray(array)
  if array.dtype.kind not in "fiu":
    raise errors.InputError(f"{name} must be numbers, not {array.dtype}")
  # Files may hold signalling NaN, about which NumPy would warn.
  with np.errstate(over="ignore", invalid="ignore"):
    return np.asarray(array, dtype="<f4", order="C")


def to_uint32(array: np.ndarray) -> np.ndarray:
  """Convert uint8, 16, 32 or 64 to uint32; the largest number is 2^32 - 1."""
  if array.dtype.type not in _INTEGERS:
    types = "float16, 32 or 64 or uint8, 16, 32 or 64"
    raise errors.InputError(f"an array must be {types}, not {array.dtype}")
  if array.dtype == np.uint64 and array.size and array.max() > _UINT32_MAX:
    problem = f"integers must be at most {_UINT32_MAX}, not {array.max()}"
    raise errors.InputError(problem)
  return array.astype(np.uint32)


def check_dimensions(number: int, path: files.Path | None = None) -> None:
  """Raise InputError if an array has too many dimensions."""
  if number > _MAX_DIMS:
    problem = f"an array has at most {_MAX_DIMS} dimensions, not {number}"
    raise errors.InputError(problem, path=path)


def pack_datum(array: npt.ArrayLike) -> list[bytes | memoryview]:
  """Convert an array to consecutive pieces of the bytes of a DatumProto."""
  array = np.asarray(array)
  check_dimensions(array.ndim)
  if 4 * array.size > _MAX_BYTES:
    limit = f"{_MAX_BYTES // 4} values, the limit of protobuf"
    raise errors.InputError(f"an array has {array.size}, over {limit}")
  if array.dtype.type in FLOATS:
    floats = to_float32(array).reshape(-1).view(np.uint8)
    return [_datum_head(array.shape), floats.data]
  integers = to_uint32(array).reshape(-1)
  datum = datum_pb2.DatumProto(shape={"dim": array.shape}, uint32_list={})
  datum.uint32_list.value.extend(integers.data)
  return [datum.SerializeToString()]


def _datum_head(shape: Sequence[int]) -> bytes:
  """Return the bytes of a DatumProto of floats up to its values."""
  dims = b"".join(varint(dim) for dim in shape)
  packed = delimited(_VALUE, len(dims)) + dims if dims else b""
  size = 4 * math.prod(shape)
  value = delimited(_VALUE, size) if size else b""
  shape_field = delimited(_SHAPE, len(packed)) + packed
  return shape_field + delimited(_FLOAT_LIST, len(value) + size) + value


def unpack_floats(data: bytes) -> tuple[list[int], np.ndarray]:
  """Convert a regular DatumProto of floats to a shape and [n] values.

  Does not check that they fit. Raises ValueError for any other bytes.
  """
  shape, start, end = _datum_layout(data, len(data))
  packed = memoryview(data)[start:end]
  # A copy, since the bytes are neither aligned nor writable.
  return shape, np.frombuffer(packed, dtype="<f4").astype(np.float32)


def read_floats(path: files.Path) -> np.ndarray | None:
  """Read a local file of a regular DatumProto of floats, or return None."""
  try:
    with open(path, "rb") as file:
      size = os.fstat(file.fileno()).st_size
      shape, start, end = _datum_layout(file.read(_HEAD_BYTES), size)
      if 4 * math.prod(shape) != end - start:
        return None
      # `_datum_layout` has checked that this is not larger than the file.
      values = np.empty(shape, dtype="<f4")
      file.seek(start)
      whole = (
        file.readinto(values.reshape(-1).view(np.uint8).data) == end - start
      )
      return values.astype(np.float32, copy=False) if whole else None
  except (OSError, ValueError):
    return None


def _datum_layout(data, size):
  """Return shape, start and end of values from the first bytes of a message."""
  (first, *shape_span), (second, *value_span) = delimited_fields(data, 0, size)
  if (first, second) != (_SHAPE, _FLOAT_LIST):
    raise ValueError("other fields than a shape and a list of floats")
  position, end = packed_span(data, *shape_span)
  if end > len(data):
    raise ValueError("the shape is too long")
  dims, position, shape = data[position:end], 0, []
  while position < len(dims):
    # Here, unlike in protobuf, a dimension is at most 2^32 - 1.
    dim, position = read_varint(dims, position)
    shape.append(dim)
  check_dimensions(len(shape))
  start, end = packed_span(data, *value_span)
  if (end - start) % 4:
    raise ValueError("a float is truncated")
  return shape, start, end


def pack_features(
  descriptors: np.ndarray, columns: Mapping[str, np.ndarray]
) -> bytes:
  """Convert [N, D] descriptors and `_SCALARS` [N] to a DelfFeatures."""
  record = _feature_record(descriptors.shape[1])
  records = np.full([len(descriptors)], record, dtype=record.dtype)
  records["descriptor"] = to_float32(descriptors)
  for name in _SCALARS:
    records[name] = columns[name]
  return records.tobytes()


def view_features(data: bytes) -> np.ndarray | None:
  """View the bytes of a DelfFeatures as [N] float32 records, not aligned.

  Fields are `descriptor` [D] and `_SCALARS`. None if their layouts differ.
  """
  try:
    _, start, end = next(delimited_fields(data))
    first = feature_pb2.DelfFeature.FromString(data[start:end])
  except (ValueError, message.DecodeError):
    return None
  record = _feature_record(len(first.descriptor.float_list.value))
  if len(data) % record.dtype.itemsize:
    return None
  records = np.frombuffer(data, dtype=record.dtype)
  names = ["head", *(f"{name}_tag" for name in _SCALARS)]
  same = all((records[name] == record[name]).all() for name in names)
  return records if same else None


def _feature_record(dimension):
  """Return a [] record with the bytes that all records share."""
  datum = _datum_head([dimension])
  size = len(datum) + 4 * dimension
  body = delimited(_DESCRIPTOR, size)
  tail = 5 * len(_SCALARS)
  head = delimited(_FEATURE, len(body) + size + tail) + body + datum
  fields: list[tuple] = [("head", np.uint8, [len(head)])]
  fields.append(("descriptor", "<f4", [dimension]))
  for name in _SCALARS:
    fields += [(f"{name}_tag", np.uint8), (name, "<f4")]
  record = np.zeros([], dtype=fields)
  record["head"] = np.frombuffer(head, dtype=np.uint8)
  for name, number in _SCALARS.items():
    record[f"{name}_tag"] = tag(number, _FIXED32)[0]
  return record
