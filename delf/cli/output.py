"""Output of the commands: JSON, errors and warnings, a silent TensorFlow."""

import argparse
import contextlib
import dataclasses
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
from collections.abc import Iterator
from typing import Any

from delf.base import errors

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def print_json(document: object) -> None:
  """Print a document that every JSON parser reads: NaN and infinity as null."""
  print(json.dumps(_finite(document), indent=2, allow_nan=False))


def show(args: argparse.Namespace, document: object, *lines: object) -> None:
  """Print lines for people, or the document with --json."""
  if args.json:
    print_json(document)
  else:
    print(*lines, sep="\n")


def print_report(
  args: argparse.Namespace, report: Any, head: dict, tail: dict | None = None
) -> int:
  """Print the summary of work in `args.out`, or with --json all of a report.

  Returns its exit status. `head` and `tail` are more entries of the document.
  """
  document = head | dataclasses.asdict(report) | (tail or {})
  document.pop("photos", None)  # Results, which are printed as they come.
  show(args, document, f"{args.out}: {report.summary()}")
  return report.exit_status


def error(line: object) -> None:
  """Print an error on standard error."""
  print(f"delf: {_coloured('error')}: {line}", file=sys.stderr)


def warning(line: object) -> None:
  """Print a warning on standard error."""
  print(f"delf: {_coloured('warning')}: {line}", file=sys.stderr)


# Escape sequences of terminals.
_COLOURS = {"error": "\033[31m", "warning": "\033[33m"}
_PLAIN = "\033[0m"


def _coloured(level: str) -> str:
  """Return the name of a level, coloured on a terminal (no-color.org)."""
  is_terminal = sys.stderr is not None and sys.stderr.isatty()
  is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
  if level not in _COLOURS or is_plain or not is_terminal:
    return level
  return f"{_COLOURS[level]}{level}{_PLAIN}"


def show_log(level: int = logging.WARNING) -> None:
  """Show log records from a level on, such as `delf: warning: ...`.

  Handlers that a program around this one has set stay as they are.
  """
  from absl import logging as absl_logging

  errors.log_warnings()
  root = logging.getLogger()
  root.removeHandler(absl_logging.get_absl_handler())
  if root.handlers:
    return
  handler = logging.StreamHandler()
  handler.setLevel(level)
  if level < logging.WARNING:
    absl_logging.set_verbosity(absl_logging.INFO)
  handler.setFormatter(_Formatter("delf: %(level)s: %(message)s"))
  root.addHandler(handler)


def print_any_name() -> None:
  """Let standard output and error print any file name.

  Characters that their encoding lacks are written as escapes.
  """
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")


def silence_tensorflow() -> None:
  """Silence TensorFlow, unless the user has set `TF_CPP_MIN_LOG_LEVEL`.

  The level (3 leaves fatal errors) is read by TensorFlow's C++ side. Its
  libraries, while they are loaded, obey no setting (TensorFlow 2.21): standard
  error is held back during that import, and shown if it fails.
  """
  if _LEVEL in os.environ:
    return
  os.environ[_LEVEL] = "3"
  if "tensorflow" not in sys.modules:
    sys.meta_path.insert(0, _TensorflowFinder())


@contextlib.contextmanager
def held_stderr() -> Iterator[None]:
  """Hold back standard error of the process, C++ code included.

  It is dropped at the end, or written if an error is raised.
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


class _Formatter(logging.Formatter):
  def format(self, record):
    record.level = _coloured(record.levelname.lower())
    return super().format(record)


class _TensorflowFinder(importlib.abc.MetaPathFinder):
  """Finds TensorFlow as usual, and loads it silently, once."""

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

      spec.loader.exec_module = load_quietly  # type: ignore[method-assign]
    return spec


def _finite(value):
  if isinstance(value, dict):
    return {name: _finite(each) for name, each in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(each) for each in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
