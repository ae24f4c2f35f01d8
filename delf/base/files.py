"""Reading and writing files, so that a file under its final name is whole."""

import contextlib
import csv
import glob
import io
import os
import pathlib
import re
import stat
import tempfile
import uuid

from delf.base import errors

# What each extension holds; the one place where they are spelt.
DELF = ".delf"
DELG_LOCAL = ".delg_local"
DELG_GLOBAL = ".delg_global"
DATUM = ".datum"
BOXES = ".boxes"

# Image file names that a folder is searched for.
IMAGES = (
  ".jpg",
  ".jpeg",
  ".png",
  ".webp",
  ".bmp",
  ".gif",
  ".tif",
  ".tiff",
  ".ppm",
  ".pgm",
)

# Bytes of a name that its temporary file takes over: of the 255 that a name may
# have, 34 are the temporary's own, and an extension needs some.
_STEM_BYTES = 180
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}(\.[a-z_]+)?")


def is_remote(path):
  """Returns whether a path is of an object store (`gs://...`)."""
  return "://" in os.fspath(path)


def read_bytes(path, limit=None):
  """Returns the content of a file.

  Args:
    path: Local path, or one that TensorFlow reads (`gs://...`).
    limit: The most bytes that it may have, or None. No more is read.

  Returns:
    bytes.

  Raises:
    FileNotFoundError: If there is no such file; it names the path.
    InputError: If the path is a folder, or a remote one that cannot be read, or
      if the file is larger than the limit.
  """
  data = _read_up_to(path, -1 if limit is None else limit + 1)
  if limit is not None and len(data) > limit:
    raise errors.InputError(f"at most {limit} bytes", "more", path)
  return data


def _read_up_to(path, number):
  if is_remote(path):
    with _remote(path) as gfile:
      return gfile.GFile(os.fspath(path), "rb").read(number)
  try:
    with open(path, "rb") as file:
      return file.read(number)
  except FileNotFoundError:
    raise FileNotFoundError(f"{path}: expected a file, found none") from None
  except IsADirectoryError:
    raise errors.InputError("a file", "a folder", path) from None


