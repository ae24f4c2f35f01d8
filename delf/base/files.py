"""Reading files, and writing them so that a final name means a whole file."""

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

# File name extensions.
DELF = ".delf"
DELG_LOCAL = ".delg_local"
DELG_GLOBAL = ".delg_global"
DATUM = ".datum"
BOXES = ".boxes"
IMAGES = (
  ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
  ".pgm",
)  # fmt: skip

# Bytes of a name that its temporary file keeps, which adds 34; at most are 255.
_STEM_BYTES = 180
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}(\.[a-z_]+)?")

# POSIX locks the folder itself, even a read-only one, without a file in it.
# Windows locks only files.
_LOCKS_FOLDERS = os.name == "posix"

# Characters of a row: some landmarks have ten thousand images, 17 for each.
_MAX_ROW = 2**24


def is_remote(path: Path) -> bool:
  """Return whether a path is an address of an object store (`gs://...`)."""
  return "://" in os.fspath(path)


def is_image(name: str) -> bool:
  """Return whether a file name is that of an image and not hidden."""
  return name.lower().endswith(IMAGES) and not name.startswith(".")


@contextlib.contextmanager
def _remote(path):
  """Yield tf.io.gfile; turn its errors into FileNotFoundError or InputError."""
  import tensorflow as tf

  try:
    yield tf.io.gfile
  except tf.errors.NotFoundError:
    raise FileNotFoundError(f"{path}: no such file") from None
  except tf.errors.OpError as error:
    reason = " ".join(error.message.split()) or type(error).__name__
    problem = "TensorFlow, which opens gs:// addresses, cannot open it"
    raise errors.InputError(f"{problem}: {reason}", path=path) from None


def _open_local(path, mode, **options):
  try:
    return open(path, mode, **options)
  except FileNotFoundError:
    raise FileNotFoundError(f"{path}: no such file") from None
  except IsADirectoryError:
    raise errors.InputError("a folder, not a file", path=path) from None


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
    raise errors.InputError(f"the file has more than {limit} bytes", path=path)
  return data


def read_lines(path: Path) -> list[str]:
  """Read the lines of a UTF-8 text file, stripped, without the empty ones."""
  try:
    text = read_bytes(path).decode("utf-8-sig")
  except UnicodeDecodeError:
    raise errors.InputError("binary data, not UTF-8 text", path=path) from None
  return [line.strip() for line in text.splitlines() if line.strip()]


def read_csv(
  path: Path, header: bool = False, strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
  """Yield line number and columns of each non-empty row of a UTF-8 CSV file.

  With `header` the first line is yielded too; `strict` refuses bad quotes.
  Raises InputError if a row has over 16 million characters.
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
    raise errors.InputError("binary data, not UTF-8 text", path=path) from None
  except csv.Error as error:
    raise errors.InputError(f"not a CSV file: {error}", path=path) from None
  finally:
    csv.field_size_limit(before)


def find_images(source: Path) -> list[str]:
  """Return the sorted paths of a folder, pattern, list or single image.

  A folder is searched recursively; in a pattern, `**` stands for all folders. A
  list is a `.txt` file with one path a line, relative to the working directory
  or else to the list; its files need not exist. No images are an InputError.
  """
  source = os.fspath(source)
  if os.path.isdir(source):
    problem = f"the folder has no images ({', '.join(IMAGES)})"
    paths = [
      os.path.join(folder, name)
      for folder, _, names in os.walk(source)
      for name in filter(is_image, names)
    ]
  elif not os.path.exists(source) and glob.has_magic(source):
    problem = "no file matches the pattern"
    matches = glob.glob(source, recursive=True)
    paths = [path for path in matches if os.path.isfile(path)]
  elif source.lower().endswith(".txt"):
    problem = "the list has no paths, one a line"
    paths = []
    for name in read_lines(source):
      beside = os.path.join(os.path.dirname(source), name)
      use_list = not os.path.exists(name) and os.path.exists(beside)
      paths.append(beside if use_list else name)
  elif is_remote(source) or os.path.exists(source):
    return [source]
  else:
    raise FileNotFoundError(f"{source}: no such image, folder or image list")
  if not paths:
    raise errors.InputError(problem, path=source)
  return sorted(paths)


def write_bytes(path: Path, *data: bytes | memoryview) -> None:
  """Write a local or remote file atomically, creating its folders."""
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
  """Yield a temporary path that is renamed to a local `path` on success.

  Missing folders are created, links are followed, and an existing file keeps
  its mode. Raises InputError for a device or pipe; OSErrors name `path`.
  """
  target = pathlib.Path(os.path.realpath(path))
  if target.exists() and not (target.is_file() or target.is_dir()):
    raise errors.InputError("a device or pipe, not a file", path=path)
  target.parent.mkdir(parents=True, exist_ok=True)
  stem, suffix = os.path.splitext(os.path.basename(path))
  temporary = target.with_name(f".{_short(stem)}.{uuid.uuid4().hex}{suffix}")
  try:
    yield temporary
    if target.exists():
      temporary.chmod(stat.S_IMODE(target.stat().st_mode))
    os.replace(temporary, target)
  except OSError as error:
    # The error of a full disk names no file, others the temporary one.
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
  """Yield a path that replaces a local folder on success, after `check`."""
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
  """Find temporary files of a killed program, by stems of the final names."""
  short = {_short(stem) for stem in stems}
  paths = pathlib.Path(folder).glob(".*")
  matches = [(path, _TEMPORARY.fullmatch(path.name)) for path in paths]
  return [path for path, match in matches if match and match[1] in short]


def remove_leftovers(
  folder: pathlib.Path, jobs: Iterable, record: str, ending: str = ""
) -> None:
  """Remove temporary files that a killed run left for the images of jobs.

  A job's files are its `name` with an extension or an `ending` (`_viz.jpg`).
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
  """Open a file to append lines, completing a truncated last line."""
  file = open(path, "ab+")  # noqa: SIM115 (the caller closes it)
  if file.tell():
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
      file.write(b"\n")
  return file


@contextlib.contextmanager
def lock_folder(folder: Path, wait: bool = False) -> Iterator[None]:
  """Hold an advisory lock on an existing local folder.

  If another run holds it, waits or raises InputError. The system frees it when
  the process ends, even if killed. File systems without locks ignore it.
  """
  problem = "another run is changing this folder: wait until it ends"
  busy = errors.InputError(problem, path=folder)
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
    raise errors.InputError(f"{name!r} is not below the output folder")


def local_folder(folder: Path) -> pathlib.Path:
  """Return a folder to write to; raise InputError if it is remote or a file."""
  if is_remote(folder):
    raise errors.InputError("not a local folder to write to", path=folder)
  path = pathlib.Path(folder)
  if path.exists() and not path.is_dir():
    raise errors.InputError("a file, not a folder to write to", path=folder)
  return path


def make_writable_folder(folder: pathlib.Path) -> None:
  """Make a folder; raise OSError if no file can be written in it."""
  folder.mkdir(parents=True, exist_ok=True)
  try:
    with tempfile.TemporaryFile(dir=folder) as probe:
      probe.write(b"probe")
  except OSError as error:
    raise OSError(error.errno, error.strerror, os.fspath(folder)) from error
