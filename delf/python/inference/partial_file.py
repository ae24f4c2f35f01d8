"""A file of which a part is there, with a note of what it is a part of."""

import contextlib
import dataclasses
import json
import os
import pathlib

from delf.python import files


@dataclasses.dataclass(frozen=True)
class PartialFile:
  """The file `<target>.part`, and beside it what its bytes are a part of.

  Attributes:
    target: pathlib.Path of the whole file to be.
    url: Address that it comes from.
    max_bytes: Size from which on a file is refused.
  """

  target: pathlib.Path
  url: str
  max_bytes: int

  @property
  def path(self):
    """Where it lies."""
    return self.target.with_name(f"{self.target.name}.part")

  @property
  def _note(self):
    return self.target.with_name(f"{self.target.name}.part.json")

  def size(self):
    """Returns how many bytes are there."""
    return self.path.stat().st_size if self.path.exists() else 0

  def version(self):
    """Returns the server's name of the version that was begun, or ''."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
      note = json.loads(self._note.read_text(encoding="utf-8"))
      if note.get("url") == self.url:
        return note.get("version", "")
    return ""

  def begin(self, version):
    """Makes it empty, to be a part of this version."""
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self.path.write_bytes(b"")
    note = json.dumps({"url": self.url, "version": version})
    files.write_bytes(self._note, note.encode())

  def finish(self):
    """Puts it in place of the target."""
    os.replace(self.path, self.target)
    self._note.unlink(missing_ok=True)
