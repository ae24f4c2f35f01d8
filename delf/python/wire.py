"""The few pieces of protobuf's wire format that bulk data is made of.

The messages of `delf/protos` hold arrays as packed lists; to write and read
those at memory speed, their bytes are viewed by NumPy rather than taken through
one Python object per number. Source: https://protobuf.dev/programming-guides/
encoding/.
"""

import numpy as np

# Wire types: the low three bits of a tag.
_VARINT = 0
_FIXED64 = 1
_LENGTH_DELIMITED = 2
_FIXED32 = 5

# A varint of 64 bits has at most so many bytes.
_MAX_VARINT_BYTES = 10


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
    ValueError: If the data end within it, or it is over 64 bits.
  """
  value = 0
  for index, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
    value |= (byte & 0x7F) << (7 * index)
    if byte < 0x80:
      if value >> 64:
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


def to_float32(array):
  """Returns an array as contiguous little-endian float32; overflow is inf."""
  # Files may hold any NaN, signalling ones too, which NumPy would warn of.
  with np.errstate(over="ignore", invalid="ignore"):
    return np.ascontiguousarray(array, dtype="<f4")


def pack_varints(values):
  """Packs unsigned integers.

  Args:
    values: [N] uint32.

  Returns:
    bytes.
  """
  # One row per value, one column per group of 7 bits; 5 groups hold 32 bits.
  columns = np.arange(5, dtype=np.uint8)
  groups = (values[:, None] >> np.uint32(7 * columns)).astype(np.uint8) & 0x7F
  limits = np.array([1 << 7, 1 << 14, 1 << 21, 1 << 28], dtype=np.uint32)
  lengths = 1 + np.searchsorted(limits, values, side="right")[:, None]
  groups[columns + 1 < lengths] |= 0x80
  return groups[columns < lengths].tobytes()


def unpack_varints(data):
  """Unpacks unsigned integers.

  Args:
    data: bytes-like.

  Returns:
    [N] uint32.

  Raises:
    ValueError: If the data end within a varint, or one is over 32 bits or 5
      bytes.
  """
  groups = np.frombuffer(data, dtype=np.uint8)
  if not groups.size:
    return np.zeros([0], dtype=np.uint32)
  ends = np.flatnonzero(groups < 0x80)
  starts = np.concatenate([[0], ends[:-1] + 1]) if ends.size else ends
  if groups[-1] >= 0x80 or (ends - starts).max() >= 5:
    raise ValueError("a varint is cut or too long")
  places = np.arange(groups.size) - np.repeat(starts, ends - starts + 1)
  shifted = (groups & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64)
  values = np.add.reduceat(shifted, starts)
  if values.max() >> np.uint64(32):
    raise ValueError("a varint is over 32 bits")
  return values.astype(np.uint32)
