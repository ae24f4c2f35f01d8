"""Names of the classes of records, and how many photos each has."""

import dataclasses
import json
import pathlib

from delf.python import errors, files

NAME = "labels.json"
# Of labels that were others before, which these are.
RELABELING = "relabeling.csv"
# Of the file; 200 000 landmarks take 5 MB.
_MOST_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class Labels:
  """The classes of records.

  Attributes:
    names: list of str, the name of each label from 0.
    counts: dict by split (`train`, `validation`) of a list of int, the photos
      of each label.
  """

  names: list
  counts: dict

  @property
  def num_classes(self):
    """Number of classes."""
    return len(self.names)


def write(folder, labels):
  """Writes `labels.json` in the folder of the records."""
  content = {"classes": labels.names, "counts": labels.counts}
  text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
  files.write_bytes(pathlib.Path(folder) / NAME, text.encode())


def read(folder):
  """Reads `labels.json`.

  Args:
    folder: Folder of the records.

  Returns:
    Labels.

  Raises:
    FileNotFoundError: If there is none.
    InputError: If it is something else.
  """
  path = pathlib.Path(folder) / NAME
  try:
    content = json.loads(files.read_bytes(path, _MOST_BYTES))
    labels = Labels(content["classes"], content["counts"])
    if not all(isinstance(name, str) for name in labels.names):
      raise TypeError
    for counts in labels.counts.values():
      if len(counts) != len(labels.names) or set(map(type, counts)) - {int}:
        raise TypeError
  except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
    raise errors.InputError(
      "names and counts of classes", "something else", path
    ) from None
  return labels
