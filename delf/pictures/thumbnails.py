"""Small copies of photos, each made and stored once."""

import base64
import dataclasses
import io
import os

from PIL import Image

from delf.base import errors
from delf.python import utils

_QUALITY = 72
# Long enough for any pixel of a copy to be one: 2 to 1 at least when it is made
# smaller, so that a JPEG decoded at a fraction looks the same.
_OVERSAMPLING = 2


@dataclasses.dataclass(frozen=True)
class Options:
  """How photos are held.

  Attributes:
    side: Longest side of a copy, in pixels.
    large_side: Longest side while the copies are few.
    large_bytes: Bytes of JPEG up to which copies are large: the first photos of
      a page, and all of one with few queries.
    apply_rotation: Whether photos are turned as their EXIF orientation says,
      which must be as it was when their features were extracted.
  """

  side: int = 160
  large_side: int = 480
  large_bytes: int = 6_000_000
  apply_rotation: bool = False


@dataclasses.dataclass(frozen=True)
class Thumbnail:
  """A small copy of a photo.

  Attributes:
    number: Which copy of the page it is; None where the photo cannot be shown.
    width: Width of the photo itself, in pixels.
    height: Height of the photo itself, in pixels.
  """

  number: int | None = None
  width: int = 4
  height: int = 3


class Thumbnails:
  """Makes copies; remembers for each path which copy it was, not the copy.

  Attributes:
    number: Number of copies made.
    problems: List of one line for each photo that cannot be shown.
  """

  def __init__(self, options):
    self._options = options
    self._known = {None: Thumbnail()}
    self._bytes = 0
    self.number = 0
    self.problems = []

  def add(self, path):
    """Returns (Thumbnail, its JPEG as base64 str or None if it is known)."""
    key = None if path is None else os.fspath(path)
    if key in self._known:
      return self._known[key], None
    try:
      size, data = self._make(key)
    except (OSError, errors.InputError) as error:
      self.problems.append(errors.one_line(error))
      self._known[key] = Thumbnail()
      return self._known[key], None
    self._known[key] = Thumbnail(self.number, *size)
    self.number += 1
    self._bytes += len(data)
    return self._known[key], base64.b64encode(data).decode("ascii")

  def _make(self, path):
    """Returns the photo's (width, height) and the copy as JPEG bytes."""
    options = self._options
    large = self._bytes < options.large_bytes
    side = max(options.large_side if large else 0, options.side)
    height, width = utils.image_size(path)
    shrunk = _fitted(width, height, side * _OVERSAMPLING)
    photo = utils.RgbLoader(
      path, apply_rotation=options.apply_rotation, at_least=shrunk
    )
    if (photo.width > photo.height) != (width > height):  # Turned by EXIF.
      width, height = height, width
    copy = photo.resize(
      _fitted(width, height, side), resample=Image.Resampling.LANCZOS
    )
    buffer = io.BytesIO()
    copy.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return (width, height), buffer.getvalue()


def _fitted(width, height, side):
  """Returns (width, height) shrunk, if need be, to a longest side."""
  share = min(1.0, side / max(width, height))
  return max(1, round(width * share)), max(1, round(height * share))
