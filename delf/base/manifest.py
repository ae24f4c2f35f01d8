"""Records beside the files of a run: its settings, and the finished steps."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Collection
from typing import IO

from delf.base import errors, files

# Characters of a value in a message, enough to distinguish two hashes.
_SHORT = 20


def read(path: str | os.PathLike) -> dict | None:
  """Read a record of `write`, or return None if the file does not exist."""
  if not os.path.exists(path):
    return None
  record = None
  with contextlib.suppress(ValueError, RecursionError):
    record = json.loads(files.read_bytes(path))
  if not isinstance(record, dict):
    raise errors.InputError("not a record of the settings of files", path=path)
  return record


def write(path: str | os.PathLike, record: dict) -> None:
  """Write a record atomically."""
  files.write_bytes(path, (json.dumps(record, indent=2) + "\n").encode())


def difference(
  existing: dict, requested: dict, ignored: Collection[str] = ()
) -> str:
  """Describe how existing settings differ from requested ones, "" if equal.

  An example is "with threshold 0.1, not 0.9; with most 3, not None".
  """
  parts = []
  for name in requested | existing:
    old, new = existing.get(name), requested.get(name)
    if name in ignored or old == new:
      continue
    if isinstance(old, dict) and isinstance(new, dict):
      old, new = ({f"{name} {k}": v for k, v in d.items()} for d in (old, new))
      parts.append(difference(old, new))
    else:
      parts.append(f"with {name} {str(old)[:_SHORT]}, not {str(new)[:_SHORT]}")
  return "; ".join(parts)


class Journal:
  """An append-only file with a line of JSON for each finished step.

  A last line truncated by a killed run is skipped, and completed by `add`.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    self._file: IO[bytes] | None = None

  def read(self, parse: Callable = lambda entry: entry) -> list:
    """Return `parse(entry)` of each line, skipping unreadable lines."""
    parsed, exists = [], self.path.exists()
    for line in files.read_bytes(self.path).splitlines() if exists else ():
      with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        parsed.append(parse(json.loads(line)))
    return parsed

  def add(self, *entries: object) -> None:
    """Append a line for each entry, all in one write."""
    if self._file is None:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._file = files.open_to_append(self.path)
    self._file.write("".join(f"{json.dumps(e)}\n" for e in entries).encode())
    self._file.flush()

  def close(self) -> None:
    """Close the file; `add` reopens it."""
    if self._file is not None:
      self._file.close()
      self._file = None
