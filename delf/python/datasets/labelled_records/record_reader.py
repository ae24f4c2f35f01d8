"""Reading single records of TFRecord files, their checksums compared."""

import os
import threading

from delf.python import errors, files

# Of a record: its length and the length's checksum before the data, the data's
# checksum behind. Source: https://www.tensorflow.org/tutorials/load_data/
# tfrecord.
HEAD, FOOT = 12, 4
_MOST_OPEN = 200  # Systems allow a program 256 files or more.


class RecordReader:
  """Reads records by file and place; safe to use from several threads."""

  def __init__(self):
    self._lock = threading.Lock()
    self._open = {}
    self._checker = _Checker() if hasattr(os, "memfd_create") else None

  def read(self, path, start):
    """Reads one record.

    Args:
      path: Path of the file.
      start: Where it starts, in bytes.

    Returns:
      bytes.

    Raises:
      InputError: If a checksum is wrong; it names the file and the place.
    """
    import tensorflow as tf

    in_memory = self._checker is not None and not files.is_remote(path)
    try:
      if in_memory:
        return self._checker.check(
          *_pread(self._file(path, _opened).number, start)
        )
      return self._file(path, _Locked).read(start)
    except (tf.errors.DataLossError, IndexError):
      raise errors.InputError(
        "a whole record", f"a damaged one at byte {start}", path
      ) from None

  def _file(self, path, make):
    with self._lock:
      if path not in self._open:
        if len(self._open) >= _MOST_OPEN:
          del self._open[next(iter(self._open))]
        self._open[path] = make(path)
      return self._open[path]


class _Locked:
  """TensorFlow's reader of a file, for one thread at a time."""

  def __init__(self, path):
    self._lock, self._reader = threading.Lock(), _open(path)

  def read(self, start):
    with self._lock:
      return self._reader.read(start)[0]


class _Checker(threading.local):
  """Checks a record in a file in memory, of each thread its own.

  TensorFlow's reader clears 8 MB whenever it goes to another place in a file,
  which takes as long as to decode a small photo. At the start of a file it does
  not.
  """

  def __init__(self):
    self._memory = _Descriptor(os.memfd_create("record"))
    self._path = f"/proc/self/fd/{self._memory.number}"

  def check(self, *pieces):
    os.ftruncate(self._memory.number, 0)
    os.pwritev(self._memory.number, pieces, 0)
    return _open(self._path).read(0)[0]


class _Descriptor:
  """A file descriptor that is closed when nothing refers to it."""

  def __init__(self, number):
    self.number = number

  def __del__(self, close=os.close):
    close(self.number)


def _opened(path):
  return _Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def _pread(descriptor, start):
  """Returns the head of a record, and the rest."""
  head = os.pread(descriptor, HEAD, start)
  length = int.from_bytes(head[:8], "little")
  if start + HEAD + length + FOOT > os.fstat(descriptor).st_size:
    raise IndexError
  return head, os.pread(descriptor, length + FOOT, start + HEAD)


def _open(path):
  # The one reader that starts at any record and checks what it reads; it is
  # not among TensorFlow's public names.
  from tensorflow.python.lib.io import tf_record

  return tf_record.tf_record_random_reader(path)
