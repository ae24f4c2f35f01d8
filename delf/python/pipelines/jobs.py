"""The images to extract, each with an output name of its own."""

import dataclasses
import os

from delf.python import errors
from delf.python.pipelines import cropping, output_names


@dataclasses.dataclass(frozen=True)
class Job:
  """One image to extract.

  Attributes:
    path: Path of the image.
    name: Path of its outputs in the folder, without extension.
    size: Size of the file in bytes, or None if it is remote or missing.
    crop: cropping.Crop of the part to extract, or None for the whole image.
  """

  path: str
  name: str
  size: int | None = None
  crop: cropping.Crop | None = None


def plan(images, names=None, crops=None):
  """Returns jobs, after checking that each has an output name of its own.

  Args:
    images: Paths of images. One that is repeated is done once.
    names: Output name of each, without extension and below the output folder,
      or None: base names.
    crops: cropping.Crop or None of each, or None: all are extracted whole.

  Returns:
    list of Job.

  Raises:
    InputError: If there are no images, or two (or two parts of one) would be
      written to one name, or one outside of the output folder.
  """
  images = [os.fspath(path) for path in images]
  if not images:
    raise errors.InputError("at least one image", "none")
  if names is None:
    names = [os.path.splitext(os.path.basename(path))[0] for path in images]
  if crops is None:
    crops = [None] * len(images)
  owners = {}
  for path, name, crop in zip(images, names, crops, strict=True):
    output_names.check_inside(name)
    other = owners.setdefault(name, (path, crop))
    if other != (path, crop):
      raise errors.InputError(
        "a different output name for each image",
        f"{name!r} for both {_words(*other)} and {_words(path, crop)}",
      )
  return [
    Job(path, name, _size(path), crop) for name, (path, crop) in owners.items()
  ]


def _words(path, crop):
  return path if crop is None else f"{path} {list(crop.box)}"


def _size(path):
  try:
    return os.stat(path).st_size
  except (OSError, ValueError):
    return None
