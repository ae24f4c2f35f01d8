"""Which photo each output name stands for, told by the size of its file."""

import json
import os
import pathlib

from delf.python import files

# One line per finished image: its name, and the size of the photo in bytes.
# Paths and times are not in it, as data sets are moved.
RECORD = "extraction_images.jsonl"


class PhotoRecord:
  """The record of one output folder, which is only ever appended to."""

  def __init__(self, folder):
    """Reads what is there.

    Args:
      folder: Path of the output folder; need not exist.
    """
    self._path = pathlib.Path(folder) / RECORD
    self._sizes = _read(self._path)
    self._file = None

  def has(self, job):
    """Returns whether a photo of this name was recorded."""
    return job.name in self._sizes

  def has_changed(self, job):
    """Returns whether the photo is another one than that recorded."""
    found = self._sizes.get(job.name)
    return None not in (found, job.size) and found != job.size

  def add(self, job):
    """Records a photo whose feature files are written."""
    if self._file is None:
      self._file = _open_to_append(self._path)
    line = json.dumps({"name": job.name, "bytes": job.size})
    self._file.write(f"{line}\n".encode())
    self._file.flush()

  def close(self):
    """Closes the file."""
    if self._file is not None:
      self._file.close()
      self._file = None


def _read(path):
  """Returns {name: size in bytes}; the last line of a name counts."""
  sizes = {}
  for line in files.read_bytes(path).splitlines() if path.exists() else []:
    try:
      entry = json.loads(line)
      sizes[entry["name"]] = entry["bytes"]
    except (ValueError, KeyError, TypeError):
      continue  # Cut, as a run was killed.
  return sizes


def _open_to_append(path):
  file = open(path, "ab+")  # noqa: SIM115 (closed by `close`)
  if file.tell():
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
      file.write(b"\n")
  return file
