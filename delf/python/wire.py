"""The few pieces of protobuf's wire format that bulk data is made of.

The messages of `delf/protos` hold arrays as packed lists; to write and read
those at memory speed, their bytes are viewed by NumPy rather than taken through
one Python object per number. Source: https://protobuf.dev/programming-guides/
encoding/.
"""

import numpy as np

from delf.python import errors

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
