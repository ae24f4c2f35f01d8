"""Reading and writing files, so that a file under its final name is whole."""

import contextlib
import glob
import os
import pathlib
import re
import stat
import uuid

from delf.python import errors

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


def leftovers(folder, stems):
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
