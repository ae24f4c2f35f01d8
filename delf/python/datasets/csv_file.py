"""Reading CSV files row by row, with a bound on what a row may take."""

import contextlib
import csv
import io

from delf.python import errors, files

# Characters of a row: some landmarks have ten thousand images, of 17 each.
_MAX_ROW = 2**24


def rows(path, header=False, strict=False):
  """Reads a CSV file.

  Args:
    path: Path of the file. It is read as it is needed, where it is local.
    header: Whether the first line is given too.
    strict: Whether quotes that are not closed and the like are refused.

  Yields:
    (number of the line, list of str columns), without empty lines.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no such file, or has a row of over 16 million
      characters.
  """
  try:
    with _open(path) as file, _long_fields():
      lines = _Lines(file)
      reader = csv.reader(lines, strict=strict)
      first = next(reader, [])
      if header:
        yield 1, first
      lines.row = 0
      for row in reader:
        lines.row = 0
        if row:
          yield reader.line_num, row
  except UnicodeDecodeError:
    raise errors.InputError("a UTF-8 text file", "binary data", path) from None
  except csv.Error as error:
    raise errors.InputError("a CSV file", str(error), path) from None


class _Lines:
  """The lines of a file; of one row, no more than it may take.

  Attributes:
    row: Characters of the row that is read.
  """

  def __init__(self, file):
    self._file = file
    self.row = 0

  def __iter__(self):
    return self

  def __next__(self):
    line = self._file.readline(_MAX_ROW + 1)
    if not line:
      raise StopIteration
    self.row += len(line)
    if self.row > _MAX_ROW:
      raise csv.Error(f"a row of over {_MAX_ROW} characters")
    return line


def _open(path):
  if files.is_remote(path):
    return io.StringIO(files.read_bytes(path).decode("utf-8-sig"), newline="")
  try:
    return open(path, encoding="utf-8-sig", newline="")
  except FileNotFoundError:
    raise FileNotFoundError(f"{path}: expected a file, found none") from None
  except IsADirectoryError:
    raise errors.InputError("a file", "a folder", path) from None


@contextlib.contextmanager
def _long_fields():
  before = csv.field_size_limit(_MAX_ROW)
  try:
    yield
  finally:
    csv.field_size_limit(before)
