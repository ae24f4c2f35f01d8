"""Packages that come with an extra of `delf` alone."""

import importlib

from delf.python import errors


def load(module, extra):
  """Imports a module of a package that an extra brings.

  Args:
    module: Its name.
    extra: Name of the extra, as in `pip install delf[extra]`.

  Returns:
    The module.

  Raises:
    InputError: If the package is not installed; it says how to.
  """
  package = module.partition(".")[0]
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] == "delf":
      raise
    missing = error.name or package
    raise errors.InputError(
      f"the Python package {missing} (`pip install delf[{extra}]`)", "none"
    ) from None
