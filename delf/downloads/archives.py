"""Unpacks a downloaded archive without trusting it."""

import bz2
import dataclasses
import errno
import gzip
import hashlib
import lzma
import os
import pathlib
import re
import shutil
import tarfile
import uuid
import zlib

from delf.base import errors, files
from delf.downloads import published
from delf.formats import untrusted
from delf.records import tuples

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
  tarfile.TarError,
  lzma.LZMAError,
  zlib.error,
  EOFError,
  OverflowError,
  ValueError,
)
# Those of an OSError that are the archive's: damage (of gzip and bzip2), and a
# file where it has a folder as well.
_ARCHIVE_ERRNOS = (None, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)


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
    words = f"one that cannot be read ({type(error).__name__}: {error})"
    _refuse("a tar archive that is whole", words, path)


def _unpack_members(path, content, folder, max_bytes, max_members):
  """Unpacks from an open file; returns how many bytes more it could hold."""
  left, stream = max_bytes, _Limited(content)
  with tarfile.open(fileobj=stream, mode="r:") as archive:
    for count, member in enumerate(archive, start=1):
      if count > max_members:
        _refuse(f"at most {max_members} members", "more", path)
      left -= _size(member, path)
      if left < 0:
        _refuse(f"at most {max_bytes} bytes of content", "more", path)
      stream.allow(member.size)
      _take(archive, member, folder, path)
      stream.allow(_MAX_HEADER)
  return left


def _open(path):
  """Opens a file for reading, through the compression that it begins with."""
  with open(path, "rb") as file:
    start = file.read(8)
  for magic, opener in _COMPRESSIONS.items():
    if start.startswith(magic):
      return opener(path)
  return open(path, "rb")


class _Limited:
  """A file for tarfile that gives no more bytes than were allowed.

  tarfile reads headers of any length, whole and into memory.
  """

  def __init__(self, file):
    """Wraps a file, with the bytes of a header allowed."""
    self._file = file
    self._left = _MAX_HEADER
    self.seek, self.tell = file.seek, file.tell

  def allow(self, size):
    """Allows so many bytes, from here on."""
    self._left = size

  def read(self, size):
    """Reads; an archive that asks for more than was allowed is refused."""
    if not 0 <= size <= self._left:
      raise tarfile.ReadError("a header that is too long")
    self._left -= size
    return self._file.read(size)


def _size(member, path):
  """Returns a member's bytes; those of a sparse file are not all there."""
  if member.issparse() or member.size < 0:
    _refuse("whole files", f"a sparse one, {member.name!r}", path)
  return member.size


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
  longest = max(len(os.fsencode(part)) for part in parts)
  if len(parts) > _MAX_DEPTH or longest > _MAX_NAME:
    _refuse("names of usual length", f"{member.name[:80]!r}...", path)
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


_IMAGE = ".jpg"

# Far above the largest published archive, which has about 100 000 images, most
# of them in a folder of their own.
_MAX_MEMBERS = 1_000_000
_MAX_BYTES = 64 * 2**30

# Ids of images of Google Landmarks v2.
_ID = re.compile(rb"\b[0-9a-f]{16}\b")


@dataclasses.dataclass(frozen=True)
class ImageIds:
  """Ids of the images to keep.

  Attributes:
    ids: Set of int: the ids are hexadecimal.
    digest: SHA-256 of them, to compare subsets by.
  """

  ids: frozenset
  digest: str

  def __contains__(self, stem):
    """Returns whether an image is wanted, by its name without extension."""
    return bool(_ID.fullmatch(os.fsencode(stem))) and int(stem, 16) in self.ids


def read_ids(path):
  """Reads which images are wanted.

  Args:
    path: Path of a text file with ids of Google Landmarks v2 anywhere in it:
      a list, `train_clean.csv`, or another CSV.

  Returns:
    ImageIds.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If no id is in it.
  """
  ids = set()
  with open(path, "rb") as file:
    for line in file:
      ids.update(int(found, 16) for found in _ID.findall(line))
  if not ids:
    raise errors.InputError(
      "ids of images, 16 hexadecimal digits", "none", path
    )
  text = ",".join(f"{each:x}" for each in sorted(ids))
  return ImageIds(frozenset(ids), hashlib.sha256(text.encode()).hexdigest())


def install(path, file, out, work, only=None):
  """Puts one file in its place.

  Args:
    path: Path of the file.
    file: downloads.RemoteFile that it is.
    out: Folder of the data set.
    work: Folder for what is on its way, on the same disk as `out`.
    only: ImageIds of the images to keep, or None for all.

  Returns:
    Number of images that were unpacked.

  Raises:
    InputError: If it is not what it should be. Nothing is changed then.
  """
  target = pathlib.Path(out, file.target)
  if file.kind == published.ARCHIVE:
    return _install_images(path, target, file, work, only)
  _CHECKS[file.kind](path)
  with files.atomic_path(target) as temporary:
    shutil.copyfile(path, temporary)
  return 0


def _install_images(path, target, file, work, only):
  """Unpacks apart, so that a bad archive leaves nothing; then moves."""
  unpacked = pathlib.Path(work, f"{path.name}.unpacked")
  for left in pathlib.Path(work).glob(f".{unpacked.name}.*"):
    shutil.rmtree(left, ignore_errors=True)  # Of a run that was killed.
  unpack(
    path,
    unpacked,
    required=_pattern(file),
    max_bytes=_MAX_BYTES,
    max_members=_MAX_MEMBERS,
  )
  try:
    moves = _plan(unpacked, target, file, only)
    for folder in {goal.parent for goal in moves}:
      folder.mkdir(parents=True, exist_ok=True)
    for goal, source in moves.items():
      os.replace(source, goal)
    target.mkdir(parents=True, exist_ok=True)
  finally:
    shutil.rmtree(unpacked, ignore_errors=True)
  return len(moves)


def _plan(unpacked, target, file, only):
  """Returns {where to: from where} of the images that are wanted."""
  moves = {}
  for source in sorted(unpacked.rglob(_pattern(file))):
    if not source.is_file() or (only is not None and source.stem not in only):
      continue
    inside = source.name if file.flatten else source.relative_to(unpacked)
    if file.by_id:
      inside = tuples.image_path(source.name, "")
    if moves.setdefault(target / inside, source) != source:
      raise errors.InputError(
        "images of different names", f"two of {source.name}", unpacked.stem
      )
  return moves


def _pattern(file):
  """Returns what images in an archive are called; ids have no ending."""
  return "*" if file.by_id else f"*{_IMAGE}"


def _check_pairs(path):
  """Raises InputError if pairs cannot be read, by mode or without."""
  content = untrusted.read_plain_pickle(path)
  modes = [
    m for m in ("train", "val") if isinstance(content, dict) and m in content
  ]
  for mode in modes or [None]:
    tuples.read_pairs(path, mode)


def _check_truth(path):
  """Raises InputError if ground truth cannot be read."""
  from delf.python.datasets.revisited_op import dataset

  dataset.ReadDatasetFile(os.fspath(path))


def _check_text(path):
  """Raises InputError for what is no text, or a page in place of the file."""
  with open(path, "rb") as file:
    start = file.read(2**12)
  if not start.strip() or b"\0" in start or start.lstrip().startswith(b"<"):
    raise errors.InputError("text", "something else", path)


_CHECKS = {
  published.GROUND_TRUTH: _check_truth,
  published.PAIRS: _check_pairs,
  published.TEXT: _check_text,
}
