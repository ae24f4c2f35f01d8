"""A photo's file as the JPEG that its record holds."""

import io

from PIL import Image

from delf.python import errors, files, utils
from delf.python.datasets.labelled_records import jpeg_header

# Of photos that are no JPEG of three colours, and are made one.
QUALITY = 95
# A JPEG is read at this part of its size, where the most of what is wrong with
# it shows in half the time.
_PART = 8


def read(path):
  """Reads a photo as JPEG of three colours.

  Args:
    path: Path of an image. A JPEG of three colours is kept as it is; others
      (grey, CMYK, PNG, ...) are made one, as the original's reader needs it.

  Returns:
    (bytes of a JPEG, height, width).

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is empty, no image, cut, cannot be decoded, or too large.
  """
  data = files.read_bytes(path)
  if data.startswith(b"\xff\xd8"):
    try:
      height, width, colours = jpeg_header.read(data)
    except ValueError as error:
      raise errors.InputError("a whole JPEG", str(error), path) from None
    if colours == 3:
      _check(data, height, width, path)
      return data, height, width
  image = utils.RgbLoader(path)
  encoded = io.BytesIO()
  image.save(encoded, "JPEG", quality=QUALITY)
  return encoded.getvalue(), image.height, image.width


def _check(data, height, width, path):
  """Raises InputError if a JPEG cannot be decoded."""
  if not 0 < height * width <= utils.MAX_PIXELS:
    raise errors.InputError(
      f"an image of at most {utils.MAX_PIXELS} pixels",
      f"{width} x {height}",
      path,
    )
  try:
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    image.draft("RGB", (width // _PART, height // _PART))
    image.load()
  except (OSError, ValueError, SyntaxError) as error:
    raise errors.InputError(
      "a whole JPEG", f"one that is damaged ({error})", path
    ) from None
