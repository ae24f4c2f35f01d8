"""Fetch files over HTTP, unpack archives, install models in the cache.

Interrupted transfers resume. `requests` would not shorten this and add a
dependency; `pooch` starts again after each broken connection.
"""

import bz2
import contextlib
import dataclasses
import errno
import gzip
import hashlib
import http.client
import json
import lzma
import os
import pathlib
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import uuid
import zlib
from collections.abc import Callable
from typing import Any

from absl import logging

import delf
from delf.base import errors, files, progress
from delf.inference import zoo

_CHUNK = 2**18
_TIMEOUT = 30  # Seconds without a byte.
_ATTEMPTS = 5  # In a row without a single byte.
_WAIT = 1.0  # Seconds before the second attempt, doubled for each later one.
_MAX_BYTES = 2**33  # A bound against endless responses.

# Temporary statuses, as are all of 5xx: timeout, too early, too many requests.
_PASSING = {408, 425, 429}


class _Interrupted(Exception):  # noqa: N818 (never leaves this module)
  """The transfer ended early; another attempt may resume it."""


class _PartialFile:
  """The file `<target>.part`, with a note of its version beside it."""

  def __init__(self, target, url, max_bytes):
    self.url, self.max_bytes, self._target = url, max_bytes, target
    self.path = target.with_name(f"{target.name}.part")
    self._note = target.with_name(f"{target.name}.part.json")

  def size(self):
    return self.path.stat().st_size if self.path.exists() else 0

  def version(self):
    """Return the server's name of the part's version, or ''."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
      note = json.loads(self._note.read_text(encoding="utf-8"))
      return note.get("version", "") if note.get("url") == self.url else ""
    return ""

  def begin(self, version):
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self.path.write_bytes(b"")
    note = json.dumps({"url": self.url, "version": version})
    files.write_bytes(self._note, note.encode())

  def append(self, response, done, total):
    """Append the body of a response; raise _Interrupted if it is incomplete."""
    name = self._target.name
    with (
      open(self.path, "ab") as sink,
      progress.count_bytes(name, total, done) as bar,
    ):
      while True:
        with _network_errors():
          chunk = response.read(_CHUNK)
        if not chunk:
          break
        done += len(chunk)
        if max(done, total or 0) > self.max_bytes:
          problem = f"the file has more than {self.max_bytes} bytes"
          raise errors.InputError(problem, path=self.url)
        sink.write(chunk)
        bar.update(len(chunk))
    if total is not None and done != total:
      raise _Interrupted(f"{done} of {total} bytes received")

  def finish(self):
    os.replace(self.path, self._target)
    self._note.unlink(missing_ok=True)


def fetch(
  url: str,
  path: files.Path,
  *,
  attempts: int = _ATTEMPTS,
  wait: float = _WAIT,
  timeout: float = _TIMEOUT,
  max_bytes: int = _MAX_BYTES,
) -> None:
  """Download a whole file, or leave `<path>.part` for a later call.

  Gives up after `attempts` in a row without a new byte in `timeout` seconds,
  with `wait` seconds before the second, doubled for each later one. Files of
  over `max_bytes` are refused.
  """
  if not re.match(r"https?://[^/]", url):
    raise errors.InputError(f"an address starts with https://, unlike {url!r}")
  part = _PartialFile(pathlib.Path(path), url, max_bytes)
  failures = 0
  while True:
    size_before = part.size()
    try:
      _fetch_rest(url, part, timeout)
      break
    except _Interrupted as error:
      failures = 1 if part.size() > size_before else failures + 1
      if failures >= attempts:
        problem = f"the download stopped after {part.size()} bytes ({error})"
        problem += "; run the same command to resume it"
        raise errors.InputError(problem, path=url) from None
      seconds = wait * 2 ** (failures - 1)
      logging.warning("%s; trying again in %g s", error, seconds)
      time.sleep(seconds)
  part.finish()


def size(url: str, timeout: float = _TIMEOUT) -> int | None:
  """Return the size of a file in bytes, or None if the server does not say."""
  with (
    contextlib.suppress(OSError, ValueError, _Interrupted),
    _request(url, 0, "", timeout, method="HEAD") as response,
  ):
    return _total(response)
  return None


def _fetch_rest(url, part, timeout):
  """Fetch the rest of a part; raise _Interrupted if it ends early."""
  version = part.version()
  # Without the name of its version, the part may belong to another file.
  offset = part.size() if version else 0
  try:
    with _request(url, offset, version, timeout) as response:
      total = _total(response)
      span = response.headers.get("Content-Range", "")
      start = re.match(r"bytes (\d{1,18})-", span)
      if response.status != 206 or not start or int(start[1]) != offset:
        # The whole file: the server has no ranges, or a new version.
        offset = 0
      if offset == 0:
        # `If-Range` forbids weak tags.
        tag = response.headers.get("ETag", "W/") or "W/"
        day = response.headers.get("Last-Modified", "")
        part.begin(day if tag.startswith("W/") else tag)
        if response.status == 206:
          raise _Interrupted("the server sent a range that was not requested")
      part.append(response, offset, total)
  except urllib.error.HTTPError as error:
    if error.code == 416 and offset:
      # The range begins at or after the end of the server's file.
      if error.headers.get("Content-Range", "") == f"bytes */{offset}":
        return
      part.begin("")
      raise _Interrupted("the existing part was too long") from None
    if error.code in _PASSING or error.code >= 500:
      raise _Interrupted(f"HTTP status {error.code}") from None
    problem = f"HTTP status {error.code} ({error.reason})"
    raise errors.InputError(problem, path=error.url) from None


def _request(url, offset, version, timeout, method="GET"):
  headers = {
    "User-Agent": f"delf/{delf.__version__}",
    # Without compression, to which ranges and lengths would refer.
    "Accept-Encoding": "identity",
  }
  if offset:
    headers |= {"Range": f"bytes={offset}-", "If-Range": version}
  request = urllib.request.Request(url, headers=headers, method=method)
  with _network_errors():
    return urllib.request.urlopen(request, timeout=timeout)


@contextlib.contextmanager
def _network_errors():
  try:
    yield
  except urllib.error.HTTPError:
    raise
  except (OSError, http.client.HTTPException) as error:
    raise _Interrupted(f"{type(error).__name__}: {error}") from None


def _total(response):
  """Return the size of the whole file, or None if the server does not say."""
  match = re.search(r"/(\d{1,18})$", response.headers.get("Content-Range", ""))
  if match:
    return int(match.group(1))
  length = response.headers.get("Content-Length", "")
  return int(length) if re.fullmatch(r"\d{1,18}", length) else None


# Far above the largest published archive; bounds against decompression bombs.
MAX_UNPACKED = 8 * 2**30
MAX_MEMBERS = 10_000

# Bytes of a member's headers in memory: a path has up to 4096, fields the rest.
_MAX_HEADER = 2**16
_MAX_DEPTH = 64
_MAX_NAME = 255  # Bytes of a file's name on the usual file systems.

# First bytes of a compressed file, and the function that opens it.
_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {
  b"\x1f\x8b": gzip.open,
  b"BZh": bz2.open,
  b"\xfd7zXZ": lzma.open,
}

# Errors of damaged archives (ValueError for invalid numbers and names).
_READ_ERRORS = (
  tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OverflowError,
  ValueError,
)  # fmt: skip
# `errno` if an archive is damaged, or has a file and a folder of one name.
_ARCHIVE_ERRNOS = (None, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)


def unpack(
  path: files.Path,
  folder: files.Path,
  required: str = "*",
  *,
  max_bytes: int = MAX_UNPACKED,
  max_members: int = MAX_MEMBERS,
) -> None:
  """Unpack a tar archive atomically; raise InputError if it is unsafe.

  Only the names and content of files and folders are used; links, devices,
  absolute paths and `..` are refused.

  Args:
    path: A tar archive, uncompressed or compressed with gzip, bzip2 or xz.
    folder: Folder to create or replace. If the archive is a single folder of
      this name, only its content is unpacked.
    required: Pattern of a file name (`pathlib.Path.rglob`) that must occur.
    max_bytes: Limit of the bytes of content.
  """
  path, folder = pathlib.Path(path), pathlib.Path(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  with files.atomic_folder(folder) as temporary:
    temporary.mkdir()
    _unpack_into(path, temporary, max_bytes, max_members)
    if not any(temporary.rglob(required)):
      _refuse(f"no {required}", path)
    top = temporary / folder.name
    if list(temporary.iterdir()) == [top] and top.is_dir():
      top = top.rename(temporary / uuid.uuid4().hex)
      for entry in list(top.iterdir()):
        entry.rename(temporary / entry.name)
      top.rmdir()


def _unpack_into(path, folder, max_bytes, max_members):
  try:
    with open(path, "rb") as file:
      start = file.read(8)
    openers = [_COMPRESSIONS[m] for m in _COMPRESSIONS if start.startswith(m)]
    with (openers or [open])[0](path, "rb") as content:
      left = _unpack_members(path, content, folder, max_bytes, max_members)
      # Up to the end of the compressed data, which has a checksum.
      while left >= 0 and (chunk := content.read(2**20)):
        left -= len(chunk)
  except errors.InputError:
    raise
  except (*_READ_ERRORS, OSError) as error:
    if isinstance(error, OSError) and error.errno not in _ARCHIVE_ERRNOS:
      raise
    reason = f"cannot be read as a whole tar ({type(error).__name__}: {error})"
    raise errors.InputError(f"the archive {reason}", path=path) from None


def _unpack_members(path, content, folder, max_bytes, max_members):
  """Unpack from an open file; return the number of bytes left to the limit."""
  left, stream = max_bytes, _Limited(content)
  with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
    for count, member in enumerate(archive, start=1):
      if count > max_members:
        _refuse(f"more than {max_members} members", path)
      # The archive lacks a part of the bytes of a sparse file.
      if member.issparse() or member.size < 0:
        _refuse(f"a sparse file, {member.name!r}", path)
      left -= member.size
      if left < 0:
        _refuse(f"more than {max_bytes} bytes of content", path)
      stream.allow(member.size)
      _take(archive, member, folder, path)
      stream.allow(_MAX_HEADER)
  return left


class _Limited:
  """A file that limits the headers, which tarfile reads into memory."""

  def __init__(self, file):
    self._file = file
    self._left = _MAX_HEADER
    self.seek, self.tell = file.seek, file.tell

  def allow(self, size):
    self._left = size

  def read(self, size):
    if not 0 <= size <= self._left:
      raise tarfile.ReadError("a header that is too long")
    self._left -= size
    return self._file.read(size)


def _take(archive, member, folder, path):
  target = _target(member, folder, path)
  if member.isdir():
    target.mkdir(parents=True, exist_ok=True)
    return
  target.parent.mkdir(parents=True, exist_ok=True)
  # Without modes, owners and times, as tarfile does not extract it.
  with archive.extractfile(member) as source, open(target, "wb") as sink:
    shutil.copyfileobj(source, sink, 2**20)


def _target(member, folder, path):
  if not (member.isfile() or member.isdir()):
    _refuse(f"a link or device, {member.name!r}", path)
  parts = member.name.replace("\\", "/").split("/")
  if parts[0] == "" or ".." in parts or any(":" in part for part in parts):
    _refuse(f"a name that leads out of it, {member.name!r}", path)
  longest = max(len(os.fsencode(part)) for part in parts)
  if len(parts) > _MAX_DEPTH or longest > _MAX_NAME:
    _refuse(f"a name that is too long, {member.name[:80]!r}...", path)
  # Python's own rules, which it has from 3.10.12 and 3.11.4 on.
  if hasattr(tarfile, "data_filter"):
    tarfile.data_filter(member, str(folder))
  return folder.joinpath(*parts)


def _refuse(content, path):
  raise errors.InputError(f"the archive has {content}", path=path)


_RECORDS = "downloads.json"


@dataclasses.dataclass(frozen=True)
class Record:
  """Record of a download, with which later ones are compared."""

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

  The archive must have the given `sha256`, or that of the first download, which
  is recorded since the publisher names none. `url` replaces the published one;
  `force` downloads an existing model again.
  """
  folder = zoo.folder(known)
  if known.url is None:
    reason = known.unavailable or "it is in the package"
    raise errors.InputError(f"{known.name} is not to be downloaded: {reason}")
  url = url or known.url
  before = recorded(known.name)
  required = before.sha256 if before else None
  if sha256 is not None:
    required = sha256.strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", required):
      digits = "a SHA-256 has 64 hexadecimal digits"
      raise errors.InputError(f"{digits}, unlike {sha256!r}")
  if folder.is_dir() and not force:
    return folder
  path = zoo.cache_folder() / "downloads" / f"{known.name}.tar.gz"
  fetch(url, path)
  with open(path, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  record = Record(url, path.stat().st_size, digest)
  if required not in (None, digest):
    aside = path.with_name(f"{path.name}.{digest[:12]}.unexpected")
    os.replace(path, aside)
    source, advice = "given", ""
    if sha256 is None:
      source = "recorded at the first download"
      advice = f"; if it is right, use --sha256 {digest}"
    actual = f"this file of {record.size} bytes from {url} has {digest}"
    problem = f"SHA-256 {required} was {source}, but {actual}{advice}"
    raise errors.InputError(problem, path=aside)
  try:
    unpack(path, folder, required=known.pattern)
  except errors.InputError as error:
    # With the address, as the file is removed.
    raise errors.InputError(error.message, path=url) from None
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
    problem = "not a record of downloads: delete it to begin a new one"
    raise errors.InputError(problem, path=path) from None
