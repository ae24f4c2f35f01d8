"""Errors and warnings that a user reads, in one line each."""

import importlib
import logging
import os
import types
import warnings

# Exit status of an interrupted program: 128 + SIGINT, as shells have it.
INTERRUPTED = 130


class InputError(ValueError):
  """Reports that something the user gave cannot be used, in one line.

  The message says what is wrong, with which value, and what to do; a path is
  put before it.
  """

  def __init__(
    self,
    message: object,
    *received: object,
    path: str | os.PathLike | None = None,
  ):
    if received:  # The old form, until the last of it is gone.
      expected, message = message, received[0]
      path = received[1] if len(received) > 1 else path
      self.expected, self.received = expected, message
      message = f"expected {expected}, received {message}"
    super().__init__(message if path is None else f"{path}: {message}")
    self.message, self.path = message, path


def one_line(error: BaseException | Warning | str) -> str:
  """Return an error as one line: which file, what is wrong."""
  if isinstance(error, OSError) and error.strerror:
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror}"
  return " ".join(str(error).split()) or type(error).__name__


def log_warnings() -> None:
  """Log warnings in one line each; for programs.

  Pillow's are left out: they do not name the file, and the loader's error does.
  """

  def log(message, *_, **__):
    logging.getLogger("py.warnings").warning("%s", one_line(message))

  warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
  warnings.showwarning = log


def load(module: str, extra: str) -> types.ModuleType:
  """Import a module of an extra; InputError says how to install it."""
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    missing = error.name or module
    if missing.partition(".")[0] == "delf":
      raise
    if not error.name:
      missing = module.partition(".")[0]
    raise InputError(
      f"the Python package {missing} (`pip install delf[{extra}]`)", "none"
    ) from None
