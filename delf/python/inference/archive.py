"""Unpacks a downloaded archive without trusting it."""

import contextlib
import gzip
import lzma
import pathlib
import shutil
import tarfile
import uuid
import zlib

from delf.python import errors

# Far above the largest published archive; a bound against archives that grow.
MAX_BYTES = 8 * 2**30
MAX_MEMBERS = 10_000

_READ_ERRORS = (
  tarfile.TarError,
  gzip.BadGzipFile,
  lzma.LZMAError,
  zlib.error,
  EOFError,
)


def unpack(
  path,
  folder,
  required="*",
  *,
  max_bytes=MAX_BYTES,
  max_members=MAX_MEMBERS,
):
  """Unpacks a tar archive, whole or not at all.

  Only files and folders are taken, of them only names and content: a link, a
  device, an absolute path or one with `..` is an error, as is too much of it.

  Args:
    path: Path of a tar archive, compressed with gzip, bzip2, xz or not.
    folder: Path of the folder to make. If the archive holds a single folder of
      that name, its content becomes the folder's; else all it holds does. A
      folder that is there already is replaced.
    required: Pattern of a file name (`pathlib.Path.rglob`) that must be in it.
    max_bytes: Most bytes of content that are accepted.
    max_members: Most members that are accepted.

  Raises:
    InputError: If it is not such an archive.
  """
  path, folder = pathlib.Path(path), pathlib.Path(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
  temporary.mkdir()
  try:
    _unpack_into(path, temporary, max_bytes, max_members)
    if not any(temporary.rglob(required)):
      _refuse(f"an archive with {required} in it", "one without", path)
    _replace(_content(temporary, folder.name), folder)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _unpack_into(path, folder, max_bytes, max_members):
  left = max_bytes
  try:
    with contextlib.closing(tarfile.open(path)) as archive:
      for count, member in enumerate(archive, start=1):
        if count > max_members:
          _refuse(f"at most {max_members} members", "more", path)
        left -= member.size
        if left < 0:
          _refuse(f"at most {max_bytes} bytes of content", "more", path)
        _take(archive, member, folder, path)
      # To the end of the compressed data, where its checksum is.
      while archive.fileobj.read(2**20):
        pass
  except _READ_ERRORS as error:
    # The first line only: of a file that is no archive, a line per compression.
    reason = str(error).partition("\n")[0].rstrip(":")
    words = f"one that cannot be read ({type(error).__name__}: {reason})"
    _refuse("a tar archive that is whole", words, path)


def _take(archive, member, folder, path):
  """Writes one member below `folder`, after checking it."""
  target = _target(member, folder, path)
  if member.isdir():
    target.mkdir(parents=True, exist_ok=True)
    return
  target.parent.mkdir(parents=True, exist_ok=True)
  # Modes, owners and times are not taken over: tarfile extracts nothing itself.
  with archive.extractfile(member) as source, open(target, "wb") as sink:
    shutil.copyfileobj(source, sink, 2**20)


def _target(member, folder, path):
  """Returns where a member goes, having checked its kind and name."""
  if not (member.isfile() or member.isdir()):
    _refuse("files and folders", f"a link or device, {member.name!r}", path)
  parts = member.name.replace("\\", "/").split("/")
  if parts[0] == "" or ".." in parts or any(":" in part for part in parts):
    _refuse("names inside the archive", repr(member.name), path)
  # Python's own rules as well, where this Python has them (3.10.12, 3.11.4).
  if hasattr(tarfile, "data_filter"):
    tarfile.data_filter(member, str(folder))
  return folder.joinpath(*parts)


def _content(temporary, name):
  """Returns the unpacked folder, less a single top folder of that name."""
  entries = list(temporary.iterdir())
  if [entry.name for entry in entries] == [name] and entries[0].is_dir():
    return entries[0]
  return temporary


def _replace(new, folder):
  """Renames a folder to its final name, in place of an older one."""
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