def write_bytes(path, *data):
  """Writes a file whole or not at all.

  Args:
    path: Local path, or one that TensorFlow writes (`gs://...`). Missing
      folders are made.
    *data: bytes-like objects, written one after the other.

  Raises:
    InputError: If the path is a remote one that cannot be written.
    OSError: If it cannot be written; it names the path.
  """
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
def atomic_path(path):
  """Gives a temporary path beside `path`, renamed to it if all goes well.

  Args:
    path: Local path of the file to be. Missing folders are made. A link stays
      one, and what it leads to is written; a file that is there keeps its mode.

  Yields:
    pathlib.Path of a file with the same extension that does not exist yet.

  Raises:
    InputError: If the path is of a device or pipe.
    OSError: If it cannot be written; it names the path.
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


def find_leftovers(folder, stems):
  """Finds temporary files of `atomic_path` that a killed program left.

  Args:
    folder: Local path.
    stems: Names, without extension, of the files that were to be.

  Returns:
    list of pathlib.Path.
  """
  short = {_short(stem) for stem in stems}
  found = pathlib.Path(folder).glob(".*")
  matches = [(path, _TEMPORARY.fullmatch(path.name)) for path in found]
  return [path for path, match in matches if match and match[1] in short]


def read_lines(path):
  """Returns the lines of a text file, stripped, without the empty ones.

  Args:
    path: Path of a UTF-8 text file, for example a list of image paths.

  Returns:
    list of str.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is not text.
  """
  try:
    text = read_bytes(path).decode("utf-8-sig")
  except UnicodeDecodeError:
    raise errors.InputError("a UTF-8 text file", "binary data", path) from None
  return [line.strip() for line in text.splitlines() if line.strip()]


def find_images(source):
  """Finds the images that a user means.

  Args:
    source: A folder, searched with all folders in it; a pattern such as
      `photos/*.jpg` (`**` for all folders); a `.txt` file with one path a line,
      as they stand or else beside the list; or one image.

  Returns:
    Sorted list of str paths; of a folder, what is called like an image. Files
    in a list need not exist.

  Raises:
    FileNotFoundError: If there is no such file or folder.
    InputError: If there is no image in it.
  """
  source = os.fspath(source)
  if os.path.isdir(source):
    found = [
      os.path.join(folder, name)
      for folder, _, names in os.walk(source)
      for name in filter(is_image, names)
    ]
    return _not_empty(found, f"images ({', '.join(IMAGES)})", source)
  if not os.path.exists(source) and glob.has_magic(source):
    found = glob.glob(source, recursive=True)
    return _not_empty(filter(os.path.isfile, found), "a file", source)
  if source.lower().endswith(".txt"):
    return _not_empty(_listed(source), "paths, one a line", source)
  if not is_remote(source) and not os.path.exists(source):
    raise FileNotFoundError(
      f"{source}: expected an image, a folder, a pattern or a list, found none"
    )
  return [source]


def is_image(name):
  """Returns whether a file is called like an image, and is not hidden."""
  return name.lower().endswith(IMAGES) and not name.startswith(".")


def _listed(source):
  """Returns the paths of a list; relative ones may be beside the list."""
  folder = os.path.dirname(source)
  beside = [(name, os.path.join(folder, name)) for name in read_lines(source)]
  return [
    other if not os.path.exists(name) and os.path.exists(other) else name
    for name, other in beside
  ]


def _not_empty(paths, expected, source):
  paths = sorted(paths)
  if not paths:
    raise errors.InputError(expected, "none", source)
  return paths


def _short(stem):
  return os.fsencode(stem)[:_STEM_BYTES].decode(errors="ignore")


@contextlib.contextmanager
def _remote(path):
  """Gives tf.io.gfile; what it says of `path` becomes one of our errors."""
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


@contextlib.contextmanager
def lock_folder(folder, wait=False):
  """Keeps other runs out of a folder that ask for it in this way.

  The system ends it with the process, whatever ends that. Where it knows no
  such locks, nothing is kept out.

  Args:
    folder: Local path of a folder that is there.
    wait: Whether to wait for another run, rather than to refuse.

  Yields:
    None.

  Raises:
    InputError: If another run is at it, and is not waited for.
  """
  if os.name != "posix":
    yield
    return
  handle = os.open(folder, os.O_RDONLY)
  try:
    _lock(handle, wait, folder)
    yield
  finally:
    os.close(handle)


def _lock(handle, wait, folder):
  import fcntl

  try:
    fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except BlockingIOError:
    raise errors.InputError(
      "a folder that no other run is changing",
      "one that is being changed",
      folder,
    ) from None
  except OSError:
    return  # A file system without locks.


def open_to_append(path):
  """Opens a file of lines to append whole ones.

  A last line that a killed program left without its end gets one, so that what
  follows does not run into it.

  Args:
    path: Local path; the folder must exist.

  Returns:
    Binary file, which the caller closes.
  """
  file = open(path, "ab+")  # noqa: SIM115 (the caller closes it)
  if file.tell():
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
      file.write(b"\n")
  return file


def check_inside(name):
  """Checks that a name, as ground truth has it, is of a file in a folder.

  Args:
    name: str, path below the folder that something is written to.

  Raises:
    InputError: If it leads out of that folder, or is of no file.
  """
  parts = os.path.normpath(name).split(os.sep)
  if os.path.isabs(name) or parts[0] in ("..", ".") or "\0" in name:
    raise errors.InputError("output names below the output folder", repr(name))


def local_folder(folder):
  """Returns a folder to write to, which need not exist, as pathlib.Path.

  Raises:
    InputError: If it is not a local one, or is a file.
  """
  if is_remote(folder):
    raise errors.InputError("a local folder", "a remote one", folder)
  path = pathlib.Path(folder)
  if path.exists() and not path.is_dir():
    raise errors.InputError("a folder to write to", "a file", folder)
  return path


def make_writable_folder(folder):
  """Makes a folder, and sees whether files can be written in it.

  Args:
    folder: pathlib.Path.

  Raises:
    OSError: If not; it names the folder.
  """
  folder.mkdir(parents=True, exist_ok=True)
  try:
    with tempfile.TemporaryFile(dir=folder) as probe:
      probe.write(b"probe")
  except OSError as error:
    raise OSError(error.errno, error.strerror, os.fspath(folder)) from error


def remove_leftovers(folder, jobs, record, ending=""):
  """Removes temporary files that a killed run left for the same images.

  Args:
    folder: Local path.
    jobs: Images with a `name`, the path of their files without ending.
    record: Name of the record beside them.
    ending: What follows that name, as `_viz.jpg`, if not an extension alone.
  """
  stems = {"": {pathlib.Path(record).stem}}
  more = ending.rpartition(".")[0]
  for job in jobs:
    parent, stem = os.path.split(f"{job.name}{more}")
    stems.setdefault(parent, set()).add(stem)
  for parent, names in stems.items():
    for path in find_leftovers(folder / parent, names):
      path.unlink(missing_ok=True)


# Characters of a row: some landmarks have ten thousand images, of 17 each.
_MAX_ROW = 2**24


def read_csv(path, header=False, strict=False):
  """Reads a CSV file.

  Args:
    path: Path of the file. It is read as it is needed, where it is local.
    header: Whether the first line is given too.
    strict: Whether quotes that are not closed and the like are refused.

  Yields:
    (number of the line, list of str columns), without empty lines.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no such file, or has a row of over 16 million
      characters.
  """
  try:
    with _open(path) as file, _long_fields():
      lines = _Lines(file)
      reader = csv.reader(lines, strict=strict)
      first = next(reader, [])
      if header:
        yield 1, first
      lines.row = 0
      for row in reader:
        lines.row = 0
        if row:
          yield reader.line_num, row
  except UnicodeDecodeError:
    raise errors.InputError("a UTF-8 text file", "binary data", path) from None
  except csv.Error as error:
    raise errors.InputError("a CSV file", str(error), path) from None


class _Lines:
  """The lines of a file; of one row, no more than it may take.

  Attributes:
    row: Characters of the row that is read.
  """

  def __init__(self, file):
    self._file = file
    self.row = 0

  def __iter__(self):
    return self

  def __next__(self):
    line = self._file.readline(_MAX_ROW + 1)
    if not line:
      raise StopIteration
    self.row += len(line)
    if self.row > _MAX_ROW:
      raise csv.Error(f"a row of over {_MAX_ROW} characters")
    return line


def _open(path):
  if is_remote(path):
    return io.StringIO(read_bytes(path).decode("utf-8-sig"), newline="")
  try:
    return open(path, encoding="utf-8-sig", newline="")
  except FileNotFoundError:
    raise FileNotFoundError(f"{path}: expected a file, found none") from None
  except IsADirectoryError:
    raise errors.InputError("a file", "a folder", path) from None


@contextlib.contextmanager
def _long_fields():
  before = csv.field_size_limit(_MAX_ROW)
  try:
    yield
  finally:
    csv.field_size_limit(before)
