"""TFRecord files: checksums, records by number, errors of their readers."""

import contextlib
import functools
import glob
import os
import re
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures

import google_crc32c
import numpy as np
from absl import logging

from delf.base import errors, files
from delf.records import photo_list

# Bytes of a record before and behind its data.
HEAD, FOOT = 12, 4
_LENGTH = 8
_MASK = 0xA282EAD8
_MOST_OPEN = 200  # Systems allow a program 256 files or more.
_THREADS = 16
# `<split>-<place>-of-<number>`, as all writers of TFRecords name shards.
_SHARD = re.compile(r"(.+)-\d+-of-(\d+)", re.DOTALL)
# A number of shards that is larger is a part of another name.
_MOST_SHARDS = 100_000
# The one line of an InputError in the text of a TensorFlow error.
_LINE = re.compile(
  r"^.*?InputError: (?:(?P<path>.*?): )?"
  r"expected (?P<expected>.*), received (?P<received>.*)$",
  re.MULTILINE,
)


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
  """Raise the InputError in the text of an error of a tf.data.Dataset."""
  import tensorflow as tf

  try:
    yield
  except tf.errors.OpError as error:
    line = _LINE.search(error.message)
    if not line:
      raise
    raise errors.InputError(
      line["expected"], line["received"], line["path"]
    ) from None


def masked_crc32c(data: bytes) -> int:
  """Return the checksum as TFRecord files have it, under 2^32."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def pack(data: bytes) -> bytes:
  """Return the bytes of a record in a file."""
  size = len(data).to_bytes(_LENGTH, "little")
  return b"".join([size, _checksum(size), data, _checksum(data)])


def _data_size(head):
  return int.from_bytes(head[:_LENGTH], "little")


def _checksum(data):
  return masked_crc32c(data).to_bytes(FOOT, "little")


class RecordFiles:
  """The records of several files, numbered from 0; 13 bytes of memory each."""

  def __init__(self, pattern: str | Iterable[str]):
    """Find files by patterns, such as `data/train*`, and index them."""
    self.paths = _find(pattern)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      starts = list(pool.map(_starts, self.paths))
    numbers = [len(each) for each in starts]
    self._starts = np.concatenate(starts)
    self._files = np.repeat(np.arange(len(starts), dtype=np.int32), numbers)
    self._checked = np.zeros([len(self._starts)], bool)
    self._lock = threading.Lock()
    self._open = {}
    if not len(self._starts):
      raise errors.InputError("records", "files of none", pattern)

  def __len__(self) -> int:
    return len(self._starts)

  def path(self, number: int) -> str:
    """Return the path of the file that a record is in."""
    return self.paths[self._files[number]]

  def read(self, number: int) -> bytes:
    """Read one record, thread-safe; compare checksums the first time."""
    path, start = self.path(number), int(self._starts[number])
    try:
      record = self._read(path, start, not self._checked[number])
    except OSError as error:
      reason = error.strerror or str(error)
      raise errors.InputError("a file that can be read", reason, path) from None
    if record is None:
      raise errors.InputError(
        "a whole record", f"a damaged one at byte {start}", path
      )
    self._checked[number] = True
    return record

  def _read(self, path, start, check):
    """Return a record, or None if it is damaged."""
    with self._lock:
      if path not in self._open:
        if len(self._open) >= _MOST_OPEN:
          del self._open[next(iter(self._open))]
        self._open[path] = _open(path)
      file = self._open[path]
    head = file.read(start, HEAD)
    size = _data_size(head) + FOOT
    if start + HEAD + size > file.size():
      return None
    body = file.read(start + HEAD, size)
    if len(body) < size:
      return None
    data, foot = body[:-FOOT], body[-FOOT:]
    if not check:
      return data
    whole = head[_LENGTH:] == _checksum(head[:_LENGTH])
    return data if whole and foot == _checksum(data) else None


def _open(path):
  if files.is_remote(path):
    return _LockedFile(_RemoteFile(path))
  if hasattr(os, "pread"):
    return _LocalFile(path)
  return _LockedFile(open(path, "rb"))


class _LocalFile:
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


class _LockedFile:
  """A file that one thread reads at a time; closed in the same way."""

  def __init__(self, file):
    self._file, self._lock = file, threading.Lock()

  def __del__(self):
    self._file.close()

  def size(self):
    with self._lock:
      return self._file.seek(0, os.SEEK_END)

  def read(self, start, number):
    with self._lock:
      self._file.seek(start)
      return self._file.read(number)


class _RemoteFile:
  """A remote file, with `seek` as local ones have it."""

  def __init__(self, path):
    import tensorflow as tf

    self._file = tf.io.gfile.GFile(path, "rb")
    self.read, self.close = self._file.read, self._file.close

  def seek(self, offset, whence=os.SEEK_SET):
    self._file.seek(offset, whence)
    return self._file.tell()


def _open_to_seek(path):
  if files.is_remote(path):
    return contextlib.closing(_RemoteFile(path))
  return open(path, "rb", buffering=HEAD)


def _starts(path):
  """Return where the records of a file start, [N] int64."""
  starts = []
  with _open_to_seek(path) as file:
    size, start = file.seek(0, os.SEEK_END), 0
    while start < size:
      file.seek(start)
      head = file.read(HEAD)
      record = HEAD + _data_size(head) + FOOT
      if len(head) < HEAD or start + record > size:
        where = "at its start" if not start else f"at byte {start} of {size}"
        raise errors.InputError(
          "a whole TFRecord file", f"one that is cut or damaged {where}", path
        )
      starts.append(start)
      start += record
  return np.array(starts, np.int64)


def _find(pattern):
  patterns = [pattern] if isinstance(pattern, (str, os.PathLike)) else pattern
  paths = {
    path
    for one in patterns
    for path in _glob(os.fspath(one))
    if files.is_remote(path) or os.path.isfile(path)
  }
  if not paths:
    names = ", ".join(map(os.fspath, patterns))
    raise FileNotFoundError(f"{names}: expected TFRecord files, found none")
  missing = missing_shards(paths)
  if missing:
    _warn_of(tuple(missing))
  return sorted(paths)


def missing_shards(paths: Iterable[str]) -> list[str]:
  """Find shards that should lie beside existing ones, sorted.

  Of `train-00001-of-00008` and others of eight, all eight belong together. A
  shard that exists, and is not among `paths`, was left out on purpose.
  """
  matches = [
    match
    for path in paths
    if (match := _SHARD.fullmatch(path)) and int(match[2]) <= _MOST_SHARDS
  ]
  whole = {
    f"{start}-{i:0{len(number)}d}-of-{number}"
    for start, number in {match.group(1, 2) for match in matches}
    for i in range(int(number))
  }
  return sorted(p for p in whole.difference(paths) if not _glob(glob.escape(p)))


# A run opens its files for each validation anew.
@functools.cache
def _warn_of(missing):
  logging.warning(
    "shards of records are missing, and the photos in them: %s",
    photo_list.first_names(missing),
  )


def _glob(pattern):
  if not files.is_remote(pattern):
    return glob.glob(pattern)
  import tensorflow as tf

  return tf.io.gfile.glob(pattern)
