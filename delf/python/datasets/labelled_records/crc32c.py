"""The checksum of TFRecord files, CRC-32C, by arrays.

Source: RFC 3720, appendix B.4; "masked" as in
https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

import functools

import cv2
import numpy as np

_POLYNOMIAL = 0x82F63B78
_ONES = 0xFFFFFFFF
_MASK = 0xA282EAD8
# Four bytes after which a sum that began with zero is of ones, which is what
# it is to begin with: zeros before them change nothing.
_BEFORE = bytes.fromhex("54641f64")


def masked(data):
  """Returns the checksum as TFRecord files have it: int under 2^32."""
  crc = crc32c(data)
  return ((crc >> 15 | crc << 17) + _MASK) & _ONES


def crc32c(data):
  """Returns the checksum: int under 2^32.

  A word adds the same to the sum as another one that is nearer to the end by
  some power of two. So the second half takes over the first, until one word is
  left; about 1 GB/s.

  Args:
    data: bytes.
  """
  words = np.zeros([len(data) // 4 + 2], "<u4")
  ends = np.frombuffer(_BEFORE + data, np.uint8)
  words.view(np.uint8)[-len(ends) :] = ends
  while len(words) > 1:
    level = (len(words) - 1).bit_length() - 1
    far, words = words[: -(1 << level)], words[-(1 << level) :]
    words[len(words) - len(far) :] ^= _nearer(far, _tables(level))
  return int(_nearer(words, _tables(0))[0]) ^ _ONES


def _nearer(words, tables):
  """Returns what words amount to, [N] uint32, after those of `tables`."""
  pixels = words.view(np.uint8).reshape(1, -1, 4)
  parts = cv2.LUT(pixels, tables.view(np.int32)[None])
  pairs = parts.view(np.uint64)[0]
  parts = (pairs[:, 0] ^ pairs[:, 1]).view(np.uint32)
  return parts[::2] ^ parts[1::2]


@functools.cache
def _tables(level):
  """Returns [256, 4] uint32: what each byte of a word amounts to.

  After 2^level words of zeros.
  """
  if level:
    half = _tables(level - 1)
    return _nearer(half.reshape(-1), half).reshape(256, 4)
  words = np.arange(256, dtype=np.uint32)[:, None] << np.uint32([0, 8, 16, 24])
  for _ in range(32):
    words = words >> 1 ^ (words & 1) * np.uint32(_POLYNOMIAL)
  return words
