"""The images of a run, and the parts of them, each with its output name."""

import collections
import dataclasses
import math
import os
from collections.abc import Iterable, Sequence

import numpy as np
from absl import logging
from PIL import Image

from delf.base import errors, files

# How often a box may be as long as the photo, per side: what reaches out of the
# photo is filled, and would fill the memory.
_LARGEST_BOX = 2


@dataclasses.dataclass(frozen=True)
class Crop:
  """A part of a photo, and whether the size limits shrink with it."""

  # x_min, y_min, x_max, y_max (exclusive) in pixels, rounded half to even.
  box: tuple[float, float, float, float]
  # Whether `max_image_size` and `min_image_size` are those of the whole photo.
  # DELG does this with query images, Detect-to-Retrieve does not, and the
  # published figures of each depend on it.
  scale_limits: bool = False

  def __post_init__(self):
    box = tuple(map(float, self.box))
    if len(box) != 4 or not all(map(math.isfinite, box)):
      raise errors.InputError(
        "a box of x_min, y_min, x_max, y_max in pixels", list(box)
      )
    object.__setattr__(self, "box", box)

  def cut(self, image: np.ndarray | Image.Image) -> tuple[np.ndarray, float]:
    """Cut the part out of an RGB photo; black where the box reaches out of it.

    An InputError says if the box is empty, beside the photo, far larger, or
    in shares of it.

    Returns:
      [h, w, 3] uint8, and the factor for the size limits: 1, or with
      `scale_limits` the longer side of the part over that of the photo.
    """
    if not isinstance(image, Image.Image):
      image = Image.fromarray(np.asarray(image))
    if min(self.box) >= 0 and max(self.box) <= 1:
      raise errors.InputError(
        f"a box in pixels of an image of {image.width} x {image.height}",
        f"{list(self.box)}, shares of it",
      )
    left, upper, right, lower = rounded = tuple(map(round, self.box))
    size = (right - left, lower - upper)
    is_outside = min(right, lower) <= 0 or left >= image.width
    is_outside |= upper >= image.height or min(size) <= 0
    if is_outside or any(
      side > _LARGEST_BOX * of_image
      for side, of_image in zip(size, image.size, strict=True)
    ):
      raise errors.InputError(
        f"a box in an image of {image.width} x {image.height} pixels",
        f"{list(self.box)}",
      )
    if min(left, upper) < 0 or right > image.width or lower > image.height:
      logging.warning(
        "Box %s reaches out of an image of %d x %d: black is added.",
        rounded,
        *image.size,
      )
    factor = max(size) / max(image.size) if self.scale_limits else 1.0
    return np.asarray(image.crop(rounded)), factor


@dataclasses.dataclass(frozen=True)
class Job:
  """One image, or part of one, to work on."""

  path: str
  name: str  # Path of its outputs in the folder, without extension.
  size: int | None = None  # Bytes of the file; None if remote or missing.
  crop: Crop | None = None
  label: str = ""  # Which part it is, for messages, such as "region 1".


def region_name(image: str, number: int) -> str:
  """Return the output name of a region: 0 for the whole image, boxes from 1."""
  return f"{image}_{number}"


def find(
  sources: Iterable[str | os.PathLike],
) -> tuple[list[str], list[str]]:
  """Return images and an output name for each.

  Sources are as of `files.find_images`. Images under a folder keep their
  sub-folder there, others go by base name. Equal names are replaced by paths
  from the common parent of all, then by these with their extension.
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
  # A remote path as if it were a local one.
  if "://" in path:
    return "/" + path.replace("://", "/")
  return os.path.abspath(path)


def base_names(images: Iterable[str | os.PathLike]) -> list[str]:
  """Return the base names of images, without extension."""
  return [os.path.splitext(os.path.basename(path))[0] for path in images]


def plan(
  images: Iterable[str | os.PathLike],
  names: Sequence[str] | None = None,
  crops: Sequence[Crop | None] | None = None,
) -> list[Job]:
  """Make the jobs of a run; an image that is repeated is done once.

  Names are output names without extension; base names if None. An InputError
  says if there are no images, two (or two parts of one) have one name, or a
  name leads out of the output folder.
  """
  images = [os.fspath(path) for path in images]
  if not images:
    raise errors.InputError("at least one image", "none")
  names = base_names(images) if names is None else names
  crops = [None] * len(images) if crops is None else crops
  owners = {}
  for path, name, crop in zip(images, names, crops, strict=True):
    files.check_inside(name)
    other = owners.setdefault(name, (path, crop))
    if other != (path, crop):
      both = [
        path if crop is None else f"{path} {list(crop.box)}"
        for path, crop in (other, (path, crop))
      ]
      raise errors.InputError(
        "a different output name for each image",
        f"{name!r} for both {both[0]} and {both[1]}",
      )
  return [
    Job(path, name, _size(path), crop) for name, (path, crop) in owners.items()
  ]


def _size(path):
  try:
    return os.stat(path).st_size
  except (OSError, ValueError):
    return None
