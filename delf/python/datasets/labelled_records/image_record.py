"""One record: a photo as JPEG, with its id and label."""

import cv2
import numpy as np

from delf.python import errors, utils
from delf.python.datasets.labelled_records import jpeg_header

ENCODED, LABEL, IDENTITY = "image/encoded", "image/class/label", "image/id"
# Pixels as they are stored: EXIF orientation is not applied, as in the
# original.
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def serialize(photo, data, height, width):
  """Returns a record of a photo, as the original writes it.

  Args:
    photo: photo_list.Photo.
    data: bytes of its JPEG, of three colours.
    height: In pixels.
    width: In pixels.

  Returns:
    bytes of a tf.train.Example, the same for the same photo.
  """
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


def parse(data, path, num_classes=None):
  """Reads what training needs of a record.

  Args:
    data: bytes of a serialized tf.train.Example.
    path: File that it is from, for errors.
    num_classes: Number of classes, or None if labels may be any.

  Returns:
    (bytes of the JPEG, label, id); the id is str.

  Raises:
    InputError: If it has no image or label, or a label outside of
      [0, num_classes); it names the file and the record's id.
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


def decode(data, path, identity):
  """Decodes the JPEG of a record.

  Args:
    data: bytes of the JPEG.
    path: File that it is from, for errors.
    identity: The record's id, for errors.

  Returns:
    [H, W, 3] uint8, BGR, pixels as they are stored; grey ones have three
    channels too.

  Raises:
    InputError: If it cannot be decoded or is too large; it names the file and
      the record's id.
  """
  image = None
  try:
    height, width, _ = jpeg_header.read(data)
    received = f"{width} x {height} pixels"
    if 0 < height * width <= utils.MAX_PIXELS:
      received = "one that cannot be decoded"
      image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)
  except (ValueError, cv2.error) as error:
    received = "one that cannot be decoded"
    received = str(error) if isinstance(error, ValueError) else received
  if image is None:
    where = f"{path}, record {identity!r}"
    raise errors.InputError("a whole JPEG", received, where)
  return image
