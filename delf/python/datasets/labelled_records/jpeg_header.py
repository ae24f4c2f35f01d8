"""What the header of a JPEG says, before anything is decoded."""

import struct

# Markers without a length: those of restarts, start and end, and TEM.
_BARE = frozenset([0x01, *range(0xD0, 0xD9)])
# Start of frame, in all of its kinds; DHT, JPG and DAC lie among them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_END = b"\xff\xd9"


def read(data):
  """Reads the size of a JPEG, and whether its end is there.

  Args:
    data: bytes of the file.

  Returns:
    (height, width, components).

  Raises:
    ValueError: If it is no JPEG, or one that is cut; it says which in words
      that follow "received".
  """
  if data[:3] != b"\xff\xd8\xff":
    raise ValueError("data that are no JPEG")
  place, end = 2, len(data)
  while place + 4 <= end and data[place] == 0xFF:
    marker = data[place + 1]
    if marker == 0xFF:  # Padding.
      place += 1
      continue
    if marker in _BARE:
      place += 2
      continue
    if marker in _FRAMES and place + 10 <= end:
      if data.rfind(_END, place) < 0:
        raise ValueError("a JPEG that is cut")
      return struct.unpack_from(">HHB", data, place + 5)
    if marker == _START_OF_SCAN:
      break
    place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
  raise ValueError("a JPEG whose header is damaged or cut")
