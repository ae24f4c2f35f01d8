"""Reading and writing files, so that a file under its final name is whole."""

import contextlib
import csv
import glob
import io
import os
import pathlib
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from delf.base import errors

Path = str | os.PathLike

# File name extensions by what the files hold.
DELF = ".delf"
DELG_LOCAL = ".delg_local"
DELG_GLOBAL = ".delg_global"
DATUM = ".datum"
BOXES = ".boxes"
IMAGES = (
  ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
  ".pgm",
)  # fmt: skip

# Bytes of a name that its temporary file takes over: of the 255 that a name may
# have, 34 are the temporary's own, and an extension needs some.
_STEM_BYTES = 180
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}(\.[a-z_]+)?")

# POSIX locks the folder itself, so that no lock file is left in it, and also
# where nothing can be written. Windows locks files alone.
_LOCKS_FOLDERS = os.name == "posix"

# Characters of a row: some landmarks have ten thousand images, of 17 each.
_MAX_ROW = 2**24


def is_remote(path: Path) -> bool:
  """Return whether a path is of an object store (`gs://...`)."""
  return "://" in os.fspath(path)


def is_image(name: str) -> bool:
  """Return whether a file is named like an image, and is not hidden."""
  return name.lower().endswith(IMAGES) and not name.startswith(".")


@contextlib.contextmanager
def _remote(path):
  """Give tf.io.gfile, with its errors about `path` turned into ours."""
  import tensorflow as tf

  try:
    yield tf.io.gfile
  except tf.errors.NotFoundError:
    raise FileNotFoundError(f"{path}: expected a file, found none") from None
  except tf.errors.OpError as error:
    reason = " ".join(error.message.split()) or type(error).__name__
    raise errors.InputError(
      "a local file, or one that TensorFlow can reach (gs://)", reason, path
    ) from None


def _open_local(path, mode, **options):
  try:
    return open(path, mode, **options)
  except FileNotFoundError:
    raise FileNotFoundError(f"{path}: expected a file, found none") from None
  except IsADirectoryError:
    raise errors.InputError("a file", "a folder", path) from None


def read_bytes(path: Path, limit: int | None = None) -> bytes:
  """Read a local or remote (`gs://...`) file of at most `limit` bytes."""
  number = -1 if limit is None else limit + 1
  if is_remote(path):
    with _remote(path) as gfile:
      data = gfile.GFile(os.fspath(path), "rb").read(number)
  else:
    with _open_local(path, "rb") as file:
      data = file.read(number)
  if limit is not None and len(data) > limit:
    raise errors.InputError(f"at most {limit} bytes", "more", path)
  return data


def read_lines(path: Path) -> list[str]:
  """Read the lines of a UTF-8 text file, stripped, without the empty ones."""
  try:
    text = read_bytes(path).decode("utf-8-sig")
  except UnicodeDecodeError:
    raise errors.InputError("a UTF-8 text file", "binary data", path) from None
  return [line.strip() for line in text.splitlines() if line.strip()]


