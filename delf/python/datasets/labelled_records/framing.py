"""How a record lies in a TFRecord file.

Its length and the length's checksum stand before the data, the data's checksum
behind. Source: https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

from delf.python.datasets.labelled_records import crc32c

# Bytes before and behind the data.
HEAD, FOOT = 12, 4
_LENGTH = 8


def pack(data):
  """Returns the bytes of a record in a file.

  Args:
    data: bytes.
  """
  length = len(data).to_bytes(_LENGTH, "little")
  return b"".join([length, _checksum(length), data, _checksum(data)])


def length(head):
  """Returns how many bytes of data follow a head."""
  return int.from_bytes(head[:_LENGTH], "little")


def are_whole(head, data, foot):
  """Returns whether the checksums of a record are right."""
  return head[_LENGTH:] == _checksum(head[:_LENGTH]) and foot == _checksum(data)


def _checksum(data):
  return crc32c.masked(data).to_bytes(FOOT, "little")
