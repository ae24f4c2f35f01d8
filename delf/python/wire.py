"""The few pieces of protobuf's wire format that bulk data is made of.

The messages of `delf/protos` hold arrays as packed lists; to write and read
those at memory speed, their bytes are viewed by NumPy rather than taken through
one Python object per number. Source: https://protobuf.dev/programming-guides/
encoding/.
"""

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
