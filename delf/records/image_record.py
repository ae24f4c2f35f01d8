"""One record: a photo as JPEG, with its id and label."""

import io
import struct

import cv2
import numpy as np
from PIL import Image

from delf.base import errors, files
from delf.python import utils
from delf.records import photo_list

ENCODED, LABEL, IDENTITY = "image/encoded", "image/class/label", "image/id"
# Of photos that are no JPEG of three colours, and are made one.
QUALITY = 95
# Pixels as they are stored: EXIF orientation is not applied, as in the
# original.
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
# A JPEG is read at this part of its size, where the most of what is wrong with
# it shows in half the time.
_PART = 8

# Markers without a length: those of restarts, start and end, and TEM.
_BARE = frozenset([0x01, *range(0xD0, 0xD9)])
# Start of frame, in all of its kinds; DHT, JPG and DAC lie among them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_END = b"\xff\xd9"


def read_jpeg_size(data: bytes) -> tuple[int, int, int]:
  """Return (height, width, components) of a JPEG; ValueError if it is cut."""
  if data[:3] != b"\xff\xd8\xff":
    raise ValueError("data that are no JPEG")
  place, end = 2, len(data)
  while place + 4 <= end and data[place] == 0xFF:
    marker = data[place + 1]
    if marker == 0xFF:  # Padding.
      place += 1
      continue
    if marker in _BARE:
      place += 2
      continue
    if marker in _FRAMES and place + 10 <= end:
      if data.rfind(_END, place) < 0:
        raise ValueError("a JPEG that is cut")
      return struct.unpack_from(">HHB", data, place + 5)
    if marker == _START_OF_SCAN:
      break
    place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
  raise ValueError("a JPEG whose header is damaged or cut")


def serialize(
  photo: photo_list.Photo, data: bytes, height: int, width: int
) -> bytes:
  """Return the tf.train.Example, with the original's features, of a JPEG."""
  import tensorflow as tf

  values = {
    "image/height": height,
    "image/width": width,
    "image/channels": 3,
    "image/colorspace": b"RGB",
    "image/format": b"JPEG",
    IDENTITY: photo.identity.encode("utf-8", "surrogateescape"),
    ENCODED: data,
  }
  if photo.label is not None:
    values[LABEL] = photo.label
  example = tf.train.Example()
  for name, value in values.items():
    feature = example.features.feature[name]
    if isinstance(value, bytes):
      feature.bytes_list.value.append(value)
    else:
      feature.int64_list.value.append(value)
  return example.SerializeToString(deterministic=True)


def parse(
  data: bytes, path: str, num_classes: int | None = None
) -> tuple[bytes, int, str]:
  """Return JPEG, label and id of a serialized tf.train.Example.

  InputError if it has no image, or no label in [0, num_classes).
  """
  import tensorflow as tf
  from google.protobuf import message

  try:
    features = tf.train.Example.FromString(data).features.feature
  except message.DecodeError:
    raise errors.InputError(
      "records of photos", "a record of another kind", path
    ) from None
  named = features[IDENTITY].bytes_list.value if IDENTITY in features else ()
  identity = named[0].decode("utf-8", "replace") if named else ""
  where = f"{path}, record {identity!r}"
  for name, kind in ((ENCODED, "bytes_list"), (LABEL, "int64_list")):
    if name not in features or not getattr(features[name], kind).value:
      others = ", ".join(sorted(features))[:80] or "no features"
      raise errors.InputError(f"a record with {name}", others, where)
  label = features[LABEL].int64_list.value[0]
  if label < 0 or (num_classes is not None and label >= num_classes):
    most = "" if num_classes is None else f" to {num_classes - 1}"
    raise errors.InputError(f"a label from 0{most}", label, where)
  return features[ENCODED].bytes_list.value[0], label, identity


def decode(data: bytes, path: str, identity: str) -> np.ndarray:
  """Decode the JPEG of a record to [H, W, 3] uint8, BGR.

  Pixels are as stored; grey photos have three channels too.
  """
  image = None
  try:
    height, width, _ = read_jpeg_size(data)
    received = f"{width} x {height} pixels"
    if 0 < height * width <= utils.MAX_PIXELS:
      received = "one that cannot be decoded"
      image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)
  except ValueError as error:
    received = str(error)
  except cv2.error:
    pass
  if image is None:
    where = f"{path}, record {identity!r}"
    raise errors.InputError("a whole JPEG", received, where)
  return image


def read_photo_bytes(path: files.Path) -> tuple[bytes, int, int]:
  """Read a photo as JPEG of three colours; return it, its height and width.

  Such a JPEG is kept as it is; others (grey, CMYK, PNG, ...) are converted, as
  the original's reader needs it.
  """
  data = files.read_bytes(path)
  if data.startswith(b"\xff\xd8"):
    try:
      height, width, colours = read_jpeg_size(data)
    except ValueError as error:
      raise errors.InputError("a whole JPEG", str(error), path) from None
    if colours == 3:
      _check_jpeg(data, height, width, path)
      return data, height, width
  image = utils.RgbLoader(path)
  encoded = io.BytesIO()
  image.save(encoded, "JPEG", quality=QUALITY)
  return encoded.getvalue(), image.height, image.width


def _check_jpeg(data, height, width, path):
  """Raise InputError if a JPEG cannot be decoded."""
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
