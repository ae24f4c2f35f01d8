"""The images to extract, each with an output name of its own."""

import dataclasses
import os

from delf.python import errors


@dataclasses.dataclass(frozen=True)
class Job:
  """One image to extract.

  Attributes:
    path: Path of the image.
    name: Path of its outputs in the folder, without extension.
    size: Size of the file in bytes, or None if it is remote or missing.
  """

  path: str
  name: str
  size: int | None = None


def plan(images, names=None):
  """Returns jobs, after checking that each has an output name of its own.

  Args:
    images: Paths of images. One that is repeated is done once.
    names: Output name of each, without extension, or None: base names.

  Returns:
    list of Job.

  Raises:
    InputError: If there are no images, or two would be written to one name.
  """
  images = [os.fspath(path) for path in images]
  if not images:
    raise errors.InputError("at least one image", "none")
  if names is None:
    names = [os.path.splitext(os.path.basename(path))[0] for path in images]
  owners = {}
  for path, name in zip(images, names, strict=True):
    other = owners.setdefault(name, path)
    if other != path:
      raise errors.InputError(
        "a different output name for each image",
        f"{name!r} for both {other} and {path}",
      )
  return [Job(path, name, _size(path)) for name, path in owners.items()]


def _size(path):
  try:
    return os.stat(path).st_size
  except (OSError, ValueError):
    return None
