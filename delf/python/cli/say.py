"""Lines on standard error, beside the results on standard output."""

import sys


def error(line):
  """Says what failed.

  Args:
    line: Words, or an object whose text is one line.
  """
  print(f"delf: error: {line}", file=sys.stderr)


def warning(line):
  """Says what may not be as it was meant; takes what `error` takes."""
  print(f"delf: warning: {line}", file=sys.stderr)
