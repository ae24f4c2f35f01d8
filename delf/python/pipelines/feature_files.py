"""Descriptors of many feature files, a file at a time."""

import os

import numpy as np

from delf.python import datum_io, errors, feature_io, files, nearest_words
from delf.python.pipelines import extract_report

LOCAL = "local"
GLOBAL = "global"

# Kind of descriptor -> extensions of the files that hold it.
EXTENSIONS = {
  LOCAL: (files.DELF, files.DELG_LOCAL),
  GLOBAL: (files.DELG_GLOBAL,),
}


def find(folder, kind=LOCAL):
  """Finds the feature files in a folder and the folders in it.

  Args:
    folder: Local path.
    kind: LOCAL or GLOBAL.

  Returns:
    Sorted list of str paths.

  Raises:
    FileNotFoundError: If there is no such folder.
    InputError: If there is no such file in it.
  """
  if not os.path.isdir(folder):
    raise FileNotFoundError(f"{folder}: expected a folder, found none")
  found = sorted(
    os.path.join(parent, name)
    for parent, _, names in os.walk(folder)
    for name in names
    if name.endswith(EXTENSIONS[kind]) and not name.startswith(".")
  )
  if not found:
    raise errors.InputError(
      f"feature files ({', '.join(EXTENSIONS[kind])})", "none", folder
    )
  return found


class Reader:
  """Reads files one by one; one that is bad is a failure, and the rest go on.

  Attributes:
    dimension: Values of a descriptor, or None until a file had one.
    failures: list of extract_report.Failure, of files that are missing, cut,
      not finite, or of another dimension than the first.
  """

  def __init__(self, dimension=None, failures=()):
    self.dimension = dimension
    self.failures = list(failures)

  def read(self, path):
    """Returns the descriptors of a file, [N, D] float32; of a bad one none."""
    try:
      descriptors = self._check(_descriptors(path), path)
    except (errors.InputError, OSError) as error:
      reason = errors.one_line(error).removeprefix(f"{path}: ")
      self.failures.append(extract_report.Failure(path, reason))
      return np.zeros([0, self.dimension or 0], dtype=np.float32)
    return descriptors

  def _check(self, descriptors, path):
    if not len(descriptors):
      return np.zeros([0, self.dimension or 0], dtype=np.float32)
    size = descriptors.shape[1]
    if size == 0 or self.dimension not in (None, size):
      raise errors.InputError(
        f"descriptors of {self.dimension or 'some'} values, as in the files "
        "before",
        f"{size}",
        path,
      )
    descriptors = nearest_words.check_descriptors(descriptors, "descriptors")
    self.dimension = size
    return descriptors


def _descriptors(path):
  """Returns the descriptors of a file of local features or a global one."""
  if not path.endswith(EXTENSIONS[GLOBAL]):
    return feature_io.read_local_features(path).descriptors
  descriptor = datum_io.ReadFromFile(path)
  if descriptor.ndim != 1:
    raise errors.InputError(
      "a descriptor [D]", f"shape {list(descriptor.shape)}", path
    )
  descriptors = descriptor[np.newaxis].astype(np.float32)
  return descriptors if descriptor.size else descriptors.reshape([0, 0])
