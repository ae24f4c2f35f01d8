"""JSON documents on standard output, for other programs to read."""

import contextlib
import importlib.abc
import importlib.util
import io
import json
import logging
import math
import os
import shutil
import sys
import tempfile

from absl import logging as absl_logging

from delf.base import errors


def print_json(document):
  """Prints a document that every JSON parser reads.

  Args:
    document: dict, list or plain value. NaN and infinity, which JSON does not
      have, become null.
  """
  print(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value):
  if isinstance(value, dict):
    return {name: _finite(each) for name, each in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(each) for each in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def show_warnings():
  """Shows warnings as `delf: warning: ...` on standard error.

  Handlers that a program around this one has set stay as they are.
  """
  errors.log_warnings()
  root = logging.getLogger()
  root.removeHandler(absl_logging.get_absl_handler())
  if root.handlers:
    return
  ours = logging.StreamHandler()
  ours.setLevel(logging.WARNING)
  ours.setFormatter(_Formatter("delf: %(word)s: %(message)s"))
  root.addHandler(ours)


def print_any_name():
  """Lets standard output and error print what their encoding does not have.

  File names may hold any character; those are written as escapes.
  """
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")


class _Formatter(logging.Formatter):
  """Formats a record with its level in small letters."""

  def format(self, record):
    record.word = record.levelname.lower()
    return super().format(record)


_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def silence_tensorflow():
  """Silences TensorFlow, unless the user has set `TF_CPP_MIN_LOG_LEVEL`.

  The level (3 leaves fatal errors) is read by TensorFlow's C++ side. What its
  libraries say while they are loaded, on CPU features and missing CUDA, obeys
  no setting (TensorFlow 2.21), so standard error is held back during that
  import; it is shown if the import fails.
  """
  if _LEVEL in os.environ:
    return
  os.environ[_LEVEL] = "3"
  if "tensorflow" not in sys.modules:
    sys.meta_path.insert(0, _TensorflowFinder())


class _TensorflowFinder(importlib.abc.MetaPathFinder):
  """Finds TensorFlow as usual, and has it loaded in silence, once."""

  def find_spec(self, fullname, path, target=None):
    if fullname != "tensorflow":
      return None
    sys.meta_path.remove(self)
    spec = importlib.util.find_spec(fullname)
    if spec is not None and spec.loader is not None:
      load = spec.loader.exec_module

      def load_quietly(module):
        with held_stderr():
          load(module)

      spec.loader.exec_module = load_quietly
    return spec


@contextlib.contextmanager
def held_stderr():
  """Holds back what the process writes to standard error, C++ code included.

  It is dropped at the end, or written after all if an error passes.
  """
  try:
    saved = os.dup(2)
  except OSError:  # Standard error is closed: nothing to hold back.
    yield
    return
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    except Exception:
      os.dup2(saved, 2)
      held.seek(0)
      with open(2, "wb", closefd=False) as stderr:
        shutil.copyfileobj(held, stderr)
      raise
    finally:
      os.dup2(saved, 2)
      os.close(saved)


def error(line):
  """Says what failed.

  Args:
    line: Words, or an object whose text is one line.
  """
  print(f"delf: error: {line}", file=sys.stderr)


def warning(line):
  """Says what may not be as it was meant; takes what `error` takes."""
  print(f"delf: warning: {line}", file=sys.stderr)
