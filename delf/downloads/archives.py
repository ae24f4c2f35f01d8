"""Unpacking of downloaded archives without trusting them."""

import bz2
import errno
import gzip
import lzma
import os
import pathlib
import shutil
import tarfile
import uuid
import zlib

from delf.base import errors, files

# Far above the largest published archive; a bound against archives that grow.
MAX_BYTES = 8 * 2**30
MAX_MEMBERS = 10_000

# Bytes of headers per member, which tarfile holds in memory. A path is at most
# 4096 bytes; the rest is for whatever else a header says.
_MAX_HEADER = 2**16
_MAX_DEPTH = 64
_MAX_NAME = 255  # Bytes of a file's name on the usual file systems.

# First bytes -> how to read on.
_COMPRESSIONS = {
  b"\x1f\x8b": gzip.open,
  b"BZh": bz2.open,
  b"\xfd7zXZ": lzma.open,
}

# What damage leads to; tarfile lets numbers and names that are none through as
# ValueError.
_READ_ERRORS = (
  tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OverflowError,
  ValueError,
)  # fmt: skip
# Those of an OSError that are the archive's: damage (of gzip and bzip2), and a
# file where it has a folder as well.
_ARCHIVE_ERRNOS = (None, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)


def unpack(
  path: files.Path,
  folder: files.Path,
  required: str = "*",
  *,
  max_bytes: int = MAX_BYTES,
  max_members: int = MAX_MEMBERS,
) -> None:
  """Unpack a tar archive, whole or not at all; InputError if it is unsafe.

  Only names and content of files and folders are taken; links, devices,
  absolute paths and `..` are refused.

  Args:
    path: A tar archive, compressed with gzip, bzip2, xz or not.
    folder: Folder to create or replace. Of an archive of a single folder of
      that name it gets the content.
    required: Pattern of a file name (`pathlib.Path.rglob`) that must be in it.
    max_bytes: Most bytes of content.
    max_members: Most members.
  """
  path, folder = pathlib.Path(path), pathlib.Path(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
  temporary.mkdir()
  try:
    _unpack_into(path, temporary, max_bytes, max_members)
    if not any(temporary.rglob(required)):
      _refuse(f"an archive with {required} in it", "one without", path)
    entries = list(temporary.iterdir())
    only_name = [entry.name for entry in entries] == [folder.name]
    is_top = only_name and entries[0].is_dir()
    _replace(entries[0] if is_top else temporary, folder)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _unpack_into(path, folder, max_bytes, max_members):
  try:
    with _open(path) as content:
      left = _unpack_members(path, content, folder, max_bytes, max_members)
      # To the end of the compressed data, where its checksum is.
      while left >= 0 and (chunk := content.read(2**20)):
        left -= len(chunk)
  except errors.InputError:
    raise
  except (*_READ_ERRORS, OSError) as error:
    if isinstance(error, OSError) and error.errno not in _ARCHIVE_ERRNOS:
      raise
    received = f"one that cannot be read ({type(error).__name__}: {error})"
    _refuse("a tar archive that is whole", received, path)


def _unpack_members(path, content, folder, max_bytes, max_members):
  """Unpack from an open file; return how many bytes more it could hold."""
  left, stream = max_bytes, _Limited(content)
  with tarfile.open(fileobj=stream, mode="r:") as archive:
    for count, member in enumerate(archive, start=1):
      if count > max_members:
        _refuse(f"at most {max_members} members", "more", path)
      # Those of a sparse file are not all in the archive.
      if member.issparse() or member.size < 0:
        _refuse("whole files", f"a sparse one, {member.name!r}", path)
      left -= member.size
      if left < 0:
        _refuse(f"at most {max_bytes} bytes of content", "more", path)
      stream.allow(member.size)
      _take(archive, member, folder, path)
      stream.allow(_MAX_HEADER)
  return left


def _open(path):
  """Open a file for reading, through the compression that it begins with."""
  with open(path, "rb") as file:
    start = file.read(8)
  for magic, opener in _COMPRESSIONS.items():
    if start.startswith(magic):
      return opener(path)
  return open(path, "rb")


class _Limited:
  """A file that limits the headers which tarfile reads whole into memory."""

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
  """Write one member below `folder`, after checking it."""
  target = _target(member, folder, path)
  if member.isdir():
    target.mkdir(parents=True, exist_ok=True)
    return
  target.parent.mkdir(parents=True, exist_ok=True)
  # Modes, owners and times are not taken over: tarfile extracts nothing itself.
  with archive.extractfile(member) as source, open(target, "wb") as sink:
    shutil.copyfileobj(source, sink, 2**20)


def _target(member, folder, path):
  """Return the path of a member, having checked its kind and name."""
  if not (member.isfile() or member.isdir()):
    _refuse("files and folders", f"a link or device, {member.name!r}", path)
  parts = member.name.replace("\\", "/").split("/")
  if parts[0] == "" or ".." in parts or any(":" in part for part in parts):
    _refuse("names inside the archive", repr(member.name), path)
  longest = max(len(os.fsencode(part)) for part in parts)
  if len(parts) > _MAX_DEPTH or longest > _MAX_NAME:
    _refuse("names of usual length", f"{member.name[:80]!r}...", path)
  # Python's own rules as well, where this Python has them (3.10.12, 3.11.4).
  if hasattr(tarfile, "data_filter"):
    tarfile.data_filter(member, str(folder))
  return folder.joinpath(*parts)


def _replace(new, folder):
  """Rename a folder to its final name, in place of an older one."""
  old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
  if folder.exists():
    folder.rename(old)
  try:
    new.rename(folder)
  except OSError:
    if old.exists():
      old.rename(folder)
    raise
  shutil.rmtree(old, ignore_errors=True)


def _refuse(expected, received, path):
  raise errors.InputError(expected, received, path) from None
