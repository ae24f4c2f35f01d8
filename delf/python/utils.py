"""Load images and resize them.

JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, JPEG 2000 and AVIF are read. Images are
converted to 8-bit RGB as in the original: an alpha channel is dropped, not
blended; CMYK is converted without a colour profile; an animation is reduced to
its first frame, and 16-bit colour to its upper byte; 16-bit grey saturates at
255 unless `rescale_grey16` is set. EXIF orientation is ignored unless
`apply_rotation` is set, since features on disk are in raw coordinates.
"""

import contextlib
import io

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from delf.base import errors, files
from delf.protos import delf_config_pb2

# Images with more pixels are rejected before decoding.
MAX_PIXELS = 30_000 * 30_000

# Pillow's names of the formats that are tried; MPO and JPEG share a reader.
_FORMATS = (
  "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF",
)  # fmt: skip
# EXIF tag of the orientation, and its values that swap width and height.
_ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)
# End-of-image marker, at which libjpeg fills the missing part of a cut JPEG.
_JPEG_END = b"\xff\xd9"


def RgbLoader(
  path: files.Path,
  apply_rotation: bool = False,
  rescale_grey16: bool = False,
  at_least: tuple[int, int] | None = None,
) -> Image.Image:
  """Load an image in mode RGB; thread-safe.

  The missing part of a cut JPEG is grey, and a warning is logged. InputError is
  raised if the image cannot be decoded, or has over 30 000 x 30 000 pixels.

  Args:
    apply_rotation: Whether to apply the EXIF orientation.
    rescale_grey16: Whether to divide 16-bit grey by 257 instead of clipping it
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
  """Decode the content of an image file; errors name `path`."""
  if not data:
    raise errors.InputError("the file is empty", path=path)
  with _broken_in_one_line(path):
    image = _open(io.BytesIO(data), path)
    image.draft(None, at_least)  # Has an effect only on a JPEG, with a size.
    try:
      image.load()
    except OSError:
      if image.format not in ("JPEG", "MPO"):
        raise
      image = _open(io.BytesIO(data + _JPEG_END), path)
      image.draft(None, at_least)
      image.load()
      logging.warning("%s: the JPEG is cut; the missing part is grey", path)
    return convert(image, apply_rotation, rescale_grey16, path)


def convert(
  image: Image.Image,
  apply_rotation: bool = False,
  rescale_grey16: bool = False,
  path: files.Path = "the image",
) -> Image.Image:
  """Convert a decoded image to 8-bit RGB, as in `RgbLoader`."""
  if apply_rotation:
    image = ImageOps.exif_transpose(image)
  if image.mode == "F":
    raise errors.InputError(
      "an image must have integers, not floats", path=path
    )
  if image.mode == "I" or image.mode.startswith("I;16"):
    grey = np.asarray(image)
    if rescale_grey16:
      grey = grey // 257
    elif grey.max() > 255:
      logging.warning("%s: 16-bit grey over 255 is clipped at 255", path)
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
  if image.mode == "RGB":
    return image
  if "transparency" in image.info:
    # Pillow recommends this; the colours are the same.
    image = image.convert("RGBA")
  return image.convert("RGB")


def image_size(
  path: files.Path, apply_rotation: bool = False
) -> tuple[int, int]:
  """Read (height, width) from the header of a local image."""
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

  The larger side is scaled down to `max_image_size` or up to `min_image_size`,
  each multiplied by the factor. Sides are rounded half to even and are at least
  1.

  Returns:
    [H', W', 3] uint8, and [2] float64 (H' / H, W' / W).
  """
  if not resize_factor >= 0:
    message = f"resize_factor must be 0 or more, not {resize_factor}"
    raise errors.InputError(message)
  image = np.asarray(image)
  if image.ndim != 3 or image.shape[2] != 3 or not image.size:
    shape = list(image.shape)
    raise errors.InputError(
      f"an image must have shape [height, width, 3], not {shape}"
    )
  if image.dtype != np.uint8:
    raise errors.InputError(f"an image must be uint8, not {image.dtype}")
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
  """Return (height, width) to which `ResizeImage` resizes an image."""
  largest = max(size)
  scale = 1.0
  max_size = resize_factor * config.max_image_size
  min_size = resize_factor * config.min_image_size
  if config.max_image_size >= 0 and largest > max_size:
    scale = max_size / largest
  elif config.min_image_size >= 0 and largest < min_size:
    scale = min_size / largest
  if not scale:
    raise errors.InputError(f"a size limit must be over 0, not {max_size}")
  if config.use_square_images:
    size = (largest, largest)
  height, width = (max(1, round(side * scale)) for side in size)
  return height, width


@contextlib.contextmanager
def _broken_in_one_line(path):
  """Turn any exception about a broken file into an InputError."""
  try:
    yield
  except errors.InputError:
    raise
  except Exception as error:
    reason = " ".join(str(error).split()) or type(error).__name__
    message = f"the image cannot be decoded ({reason})"
    raise errors.InputError(message, path=path) from None


def _open(file, path):
  """Open an image in a binary file without decoding it.

  `Image.open` has a process-wide limit of 0.18 gigapixels; this function has a
  higher one and changes no setting.
  """
  Image.init()
  start = file.read(16)
  file.seek(0)
  for name in _FORMATS:
    factory, accept = Image.OPEN.get(name, (None, None))
    accepted = accept and accept(start)
    if isinstance(accepted, str):  # Pillow was built without this format.
      message = f"Pillow cannot read the image: {accepted}"
      raise errors.InputError(message, path=path)
    if not accepted or factory is None:
      continue
    image = factory(file, "")
    if image.width * image.height > MAX_PIXELS:
      raise errors.InputError(
        f"an image must have at most {MAX_PIXELS} pixels, not "
        f"{image.width} x {image.height}",
        path=path,
      )
    return image
  raise errors.InputError("not an image but a file of another kind", path=path)
