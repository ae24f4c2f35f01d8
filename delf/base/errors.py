"""What is wrong with what the user gave, in one line."""

import importlib
import logging
import warnings

# Exit status of a program that the user has interrupted: 128 + SIGINT, as
# shells have it.
INTERRUPTED = 130


class InputError(ValueError):
  """Something the user gave (a file, a value) is not what is expected.

  The text is one line that says what was expected, what was received and, where
  there is one, which file. Command lines print it without a traceback.
  """

  def __init__(self, expected, received, path=None):
    """Creates the error.

    Args:
      expected: What was expected, as words that follow "expected".
      received: What was received, as words that follow "received".
      path: File or folder that it is about, or None.
    """
    where = f"{path}: " if path is not None else ""
    super().__init__(f"{where}expected {expected}, received {received}")
    self.expected, self.received, self.path = expected, received, path


def one_line(error):
  """Returns an error as one line: which file, what is wrong."""
  if isinstance(error, OSError) and error.strerror:
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror}"
  return " ".join(str(error).split()) or type(error).__name__


def log_warnings():
  """Has what other packages warn of logged, in one line; for programs.

  What Pillow warns of in a broken file is left out: it does not name the file,
  and where the image cannot be read the loader's error does.
  """
  warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
  warnings.showwarning = _log_warning


def _log_warning(message, *_, **__):
  logging.getLogger("py.warnings").warning("%s", one_line(message))


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
    raise InputError(
      f"the Python package {missing} (`pip install delf[{extra}]`)", "none"
    ) from None
