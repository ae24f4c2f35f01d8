"""A folder of feature files, told from one of photos."""

import os
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
  # Strings: a Path of each file takes several times as long.
  for parent, _, inside in os.walk(folder):
    below = pathlib.Path(parent).relative_to(folder).as_posix()
    prefix = "" if below == "." else f"{below}/"
    for file in inside:
      stem, extension = os.path.splitext(file)
      if file.startswith("."):
        continue
      if extension.lower() in files.IMAGES:
        return None
      if extension in extensions:
        names.add(f"{prefix}{stem}")
        found.add(extension)
  return (names, found) if names else None
