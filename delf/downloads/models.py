"""Published models: downloaded, checked and unpacked into the cache."""

import dataclasses
import hashlib
import json
import os
import pathlib

from delf.base import errors, files
from delf.downloads import transfer
from delf.inference import zoo

_RECORDS = "downloads.json"


@dataclasses.dataclass(frozen=True)
class Record:
  """Facts of a download: kept, and compared with every later one."""

  url: str
  size: int  # In bytes.
  sha256: str  # Hexadecimal.


def install(
  known: zoo.Artefact,
  *,
  url: str | None = None,
  sha256: str | None = None,
  force: bool = False,
) -> pathlib.Path:
  """Download a model, unpack it into the cache and return its folder.

  The SHA-256 of the archive is recorded at the first download (the publisher
  names none) and must be the same ever after, unless one is given. `url` is in
  place of the published one; `force` downloads an existing model.
  """
  folder = zoo.folder(known)
  if known.url is None:
    reason = known.unavailable or "which is in the package"
    raise errors.InputError("a model to download", f"{known.name}, {reason}")
  url = url or known.url
  before = recorded(known.name)
  expected = before.sha256 if before else None
  if sha256 is not None:
    expected = sha256.strip().lower()
    if len(expected) != 64 or set(expected) - set("0123456789abcdef"):
      raise errors.InputError("a SHA-256, 64 hexadecimal digits", repr(sha256))
  if folder.is_dir() and not force:
    return folder
  path = zoo.cache_folder() / "downloads" / f"{known.name}.tar.gz"
  transfer.fetch(url, path)
  with open(path, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  record = Record(url, path.stat().st_size, digest)
  if expected not in (None, digest):
    aside = path.with_name(f"{path.name}.{digest[:12]}.unexpected")
    os.replace(path, aside)
    source, advice = "given", ""
    if sha256 is None:
      source = "recorded at the first download"
      advice = f"; if it is right, give --sha256 {digest}"
    raise errors.InputError(
      f"SHA-256 {expected} ({source})",
      f"{digest}, {record.size} bytes, from {url} (kept){advice}",
      aside,
    )
  try:
    transfer.unpack(path, folder, required=known.pattern)
  except errors.InputError as error:
    # The file goes, so the address says what it is about.
    raise errors.InputError(error.expected, error.received, url) from None
  finally:
    path.unlink()
  records = _read_records() | {known.name: record}
  fields = {name: dataclasses.asdict(each) for name, each in records.items()}
  text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
  files.write_bytes(zoo.cache_folder() / _RECORDS, text.encode())
  return folder


def recorded(name: str) -> Record | None:
  """Return the record of the last download of a model."""
  return _read_records().get(name)


def _read_records():
  path = zoo.cache_folder() / _RECORDS
  if not path.exists():
    return {}
  try:
    records = json.loads(files.read_bytes(path))
    return {name: Record(**fields) for name, fields in records.items()}
  except (ValueError, TypeError, AttributeError):
    raise errors.InputError(
      "the record of downloads (delete it to begin a new one)",
      "something else",
      path,
    ) from None
