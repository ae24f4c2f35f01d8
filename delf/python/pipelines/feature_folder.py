"""A folder of feature files, told from one of photos."""

import pathlib

from delf.python import files


def find(sources):
  """Returns what is in a folder of feature files.

  Args:
    sources: Folders, patterns, lists and images, as a user gave them.

  Returns:
    Set of names without extension, and set of extensions; or None unless there
    is one folder that has feature files and no image.
  """
  folder = pathlib.Path(sources[0])
  if len(sources) > 1 or not folder.is_dir():
    return None
  extensions = (files.DELF, files.DELG_LOCAL, files.DELG_GLOBAL)
  names, found = set(), set()
  for path in folder.rglob("*"):
    if path.name.startswith("."):
      continue
    if path.suffix.lower() in files.IMAGES:
      return None
    if path.suffix in extensions:
      names.add(path.relative_to(folder).with_suffix("").as_posix())
      found.add(path.suffix)
  return (names, found) if names else None
