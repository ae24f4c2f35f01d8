"""Folders that files are to be written to."""

import os
import pathlib
import tempfile

from delf.python import errors, files


def local_folder(folder):
  """Returns a folder to write to, which need not exist, as pathlib.Path.

  Raises:
    InputError: If it is not a local one, or is a file.
  """
  if files.is_remote(folder):
    raise errors.InputError("a local folder", "a remote one", folder)
  path = pathlib.Path(folder)
  if path.exists() and not path.is_dir():
    raise errors.InputError("a folder to write to", "a file", folder)
  return path


def make_and_try(folder):
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
    for path in files.leftovers(folder / parent, names):
      path.unlink(missing_ok=True)
