"""The folder of an export, which is there when all is written."""

import contextlib
import os
import pathlib
import shutil
import uuid

import tensorflow as tf

from delf.python import errors, files

_GRAPH = "saved_model.pb"


@contextlib.contextmanager
def destination(path, overwrite=False):
  """Yields a folder that becomes `path` when all is written.

  Args:
    path: Folder to be; local, or one that TensorFlow writes (`gs://...`).
    overwrite: Whether a finished export at `path` is replaced; it stays as it
      is until then.

  Yields:
    pathlib.Path of a folder that does not exist yet; of a remote one `path`.

  Raises:
    InputError: If there is something at `path` that is not to be replaced.
    OSError: As it is raised inside; of the folder it names `path`.
  """
  if not path:
    raise errors.InputError("a folder to export to", "none")
  if files.is_remote(path):
    if not overwrite and tf.io.gfile.exists(f"{path}/{_GRAPH}"):
      raise _exists(path)
    yield path
    return
  path = _local_folder(path)
  _check_free(path, overwrite)
  temporary, previous = (
    path.with_name(f".{path.name}.{uuid.uuid4().hex}") for _ in range(2)
  )
  try:
    yield temporary
    _check_free(path, overwrite)
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


def _local_folder(path):
  """Returns the whole path of a folder to be, and makes the one it lies in."""
  given, path = path, pathlib.Path(path)
  if path.is_symlink() and not path.exists():
    raise errors.InputError("a folder to export to", "a link to nothing", given)
  path = path.resolve()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError):
    raise errors.InputError(
      "a folder to export to", "a path below a file", given
    ) from None
  return path


def _check_free(path, overwrite):
  """Refuses a path with something that is not to be replaced."""
  if not path.exists() or (path.is_dir() and not any(path.iterdir())):
    return
  if not (path / _GRAPH).is_file():
    received = "one with other files in it" if path.is_dir() else "a file"
    raise errors.InputError("a new folder to export to", received, path)
  if not overwrite:
    raise _exists(path)


def _exists(path):
  return errors.InputError(
    "a new folder to export to", "one with a finished export", path
  )
