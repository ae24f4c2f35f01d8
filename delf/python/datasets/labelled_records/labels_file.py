"""Names of the classes of records, and how many photos each has."""

import dataclasses
import json
import os

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
  files.write_bytes(os.path.join(folder, NAME), text.encode())


def beside(pattern):
  """Reads what lies beside records: the one count of a data set's classes.

  Args:
    pattern: Pattern of the records' paths, such as `data/train*`.

  Returns:
    Labels, or None if there is no file; as of records that others wrote.

  Raises:
    InputError: If it is something else.
  """
  try:
    return read(os.path.dirname(pattern))
  except FileNotFoundError:
    return None


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
  path = os.path.join(folder, NAME)
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
