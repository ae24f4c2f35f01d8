"""Photos in the forms that people have them in."""

import os
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from delf.base import errors
from delf.formats import features
from delf.python import utils

# Path (local, or a URL that TensorFlow reads), the bytes of an image file, such
# a file opened in binary mode, a Pillow image, or pixels [H, W, 3] uint8, RGB.
Photo = str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray

# Label of a photo without a path, in errors.
_UNNAMED = "the photo"


def is_path(photo: Any) -> bool:
  """Return whether a photo is given by its path."""
  return isinstance(photo, str | os.PathLike)


def label(photo: Any) -> str:
  """Return the path of a photo, or a few words for one without."""
  return os.fspath(photo) if is_path(photo) else _UNNAMED


def hold(photo: Photo) -> Photo:
  """Return the photo, or the content of a file, which is read once."""
  return photo.read() if hasattr(photo, "read") else photo


def pixels(photo: Photo, rotate: bool = False) -> np.ndarray:
  """Return the pixels of a photo, [H, W, 3] uint8, RGB.

  With `rotate` its EXIF orientation is applied, which an array does not have.
  InputError if it cannot be decoded, or is an array of another shape or type.
  """
  if isinstance(photo, np.ndarray):
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
      raise errors.InputError(
        "an array of pixels must be [height, width, 3] uint8, RGB, not"
        f" {list(photo.shape)} {photo.dtype}"
      )
    return photo
  photo = hold(photo)
  if isinstance(photo, Image.Image):
    image = utils.convert(photo, rotate, path=_UNNAMED)
  elif isinstance(photo, bytes | bytearray | memoryview):
    image = utils.decode(bytes(photo), _UNNAMED, apply_rotation=rotate)
  elif isinstance(photo, str | os.PathLike):
    image = utils.RgbLoader(photo, apply_rotation=rotate)
  else:
    kinds = "a path, bytes, a file, a Pillow image or an array"
    raise errors.InputError(f"a photo is {kinds}, not {type(photo).__name__}")
  return np.asarray(image)


def pixels_of(extracted: features.ImageFeatures) -> np.ndarray | None:
  """Return the pixels of the photo of features; None if they are unknown."""
  photo = extracted.path if extracted.image is None else extracted.image
  return None if photo is None else pixels(photo, extracted.is_rotated)