def read_csv(
  path: Path, header: bool = False, strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
  """Yield line number and columns of each non-empty row of a UTF-8 CSV file.

  `header` yields the first line too; `strict` refuses unclosed quotes and the
  like; rows of over 16 million characters are an InputError.
  """
  size = 0

  def lines(file):
    nonlocal size
    while line := file.readline(_MAX_ROW + 1):
      size += len(line)
      if size > _MAX_ROW:
        raise csv.Error(f"a row of over {_MAX_ROW} characters")
      yield line

  before = csv.field_size_limit(_MAX_ROW)
  try:
    if is_remote(path):
      file = io.StringIO(read_bytes(path).decode("utf-8-sig"), newline="")
    else:
      file = _open_local(path, "r", encoding="utf-8-sig", newline="")
    with file:
      reader = csv.reader(lines(file), strict=strict)
      first = next(reader, [])
      if header:
        yield 1, first
      size = 0
      for row in reader:
        size = 0
        if row:
          yield reader.line_num, row
  except UnicodeDecodeError:
    raise errors.InputError("a UTF-8 text file", "binary data", path) from None
  except csv.Error as error:
    raise errors.InputError("a CSV file", str(error), path) from None
  finally:
    csv.field_size_limit(before)


def find_images(source: Path) -> list[str]:
  """Find the images that a user means, sorted; InputError if there are none.

  A source is a folder, searched recursively; a pattern such as `photos/*.jpg`
  (`**` for all folders); a `.txt` file with one path a line, relative to the
  working directory or else to the list, of files that need not exist; or one
  image.
  """
  source = os.fspath(source)
  if os.path.isdir(source):
    expected = f"images ({', '.join(IMAGES)})"
    paths = [
      os.path.join(folder, name)
      for folder, _, names in os.walk(source)
      for name in filter(is_image, names)
    ]
  elif not os.path.exists(source) and glob.has_magic(source):
    expected = "a file"
    matches = glob.glob(source, recursive=True)
    paths = [path for path in matches if os.path.isfile(path)]
  elif source.lower().endswith(".txt"):
    expected = "paths, one a line"
    paths = []
    for name in read_lines(source):
      beside = os.path.join(os.path.dirname(source), name)
      use_list = not os.path.exists(name) and os.path.exists(beside)
      paths.append(beside if use_list else name)
  elif is_remote(source) or os.path.exists(source):
    return [source]
  else:
    raise FileNotFoundError(
      f"{source}: expected an image, a folder, a pattern or a list, found none"
    )
  if not paths:
    raise errors.InputError(expected, "none", source)
  return sorted(paths)


def write_bytes(path: Path, *data: bytes) -> None:
  """Write a local or remote file, and its folders, whole or not at all."""
  if is_remote(path):
    with _remote(path) as gfile:
      folder = os.path.dirname(os.fspath(path))
      if is_remote(folder):
        gfile.makedirs(folder)
      with gfile.GFile(os.fspath(path), "wb") as file:
        file.write(b"".join(data))
    return
  with atomic_path(path) as temporary, open(temporary, "wb") as file:
    file.writelines(data)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[pathlib.Path]:
  """Give a new path beside a local `path` that is renamed to it on success.

  Missing folders are created. The target of a link is written; an existing file
  keeps its mode, and a device or pipe is an InputError. OSErrors name `path`.
  """
  target = pathlib.Path(os.path.realpath(path))
  if target.exists() and not (target.is_file() or target.is_dir()):
    raise errors.InputError("a file or a new name", "a device or pipe", path)
  target.parent.mkdir(parents=True, exist_ok=True)
  stem, suffix = os.path.splitext(os.path.basename(path))
  temporary = target.with_name(f".{_short(stem)}.{uuid.uuid4().hex}{suffix}")
  try:
    yield temporary
    if target.exists():
      temporary.chmod(stat.S_IMODE(target.stat().st_mode))
    os.replace(temporary, target)
  except OSError as error:
    # Where the disk is full it names no file, else the temporary one.
    named = str(error.filename or temporary)
    if error.errno is None or named != str(temporary):
      raise
    raise OSError(error.errno, error.strerror, os.fspath(path)) from error
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(
  path: pathlib.Path, check: Callable[[], object] = lambda: None
) -> Iterator[pathlib.Path]:
  """Give a new path beside a local folder that replaces it on success.

  `check` is called just before; if it raises, the existing folder stays.
  """
  temporary, previous = (
    path.with_name(f".{path.name}.{uuid.uuid4().hex}") for _ in range(2)
  )
  try:
    yield temporary
    check()
    if path.exists():
      os.replace(path, previous)
    os.replace(temporary, path)
  except OSError as error:
    if error.errno is None or error.filename != str(temporary):
      raise
    raise OSError(error.errno, error.strerror, str(path)) from None
  finally:
    if previous.exists() and not path.exists():
      os.replace(previous, path)
    for folder in (temporary, previous):
      shutil.rmtree(folder, ignore_errors=True)


def _short(stem):
  return os.fsencode(stem)[:_STEM_BYTES].decode(errors="ignore")


def find_leftovers(folder: Path, stems: Iterable[str]) -> list[pathlib.Path]:
  """Find temporary files of `atomic_path` that a killed program left.

  `stems` are the names, without extension, of the intended files.
  """
  short = {_short(stem) for stem in stems}
  paths = pathlib.Path(folder).glob(".*")
  matches = [(path, _TEMPORARY.fullmatch(path.name)) for path in paths]
  return [path for path, match in matches if match and match[1] in short]


def remove_leftovers(
  folder: pathlib.Path, jobs: Iterable, record: str, ending: str = ""
) -> None:
  """Remove temporary files that a killed run left for the same images.

  The files of a job have the path `name` and, after it, an extension or an
  `ending` such as `_viz.jpg`; `record` is the file name of the run's record.
  """
  stems = {"": {pathlib.Path(record).stem}}
  more = ending.rpartition(".")[0]
  for job in jobs:
    parent, stem = os.path.split(f"{job.name}{more}")
    stems.setdefault(parent, set()).add(stem)
  for parent, group in stems.items():
    for path in find_leftovers(folder / parent, group):
      path.unlink(missing_ok=True)


def open_to_append(path: Path) -> IO[bytes]:
  """Open a file to append lines, completing a last one that was cut."""
  file = open(path, "ab+")  # noqa: SIM115 (the caller closes it)
  if file.tell():
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
      file.write(b"\n")
  return file


@contextlib.contextmanager
def lock_folder(folder: Path, wait: bool = False) -> Iterator[None]:
  """Hold an advisory lock on an existing local folder.

  The system frees it when the process ends, however it ends; a file system
  without locks locks nothing. Waits for another run, or raises InputError.
  """
  busy = errors.InputError(
    "a folder that no other run is changing",
    "one that is being changed",
    folder,
  )
  if not _LOCKS_FOLDERS:
    import filelock

    lock = filelock.FileLock(os.path.join(folder, ".lock"), blocking=wait)
    try:
      with lock:
        yield
    except filelock.Timeout:
      raise busy from None
    return
  import fcntl

  handle = os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # A file system without locks.
      try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
      except BlockingIOError:
        raise busy from None
    yield
  finally:
    os.close(handle)


def check_inside(name: str) -> None:
  """Raise InputError if a relative path leads out of its folder."""
  parts = os.path.normpath(name).split(os.sep)
  if os.path.isabs(name) or parts[0] in ("..", ".") or "\0" in name:
    raise errors.InputError("output names below the output folder", repr(name))


def local_folder(folder: Path) -> pathlib.Path:
  """Return a folder to write to; raise InputError if it is remote or a file."""
  if is_remote(folder):
    raise errors.InputError("a local folder", "a remote one", folder)
  path = pathlib.Path(folder)
  if path.exists() and not path.is_dir():
    raise errors.InputError("a folder to write to", "a file", folder)
  return path


def make_writable_folder(folder: pathlib.Path) -> None:
  """Make a folder; raise OSError if no file can be written in it."""
  folder.mkdir(parents=True, exist_ok=True)
  try:
    with tempfile.TemporaryFile(dir=folder) as probe:
      probe.write(b"probe")
  except OSError as error:
    raise OSError(error.errno, error.strerror, os.fspath(folder)) from error
