"""Names of outputs, which may come from files of others."""

import os

from delf.python import errors


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
