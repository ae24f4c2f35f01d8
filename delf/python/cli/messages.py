"""Warnings and names as lines of the command line."""

import io
import logging
import sys

from absl import logging as absl_logging

from delf.python import errors


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
