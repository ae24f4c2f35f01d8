"""TFRecord files as one list of records, each read where it lies."""

import functools
import glob
import os
import re
from concurrent import futures

import numpy as np
from absl import logging

from delf.python import errors, files
from delf.python.datasets.labelled_records import (
  framing,
  photo_list,
  record_reader,
)

_THREADS = 16
# `<split>-<place>-of-<number>`, as all writers of TFRecords name shards.
_SHARD = re.compile(r"(.+)-\d+-of-(\d+)", re.DOTALL)
# A number of shards that is larger is a part of another name.
_MOST_SHARDS = 100_000


class RecordFiles:
  """The records of several files, numbered from 0 in the files' order.

  Takes 13 bytes of memory for each record.

  Attributes:
    paths: list of str, the files.
  """

  def __init__(self, pattern):
    """Finds the files and where their records start.

    Args:
      pattern: Pattern of the files' paths, such as `data/train*`, or a list of
        these.

    Raises:
      FileNotFoundError: If no file is found.
      InputError: If a file is no TFRecord file or is cut, or if there is no
        record in all.
    """
    self.paths = _find(pattern)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      starts = list(pool.map(_starts, self.paths))
    numbers = [len(each) for each in starts]
    self._starts = np.concatenate(starts)
    self._files = np.repeat(np.arange(len(starts), dtype=np.int32), numbers)
    self._checked = np.zeros([len(self._starts)], bool)
    self._reader = record_reader.RecordReader()
    if not len(self._starts):
      raise errors.InputError("records", "files of none", pattern)

  def __len__(self):
    return len(self._starts)

  def path(self, number):
    """Returns the path of the file that a record is in."""
    return self.paths[self._files[number]]

  def read(self, number):
    """Reads one record; safe to call from several threads.

    Its checksums are compared when it is read for the first time.

    Args:
      number: Its number, from 0.

    Returns:
      bytes.

    Raises:
      InputError: If its checksum is wrong, or the file is gone or cannot be
        read; it names the file and the place.
    """
    path, start = self.path(number), int(self._starts[number])
    record = self._reader.read(path, start, not self._checked[number])
    self._checked[number] = True
    return record


def _find(pattern):
  patterns = [pattern] if isinstance(pattern, (str, os.PathLike)) else pattern
  found = {
    path for one in patterns for path in _glob(os.fspath(one)) if _is_file(path)
  }
  if not found:
    words = ", ".join(map(os.fspath, patterns))
    raise FileNotFoundError(f"{words}: expected TFRecord files, found none")
  missing = missing_shards(found)
  if missing:
    _warn_of(tuple(missing))
  return sorted(found)


def missing_shards(paths):
  """Finds shards that should lie beside those that are there.

  Args:
    paths: Paths of shards. Of `train-00001-of-00008` and others of eight, all
      eight belong together; other names say nothing.

  Returns:
    Sorted list of str, paths of those that are not there. What is there, and
    not among `paths`, was left out on purpose.
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
    photo_list.some(missing),
  )


def _glob(pattern):
  if not files.is_remote(pattern):
    return glob.glob(pattern)
  import tensorflow as tf

  return tf.io.gfile.glob(pattern)


def _is_file(path):
  return files.is_remote(path) or os.path.isfile(path)


def _starts(path):
  """Returns where the records of a file start, [N] int64."""
  starts = []
  with _open_bytes(path) as file:
    size, start = file.seek(0, os.SEEK_END), 0
    while start < size:
      file.seek(start)
      head = file.read(framing.HEAD)
      record = framing.HEAD + framing.length(head) + framing.FOOT
      if len(head) < framing.HEAD or start + record > size:
        where = "at its start" if not start else f"at byte {start} of {size}"
        raise errors.InputError(
          "a whole TFRecord file", f"one that is cut or damaged {where}", path
        )
      starts.append(start)
      start += record
  return np.array(starts, np.int64)


def _open_bytes(path):
  if files.is_remote(path):
    return _Remote(path)
  return open(path, "rb", buffering=framing.HEAD)


class _Remote:
  """A remote file, with `seek` as local ones have it."""

  def __init__(self, path):
    import tensorflow as tf

    self._file = tf.io.gfile.GFile(path, "rb")
    self.read = self._file.read

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._file.close()

  def seek(self, offset, whence=os.SEEK_SET):
    self._file.seek(offset, whence)
    return self._file.tell()
