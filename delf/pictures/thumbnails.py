"""Small copies of photos, each made and stored once."""

import base64
import dataclasses
import io
import os

from PIL import Image

from delf.base import errors
from delf.python import utils

_QUALITY = 72
# Photos are decoded at this multiple of the copy's size at least, so that a
# JPEG decoded at a fraction looks the same.
_OVERSAMPLING = 2


@dataclasses.dataclass(frozen=True)
class Options:
  """Sizes of copies in pixels of the longer side, and the photos' rotation.

  The first copies of a page are large, until they have `large_bytes` of JPEG.
  `apply_rotation` (EXIF) must be as it was when features were extracted.
  """

  side: int = 160
  large_side: int = 480
  large_bytes: int = 6_000_000
  apply_rotation: bool = False


@dataclasses.dataclass(frozen=True)
class Thumbnail:
  """A copy: its number in the page, and the size of the photo itself."""

  number: int | None = None  # None: the photo cannot be shown.
  width: int = 4
  height: int = 3


class Thumbnails:
  """Makes copies, and remembers the number of each but not its content.

  Attributes:
    number: Number of copies made.
    problems: One line for each photo that cannot be shown.
  """

  def __init__(self, options: Options):
    self._options = options
    self._known = {None: Thumbnail()}
    self._bytes = 0
    self.number = 0
    self.problems = []

  def add(self, path: str | os.PathLike | None) -> tuple[Thumbnail, str | None]:
    """Return the copy of a photo, and its JPEG in base64 if it is new."""
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
    """(width, height) of a photo, and the copy as JPEG."""
    options = self._options
    large = self._bytes < options.large_bytes
    side = max(options.large_side if large else 0, options.side)
    height, width = utils.image_size(path)
    photo = utils.RgbLoader(
      path,
      apply_rotation=options.apply_rotation,
      at_least=_fit(width, height, side * _OVERSAMPLING),
    )
    if (photo.width > photo.height) != (width > height):  # Turned by EXIF.
      width, height = height, width
    size = _fit(width, height, side)
    copy = photo.resize(size, resample=Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    copy.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return (width, height), buffer.getvalue()


def _fit(width, height, side):
  """(width, height) shrunk, if need be, to a longest side."""
  share = min(1.0, side / max(width, height))
  return max(1, round(width * share)), max(1, round(height * share))
