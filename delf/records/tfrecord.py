"""TFRecord files of photos, as JPEG with id and label, and their records."""

import contextlib
import functools
import glob
import io
import os
import re
import struct
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures

import cv2
import google_crc32c
import numpy as np
from absl import logging
from PIL import Image

from delf.base import errors, files
from delf.python import utils
from delf.records import photo_list

# Bytes of a record before and behind its data.
_HEAD, _FOOT = 12, 4
_LENGTH = 8
_MASK = 0xA282EAD8
_MOST_OPEN = 200  # Systems allow a program 256 files or more.
_THREADS = 16
# `<split>-<place>-of-<number>`, as all writers of TFRecords name shards.
_SHARD = re.compile(r"(.+)-\d+-of-(\d+)", re.DOTALL)
# A number of shards that is larger is a part of another name.
_MOST_SHARDS = 100_000
# The one line of an InputError in the text of a TensorFlow error.
_LINE = re.compile(
  r"^.*?InputError: (?:(?P<path>.*?): )?"
  r"expected (?P<expected>.*), received (?P<received>.*)$",
  re.MULTILINE,
)

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


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
  """Raise the InputError in the text of an error of a tf.data.Dataset."""
  import tensorflow as tf

  try:
    yield
  except tf.errors.OpError as error:
    line = _LINE.search(error.message)
    if not line:
      raise
    raise errors.InputError(
      line["expected"], line["received"], line["path"]
    ) from None


def masked_crc32c(data: bytes) -> int:
  """Return the checksum as TFRecord files have it, under 2^32."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def pack(data: bytes) -> bytes:
  """Return the bytes of a record in a file."""
  size = len(data).to_bytes(_LENGTH, "little")
  return b"".join([size, _checksum(size), data, _checksum(data)])


def _data_size(head):
  return int.from_bytes(head[:_LENGTH], "little")


def _checksum(data):
  return masked_crc32c(data).to_bytes(_FOOT, "little")


class RecordFiles:
  """The records of several files, numbered from 0; 13 bytes of memory each."""

  def __init__(self, pattern: str | Iterable[str]):
    """Find files by patterns, such as `data/train*`, and index them."""
    self.paths = _find(pattern)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      starts = list(pool.map(_starts, self.paths))
    numbers = [len(each) for each in starts]
    self._starts = np.concatenate(starts)
    self._files = np.repeat(np.arange(len(starts), dtype=np.int32), numbers)
    self._checked = np.zeros([len(self._starts)], bool)
    self._lock = threading.Lock()
    self._open = {}
    if not len(self._starts):
      raise errors.InputError("records", "files of none", pattern)

  def __len__(self) -> int:
    return len(self._starts)

  def path(self, number: int) -> str:
    """Return the path of the file that a record is in."""
    return self.paths[self._files[number]]

  def read(self, number: int) -> bytes:
    """Read one record, thread-safe; compare checksums the first time."""
    path, start = self.path(number), int(self._starts[number])
    try:
      record = self._read(path, start, not self._checked[number])
    except OSError as error:
      reason = error.strerror or str(error)
      raise errors.InputError("a file that can be read", reason, path) from None
    if record is None:
      raise errors.InputError(
        "a whole record", f"a damaged one at byte {start}", path
      )
    self._checked[number] = True
    return record

  def _read(self, path, start, check):
    """Return a record, or None if it is damaged."""
    with self._lock:
      if path not in self._open:
        if len(self._open) >= _MOST_OPEN:
          del self._open[next(iter(self._open))]
        self._open[path] = _open(path)
      file = self._open[path]
    head = file.read(start, _HEAD)
    size = _data_size(head) + _FOOT
    if start + _HEAD + size > file.size():
      return None
    body = file.read(start + _HEAD, size)
    if len(body) < size:
      return None
    data, foot = body[:-_FOOT], body[-_FOOT:]
    if not check:
      return data
    whole = head[_LENGTH:] == _checksum(head[:_LENGTH])
    return data if whole and foot == _checksum(data) else None


def _open(path):
  if files.is_remote(path):
    import tensorflow as tf

    return _LockedFile(tf.io.gfile.GFile(path, "rb"))
  if hasattr(os, "pread"):
    return _LocalFile(path)
  return _LockedFile(open(path, "rb", buffering=_HEAD))


class _LocalFile:
  """A file that any number of threads read; closed when nothing refers to it.

  Not earlier: a thread that still reads may find another file of its number.
  """

  def __init__(self, path):
    self._number = os.open(path, os.O_RDONLY)

  def __del__(self, close=os.close):
    if hasattr(self, "_number"):
      close(self._number)

  def size(self):
    return os.fstat(self._number).st_size

  def read(self, start, number):
    return os.pread(self._number, number, start)


class _LockedFile:
  """A file that one thread reads at a time; closed in the same way."""

  def __init__(self, file):
    self._file, self._lock = file, threading.Lock()

  def __del__(self):
    self._file.close()

  def size(self):
    with self._lock:
      self._file.seek(0, os.SEEK_END)
      return self._file.tell()

  def read(self, start, number):
    with self._lock:
      self._file.seek(start)
      return self._file.read(number)


def _starts(path):
  """Return where the records of a file start, [N] int64."""
  file, starts, start = _open(path), [], 0
  size = file.size()
  while start < size:
    head = file.read(start, _HEAD)
    record = _HEAD + _data_size(head) + _FOOT
    if len(head) < _HEAD or start + record > size:
      where = "at its start" if not start else f"at byte {start} of {size}"
      raise errors.InputError(
        "a whole TFRecord file", f"one that is cut or damaged {where}", path
      )
    starts.append(start)
    start += record
  return np.array(starts, np.int64)


def _find(pattern):
  patterns = [pattern] if isinstance(pattern, (str, os.PathLike)) else pattern
  paths = {
    path
    for one in patterns
    for path in _glob(os.fspath(one))
    if files.is_remote(path) or os.path.isfile(path)
  }
  if not paths:
    names = ", ".join(map(os.fspath, patterns))
    raise FileNotFoundError(f"{names}: expected TFRecord files, found none")
  missing = missing_shards(paths)
  if missing:
    _warn_of(tuple(missing))
  return sorted(paths)


def missing_shards(paths: Iterable[str]) -> list[str]:
  """Find shards that should lie beside existing ones, sorted.

  Of `train-00001-of-00008` and others of eight, all eight belong together. A
  shard that exists, and is not among `paths`, was left out on purpose.
  """
  matches = filter(None, map(_SHARD.fullmatch, paths))
  whole = {
    f"{start}-{i:0{len(number)}d}-of-{number}"
    for start, number in {match.group(1, 2) for match in matches}
    if int(number) <= _MOST_SHARDS
    for i in range(int(number))
  }
  return sorted(p for p in whole.difference(paths) if not _glob(glob.escape(p)))


# A run opens its files for each validation anew.
@functools.cache
def _warn_of(missing):
  logging.warning(
    "shards of records are missing, and the photos in them: %s",
    photo_list.first_names(missing),
  )


def _glob(pattern):
  if not files.is_remote(pattern):
    return glob.glob(pattern)
  import tensorflow as tf

  return tf.io.gfile.glob(pattern)


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
  """Return JPEG, label and id of a record; InputError if they are not right."""
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
    expected = f"an image of at most {utils.MAX_PIXELS} pixels"
    raise errors.InputError(expected, f"{width} x {height}", path)
  try:
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    image.draft("RGB", (width // _PART, height // _PART))
    image.load()
  except (OSError, ValueError, SyntaxError) as error:
    raise errors.InputError(
      "a whole JPEG", f"one that is damaged ({error})", path
    ) from None
