"""Reading single records of TFRecord files, their checksums compared."""

import os
import threading

from delf.python import errors, files
from delf.python.datasets.labelled_records import framing

_MOST_OPEN = 200  # Systems allow a program 256 files or more.


class RecordReader:
  """Reads records by file and place; safe to use from several threads."""

  def __init__(self):
    self._lock = threading.Lock()
    self._open = {}

  def read(self, path, start, check=True):
    """Reads one record.

    Args:
      path: Path of the file.
      start: Where it starts, in bytes.
      check: Whether its checksums are compared.

    Returns:
      bytes.

    Raises:
      InputError: If a checksum is wrong, or the file is gone or cannot be read;
        it names the file and the place.
    """
    try:
      record = self._read(self._file(path), start, check)
    except OSError as error:
      reason = error.strerror or str(error)
      raise errors.InputError("a file that can be read", reason, path) from None
    if record is None:
      raise errors.InputError(
        "a whole record", f"a damaged one at byte {start}", path
      )
    return record

  def _read(self, file, start, check):
    """Returns a record, or None if it is damaged."""
    head = file.read(start, framing.HEAD)
    size = framing.length(head) + framing.FOOT
    if start + framing.HEAD + size > file.size():
      return None
    body = file.read(start + framing.HEAD, size)
    if len(body) < size:
      return None
    data, foot = body[: -framing.FOOT], body[-framing.FOOT :]
    if check and not framing.are_whole(head, data, foot):
      return None
    return data

  def _file(self, path):
    with self._lock:
      if path not in self._open:
        if len(self._open) >= _MOST_OPEN:
          del self._open[next(iter(self._open))]
        self._open[path] = _open(path)
      return self._open[path]


def _open(path):
  if files.is_remote(path):
    import tensorflow as tf

    return _Locked(tf.io.gfile.GFile(path, "rb"))
  return _Local(path) if hasattr(os, "pread") else _Locked(open(path, "rb"))


class _Local:
  """A file that any number of threads read; closed when nothing refers to it.

  The next file that is opened may get its number, so that no thread that still
  reads may find it closed.
  """

  def __init__(self, path):
    self._number = os.open(path, os.O_RDONLY)

  def __del__(self, close=os.close):
    if hasattr(self, "_number"):
      close(self._number)

  def size(self):
    return os.fstat(self._number).st_size

  def read(self, start, number):
    return os.pread(self._number, number, start)


class _Locked:
  """A file that one thread reads at a time; closed in the same way."""

  def __init__(self, file):
    self._file, self._lock = file, threading.Lock()

  def __del__(self):
    self._file.close()

  def size(self):
    with self._lock:
      self._file.seek(0, os.SEEK_END)
      return self._file.tell()

  def read(self, start, number):
    with self._lock:
      self._file.seek(start)
      return self._file.read(number)
