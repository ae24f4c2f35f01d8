"""Which files of a data set are done: a record beside them for each."""

import dataclasses
import json
import pathlib

from delf.python import files
from delf.python.datasets import downloads


@dataclasses.dataclass(frozen=True)
class Record:
  """What one file was.

  Attributes:
    name: Its downloads.RemoteFile.name.
    size: In bytes.
    md5: Hexadecimal.
    images: Number of images that were unpacked; 0 if it is no archive.
    only: Digest of the ids whose images were kept, or None for all.
  """

  name: str
  size: int
  md5: str
  images: int = 0
  only: str | None = None


def write(work, record):
  """Writes the record of a file that is done, in the folder `work`."""
  text = json.dumps(dataclasses.asdict(record), indent=2) + "\n"
  files.write_bytes(_path(work, record.name), text.encode())


def is_done(work, file, out, only=None):
  """Returns whether a file of a data set is there, as far as is wanted.

  Args:
    work: Folder of the records.
    file: downloads.RemoteFile.
    out: Folder of the data set.
    only: unpacking.ImageIds of the images to keep, or None for all.
  """
  record = _read(work, file.name)
  if record is None:
    return False
  target = pathlib.Path(out, file.target)
  if file.kind != downloads.ARCHIVE:
    return target.is_file() and target.stat().st_size == record.size
  enough = record.only is None or (only and record.only == only.digest)
  return bool(enough) and target.is_dir()


def _read(work, name):
  """Returns the Record of a file, or None."""
  path = _path(work, name)
  if not path.exists():
    return None
  try:
    return Record(**json.loads(files.read_bytes(path)))
  except (ValueError, TypeError, RecursionError):
    return None  # Done again.


def _path(work, name):
  return pathlib.Path(work, f"{name.replace('/', '_')}.done.json")
