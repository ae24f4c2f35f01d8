"""The images that a user means, and a name for the features of each."""

import collections
import os

from delf.python import files


def find(sources):
  """Finds the images that a user means, and gives each a name of its own.

  Images under a folder keep their sub-folder there; others go by base name.
  Where names are equal, these images are named from the common parent of all,
  and where that is not enough with their extension.

  Args:
    sources: Folders, patterns, lists and images, as `files.find_images` takes.

  Returns:
    list of paths and list of names, without extension unless two differ by it
    alone.

  Raises:
    FileNotFoundError: If a source is not there.
    InputError: If there is no image in a source.
  """
  found, roots = {}, set()  # Absolute path -> (path, name).
  for source in map(os.fspath, sources):
    is_folder = os.path.isdir(source)
    for path in map(os.fspath, files.find_images(source)):
      root = source if is_folder else os.path.dirname(path)
      name = os.path.splitext(os.path.relpath(path, root or "."))[0]
      found.setdefault(_absolute(path), (path, name))
      roots.add(_absolute(root))
  parent = os.path.commonpath(roots)
  longer = [os.path.relpath(path, parent) for path in found]
  images, names = (list(each) for each in zip(*found.values(), strict=True))
  names = _replace_equal(names, [os.path.splitext(name)[0] for name in longer])
  # Each round leaves fewer equal ones; `longer` has none.
  while len(set(names)) < len(names):
    names = _replace_equal(names, longer)
  return images, names


def _replace_equal(names, others):
  """Returns names, with others for those that several images have."""
  number = collections.Counter(names)
  return [
    other if number[name] > 1 else name
    for name, other in zip(names, others, strict=True)
  ]


def _absolute(path):
  """Returns an absolute path; a remote one as if it were a local one."""
  if "://" in path:
    return "/" + path.replace("://", "/")
  return os.path.abspath(path)
