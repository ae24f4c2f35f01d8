"""Loading of images for training and global descriptors."""

import numpy as np
from PIL import Image

from delf.base import errors, files
from delf.python import utils

# Mean of ImageNet's training images, BGR, as in mode 'caffe' of Keras's
# `imagenet_utils.preprocess_input`.
MEAN_BGR = (103.939, 116.779, 123.68)


def pil_imagenet_loader(
  path: files.Path,
  imsize: int | None,
  bounding_box: tuple[float, float, float, float] | None = None,
  preprocess: bool = True,
) -> np.ndarray:
  """Load an image, crop it to (x1, y1, x2, y2) in pixels and scale it down.

  Args:
    imsize: Largest side of the result, in pixels; never enlarges. For a crop it
      is that of the whole image: a box of half the image's longest side gets
      half of it.
    preprocess: Whether to return BGR minus the mean of ImageNet. (The original
      computes this, but returns the image without it.)

  Returns:
    [H, W, 3], float32 BGR with `preprocess`, else uint8 RGB.
  """
  image = utils.RgbLoader(path)
  if bounding_box is not None:
    full_side = max(image.size)
    image = _crop(image, bounding_box, path)
    if imsize is not None:
      imsize = imsize * max(image.size) / full_side
  if imsize is not None:
    image.thumbnail((imsize, imsize), Image.Resampling.LANCZOS)
  array = np.array(image)
  if not preprocess:
    return array
  return array[..., ::-1].astype(np.float32) - np.array(MEAN_BGR, np.float32)


def default_loader(
  path: files.Path,
  imsize: int | None,
  bounding_box: tuple[float, float, float, float] | None = None,
  preprocess: bool = True,
) -> np.ndarray:
  """Load an image as `pil_imagenet_loader` does."""
  return pil_imagenet_loader(path, imsize, bounding_box, preprocess)


def _crop(image, bounding_box, path):
  x1, y1, x2, y2 = bounding_box
  if not (0 <= x1 < x2 <= image.width and 0 <= y1 < y2 <= image.height):
    size = f"{image.width} x {image.height} pixels"
    text = f"the box {tuple(bounding_box)} is not inside the image, {size}"
    raise errors.InputError(text, path=path)
  return image.crop(bounding_box)
