"""Parts of photos that are cut out before features are extracted."""

import dataclasses
import math

import numpy as np
from absl import logging
from PIL import Image

from delf.python import errors

# How often a box may be as long as the photo, per side. What reaches out of the
# photo is filled; a bound against boxes that would fill the memory.
_MOST_OF_A_SIDE = 2


@dataclasses.dataclass(frozen=True)
class Crop:
  """A part of a photo, and whether the size limits shrink with it.

  Attributes:
    box: (x_min, y_min, x_max, y_max) in pixels of the photo; floats are rounded
      half to even. The upper corner is not part of it.
    scale_limits: Whether `max_image_size` and `min_image_size` are those of the
      whole photo, so that the part is extracted at the scale that it has there.
      DELG does this with query images, Detect-to-Retrieve does not, and the
      published figures of each depend on it.
  """

  box: tuple
  scale_limits: bool = False

  def __post_init__(self):
    """Checks the box as far as it can be without the photo."""
    box = tuple(map(float, self.box))
    if len(box) != 4 or not all(map(math.isfinite, box)):
      raise errors.InputError(
        "a box of x_min, y_min, x_max, y_max in pixels", list(box)
      )
    object.__setattr__(self, "box", box)

  def cut(self, image):
    """Cuts the part out of a photo.

    Args:
      image: [H, W, 3] uint8 array or PIL.Image.Image of mode RGB.

    Returns:
      [h, w, 3] uint8, and the factor for the size limits: 1, or with
      `scale_limits` the longer side of the part over that of the photo. Where
      the box reaches out of the photo the part is black, as in the original,
      and a warning is logged.

    Raises:
      InputError: If the box is empty, beside the photo, or far larger; or
        within the first pixel, as one that is given in shares of the photo.
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
    beside = min(right, lower) <= 0 or left >= image.width
    if beside or upper >= image.height or min(size) <= 0:
      self._refuse(image)
    if any(
      ours > _MOST_OF_A_SIDE * theirs
      for ours, theirs in zip(size, image.size, strict=True)
    ):
      self._refuse(image)
    if min(left, upper) < 0 or right > image.width or lower > image.height:
      logging.warning(
        "Box %s reaches out of an image of %d x %d: black is added.",
        rounded,
        *image.size,
      )
    factor = max(size) / max(image.size) if self.scale_limits else 1.0
    return np.asarray(image.crop(rounded)), factor

  def _refuse(self, image):
    raise errors.InputError(
      f"a box in an image of {image.width} x {image.height} pixels",
      f"{list(self.box)}",
    )
