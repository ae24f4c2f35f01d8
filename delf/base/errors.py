"""Errors and warnings that a user reads, in one line each."""

import importlib
import logging
import os
import types
import warnings
from typing import Any

# Exit status of an interrupted program: 128 + SIGINT, as shells have it.
INTERRUPTED = 130


class InputError(ValueError):
  """An input of the user that cannot be used, reported in one line.

  The message names the problem, the value and, unless obvious, the remedy;
  `str` puts the path before it.

  Example:
    >>> import delf
    >>> try:
    ...   delf.load(local_only=True, global_only=True)
    ... except delf.InputError as error:
    ...   print(error)
    local_only and global_only exclude each other
  """

  def __init__(self, message: str, *, path: str | os.PathLike | None = None):
    super().__init__(message if path is None else f"{path}: {message}")
    self.message, self.path = message, path


class Interrupted(KeyboardInterrupt):
  """The user interrupted work; finished parts are kept, and in `report`."""

  def __init__(self, report: Any):
    super().__init__()
    self.report = report


def one_line(error: BaseException | Warning | str) -> str:
  """Return an error as one line: the file, if any, and the problem."""
  if isinstance(error, OSError) and error.strerror:
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror}"
  return " ".join(str(error).split()) or type(error).__name__


def log_warnings() -> None:
  """Log each warning in one line, except Pillow's: errors name its files."""

  def log(message, *_, **__):
    logging.getLogger("py.warnings").warning("%s", one_line(message))

  warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
  warnings.showwarning = log


def load(module: str, extra: str) -> types.ModuleType:
  """Import a module of an optional dependency.

  Raises InputError, with the command that installs it, if it is missing.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    missing = error.name or module
    if missing.partition(".")[0] == "delf":
      raise
    if not error.name:
      missing = module.partition(".")[0]
    remedy = f"`pip install delf[{extra}]`"
    raise InputError(f"no Python package {missing}: {remedy}") from None
