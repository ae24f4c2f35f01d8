"""Images as arrays: loading and resizing.

JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, JPEG 2000 and AVIF are read. Conversions
to 8-bit RGB, all as the original has them: grey and palette images become their
colours; an alpha channel is dropped, not blended; CMYK goes without a colour
profile; of an animation the first frame is taken; of 16-bit colour the upper
byte is kept; 16-bit grey saturates at 255 unless `rescale_grey16` asks for the
whole range. EXIF orientation is ignored unless `apply_rotation` is set:
features on disk are in raw coordinates.
"""

import contextlib
import io

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from delf.base import errors, files
from delf.protos import delf_config_pb2

# Images with more pixels are refused before they are decoded.
MAX_PIXELS = 30_000 * 30_000

# The formats that are tried, in Pillow's names; MPO and JPEG share a reader.
_FORMATS = (
  "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF",
)  # fmt: skip
# EXIF's tag of how an image is turned, and its values for sides that change.
_ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)
# libjpeg fills what is missing when it meets the marker of the image's end.
_JPEG_END = b"\xff\xd9"


def RgbLoader(
  path: files.Path,
  apply_rotation: bool = False,
  rescale_grey16: bool = False,
  at_least: tuple[int, int] | None = None,
) -> Image.Image:
  """Load an image of mode RGB; safe to call from several threads.

  Of a cut JPEG the missing part is grey, and a warning is logged. InputError if
  it cannot be decoded, or has over 30 000 x 30 000 pixels.

  Args:
    apply_rotation: Whether to turn the image as its EXIF orientation says.
    rescale_grey16: Whether 16-bit grey is divided by 257, in place of being cut
      at 255 as in the original.
    at_least: Sufficient (width, height) in pixels: a JPEG may be decoded at
      1/2, 1/4 or 1/8 of its size, which is faster.
  """
  data = files.read_bytes(path)
  return decode(data, path, apply_rotation, rescale_grey16, at_least)


def decode(
  data: bytes,
  path: files.Path,
  apply_rotation: bool = False,
  rescale_grey16: bool = False,
  at_least: tuple[int, int] | None = None,
) -> Image.Image:
  """Decode the content of an image file, called `path` in errors."""
  if not data:
    raise errors.InputError("the file is empty", path=path)
  with _broken_in_one_line(path):
    image = _decode(data, path, at_least)
    return convert(image, apply_rotation, rescale_grey16, path)


def convert(
  image: Image.Image,
  apply_rotation: bool = False,
  rescale_grey16: bool = False,
  path: files.Path = "the image",
) -> Image.Image:
  """Convert a decoded image to 8-bit RGB, as the module says."""
  if apply_rotation:
    image = ImageOps.exif_transpose(image)
  return _to_rgb(image, rescale_grey16, path)


def image_size(
  path: files.Path, apply_rotation: bool = False
) -> tuple[int, int]:
  """Return (height, width) of a local image, from its header alone."""
  with open(path, "rb") as file, _broken_in_one_line(path):
    image = _open(file, path)
    if apply_rotation and image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE:
      return image.width, image.height
    return image.height, image.width


def ResizeImage(
  image: np.ndarray,
  config: delf_config_pb2.DelfConfig,
  resize_factor: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
  """Resize an image, [H, W, 3] uint8, to the limits of a configuration.

  The largest side is scaled down to `max_image_size`, else up to
  `min_image_size`, each times the factor, else left; sides are rounded half to
  even; a side never falls under 1.

  Returns:
    [H', W', 3] uint8, and [2] float64 (H' / H, W' / W).
  """
  if not resize_factor >= 0:
    raise errors.InputError(
      "a resize_factor that is not negative", resize_factor
    )
  image = np.asarray(image)
  if image.ndim != 3 or image.shape[2] != 3 or not image.size:
    raise errors.InputError(
      "an image of shape [height, width, 3]", f"shape {list(image.shape)}"
    )
  if image.dtype != np.uint8:
    raise errors.InputError("an image of type uint8", f"type {image.dtype}")
  height, width = target_size(image.shape[:2], config, resize_factor)
  scale_factors = np.array([height, width]) / image.shape[:2]
  if (height, width) == image.shape[:2]:
    return image, scale_factors
  resized = Image.fromarray(image).resize(
    (width, height), resample=Image.Resampling.BILINEAR
  )
  return np.array(resized), scale_factors


def target_size(
  size: tuple[int, int],
  config: delf_config_pb2.DelfConfig,
  resize_factor: float = 1.0,
) -> tuple[int, int]:
  """Return (height, width) that `ResizeImage` makes of an image of a size."""
  largest = max(size)
  scale = 1.0
  max_size = resize_factor * config.max_image_size
  min_size = resize_factor * config.min_image_size
  if config.max_image_size >= 0 and largest > max_size:
    scale = max_size / largest
  elif config.min_image_size >= 0 and largest < min_size:
    scale = min_size / largest
  if not scale:
    raise errors.InputError("a size limit over 0", f"{max_size}")
  if config.use_square_images:
    size = (largest, largest)
  height, width = (max(1, round(side * scale)) for side in size)
  return height, width


@contextlib.contextmanager
def _broken_in_one_line(path):
  """Turn whatever readers raise about a broken file into an InputError."""
  try:
    yield
  except errors.InputError:
    raise
  except Exception as error:
    reason = " ".join(str(error).split()) or type(error).__name__
    received = f"one that cannot be decoded ({reason})"
    raise errors.InputError("an image", received, path) from None


def _open(file, path):
  """Open an image in a binary file without decoding it.

  `Image.open` compares the size with a setting of the whole process, 0.18
  gigapixels; this has its own limit, and changes no setting.
  """
  Image.init()
  start = file.read(16)
  file.seek(0)
  for name in _FORMATS:
    factory, accept = Image.OPEN.get(name, (None, lambda _: False))
    accepted = accept(start)
    if isinstance(accepted, str):  # Pillow was built without this format.
      raise errors.InputError("an image that Pillow reads", accepted, path)
    if not accepted:
      continue
    image = factory(file, "")
    if image.width * image.height > MAX_PIXELS:
      raise errors.InputError(
        f"an image of at most {MAX_PIXELS} pixels",
        f"{image.width} x {image.height}",
        path,
      )
    return image
  raise errors.InputError("an image", "a file of another kind", path)


def _decode(data, path, at_least):
  """Decode an image, of a cut JPEG the part that exists."""
  image = _open(io.BytesIO(data), path)
  image.draft(None, at_least)  # Does nothing but with a size, to a JPEG.
  try:
    image.load()
  except OSError:
    if image.format not in ("JPEG", "MPO"):
      raise
    image = _open(io.BytesIO(data + _JPEG_END), path)
    image.draft(None, at_least)
    image.load()
    logging.warning("%s: the JPEG is cut; what is missing is grey", path)
  return image


def _to_rgb(image, rescale_grey16, path):
  """Convert an image to 8-bit RGB, as the module says."""
  if image.mode == "F":
    raise errors.InputError("an image of integers", "one of floats", path)
  if image.mode == "I" or image.mode.startswith("I;16"):
    grey = np.asarray(image)
    if rescale_grey16:
      grey = grey // 257
    elif grey.max() > 255:
      logging.warning("%s: 16-bit grey over 255 is cut at 255", path)
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
  if image.mode == "RGB":
    return image
  if "transparency" in image.info:
    # Pillow asks for this way; the colours are the same.
    image = image.convert("RGBA")
  return image.convert("RGB")
