"""Downloads published models, once and in full."""

import dataclasses
import hashlib
import json
import os

from delf.python import errors, files
from delf.python.inference import archive, transfer, zoo

_RECORDS = "downloads.json"


@dataclasses.dataclass(frozen=True)
class Record:
  """What a download was: kept, and compared with every later one."""

  url: str
  size: int  # In bytes.
  sha256: str  # Hexadecimal.


def install(known, *, url=None, sha256=None, force=False):
  """Downloads an artefact and unpacks it into the cache.

  The SHA-256 of the archive is recorded at the first download (the publisher
  names none) and must be the same ever after.

  Args:
    known: zoo_table.Artefact.
    url: Address to use instead of the published one.
    sha256: What the archive must have, instead of what is recorded.
    force: Whether to download what is there already.

  Returns:
    pathlib.Path of the folder.

  Raises:
    InputError: If it cannot be had, or is not what it should be.
  """
  folder = zoo.folder(known)
  if known.url is None:
    reason = known.unavailable or "which is in the package"
    raise errors.InputError("a model to download", f"{known.name}, {reason}")
  url = url or known.url
  expected = _checked_digest(sha256) or _recorded_digest(known.name)
  if folder.is_dir() and not force:
    return folder
  path = zoo.cache_folder() / "downloads" / f"{known.name}.tar.gz"
  transfer.fetch(url, path)
  record = Record(url, path.stat().st_size, file_digest(path))
  if expected not in (None, record.sha256):
    _keep_aside(path, expected, record, by_user=sha256 is not None)
  try:
    archive.unpack(path, folder, required=known.wanted)
  except errors.InputError as error:
    # The file goes, so the address says what it is about.
    raise errors.InputError(error.expected, error.received, url) from None
  finally:
    path.unlink()
  _write_record(known.name, record)
  return folder


def recorded(name):
  """Returns the Record of the last download of an artefact, or None."""
  fields = _read_records().get(name)
  return Record(**fields) if fields else None


def file_digest(path):
  """Returns the SHA-256 of a file, hexadecimal."""
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while chunk := file.read(2**20):
      digest.update(chunk)
  return digest.hexdigest()


def _checked_digest(sha256):
  if sha256 is None:
    return None
  digest = sha256.strip().lower()
  if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
    raise errors.InputError("a SHA-256, 64 hexadecimal digits", repr(sha256))
  return digest


def _recorded_digest(name):
  record = recorded(name)
  return record.sha256 if record else None


def _keep_aside(path, expected, record, by_user):
  """Renames a file that is not the expected one, and says so."""
  aside = path.with_name(f"{path.name}.{record.sha256[:12]}.unexpected")
  os.replace(path, aside)
  whose = "given" if by_user else "recorded at the first download"
  advice = "" if by_user else f"; if it is right, give --sha256 {record.sha256}"
  raise errors.InputError(
    f"SHA-256 {expected} ({whose})",
    f"{record.sha256}, {record.size} bytes, from {record.url} (kept){advice}",
    aside,
  )


def _records_path():
  return zoo.cache_folder() / _RECORDS


def _read_records():
  path = _records_path()
  if not path.exists():
    return {}
  try:
    records = json.loads(files.read_bytes(path))
    return {
      name: dataclasses.asdict(Record(**r)) for name, r in records.items()
    }
  except (ValueError, TypeError, AttributeError):
    raise errors.InputError(
      "the record of downloads (delete it to begin a new one)",
      "something else",
      path,
    ) from None


def _write_record(name, record):
  records = _read_records()
  records[name] = dataclasses.asdict(record)
  text = json.dumps(records, indent=2, sort_keys=True) + "\n"
  files.write_bytes(_records_path(), text.encode())
