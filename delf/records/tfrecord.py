"""TFRecord files of photos: JPEG data with id and label."""

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

# Bytes of a record before and after its data.
_HEAD, _FOOT = 12, 4
_LENGTH = 8
_MASK = 0xA282EAD8
_MOST_OPEN = 200  # Systems allow 256 open files or more.
_THREADS = 16
# `<split>-<index>-of-<number>`, the usual names of shards.
_SHARD = re.compile(r"(.+)-\d+-of-(\d+)", re.DOTALL)
# A larger number is part of a name, not a number of shards.
_MOST_SHARDS = 100_000
# The line of an InputError in the text of a TensorFlow error.
_LINE = re.compile(
  r"^.*?InputError: (?:(?P<path>.*?): )?(?P<message>.*)$", re.MULTILINE
)

ENCODED, LABEL, IDENTITY = "image/encoded", "image/class/label", "image/id"
# Of photos that are converted to JPEG of three colours.
QUALITY = 95
# As in the original, EXIF orientation is not applied.
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
# JPEGs are checked at 1/8 of their size: most damage shows, in half the time.
_PART = 8

# Markers without a length: restarts, start, end, and TEM.
_BARE = frozenset([0x01, *range(0xD0, 0xD9)])
# All kinds of start of frame; DHT, JPG and DAC lie among them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_END = b"\xff\xd9"


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
  """Raise the InputError in an error of a tf.data.Dataset by itself."""
  import tensorflow as tf

  try:
    yield
  except tf.errors.OpError as error:
    line = _LINE.search(error.message)
    if not line:
      raise
    raise errors.InputError(line["message"], path=line["path"]) from None


def masked_crc32c(data: bytes) -> int:
  """Return the checksum that TFRecord files use, under 2^32."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def pack(data: bytes) -> bytes:
  """Return data with the framing of a record."""
  size = len(data).to_bytes(_LENGTH, "little")
  return b"".join([size, _checksum(size), data, _checksum(data)])


def _body_size(head):
  return int.from_bytes(head[:_LENGTH], "little") + _FOOT


def _checksum(data):
  return masked_crc32c(data).to_bytes(_FOOT, "little")


class RecordFiles:
  """Records of files, numbered from 0; each takes 13 bytes in memory."""

  def __init__(self, pattern: str | Iterable[str]):
    """Find and index the files of patterns such as `data/train*`."""
    self.paths = _find(pattern)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      starts = list(pool.map(_starts, self.paths))
    numbers = [len(each) for each in starts]
    self._starts = np.concatenate(starts)
    self._files = np.repeat(np.arange(len(starts), dtype=np.int32), numbers)
    self._checked = np.zeros([len(self._starts)], bool)
    self._lock = threading.Lock()
    self._open: dict[str, _LocalFile | _LockedFile] = {}
    if not len(self._starts):
      raise errors.InputError(f"the files of {pattern} have no records")

  def __len__(self) -> int:
    return len(self._starts)

  def path(self, number: int) -> str:
    """Return the path of the file of a record."""
    return self.paths[self._files[number]]

  def read(self, number: int) -> bytes:
    """Read a record, in any thread; verify its checksums the first time."""
    path, start = self.path(number), int(self._starts[number])
    try:
      record = self._read(path, start, not self._checked[number])
    except OSError as error:
      reason = error.strerror or str(error)
      raise errors.InputError(f"cannot be read: {reason}", path=path) from None
    if record is None:
      raise errors.InputError(f"record at byte {start} is damaged", path=path)
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
    size = _body_size(head)
    if start + _HEAD + size > file.size():
      return None
    body = file.read(start + _HEAD, size)
    data, sums = body[:-_FOOT], (head[_LENGTH:], body[-_FOOT:])
    if len(body) < size:
      return None
    if check and sums != (_checksum(head[:_LENGTH]), _checksum(data)):
      return None
    return data


def _open(path):
  if files.is_remote(path):
    import tensorflow as tf

    return _LockedFile(tf.io.gfile.GFile(path, "rb"))
  if hasattr(os, "pread"):
    return _LocalFile(path)
  return _LockedFile(open(path, "rb", buffering=_HEAD))


class _LocalFile:
  """A file for any number of threads, closed after its last reference.

  If it was closed earlier, a reading thread could get another file's data.
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
  """A file for one thread at a time, closed after its last reference."""

  def __init__(self, file):
    self._file, self._lock = file, threading.Lock()

  def __del__(self) -> None:
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
  """Return the bytes at which the records of a file start, [N] int64."""
  file, starts, start = _open(path), [], 0
  size = file.size()
  while start < size:
    head = file.read(start, _HEAD)
    record = _HEAD + _body_size(head)
    if len(head) < _HEAD or start + record > size:
      where = "at its start" if not start else f"at byte {start} of {size}"
      text = f"the TFRecord file is cut or damaged {where}"
      raise errors.InputError(text, path=path)
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
    raise FileNotFoundError(f"{names}: no such TFRecord files")
  if missing := missing_shards(paths):
    _warn_of(tuple(missing))
  return sorted(paths)


def missing_shards(paths: Iterable[str]) -> list[str]:
  """Find missing shards beside `paths`, sorted, such as others "of-00008".

  Shards that exist but are not in `paths` were left out on purpose.
  """
  matches = filter(None, map(_SHARD.fullmatch, paths))
  whole = {
    f"{start}-{i:0{len(number)}d}-of-{number}"
    for start, number in {match.group(1, 2) for match in matches}
    if int(number) <= _MOST_SHARDS
    for i in range(int(number))
  }
  return sorted(p for p in whole.difference(paths) if not _glob(glob.escape(p)))


# Once per run, although each validation opens the files again.
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
  """Return (height, width, components) of a JPEG, or raise ValueError."""
  if data[:3] != b"\xff\xd8\xff":
    raise ValueError("it is no JPEG")
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
        raise ValueError("the JPEG is cut")
      return struct.unpack_from(">HHB", data, place + 5)
    if marker == _START_OF_SCAN:
      break
    place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
  raise ValueError("the header of the JPEG is damaged or cut")


def serialize(
  photo: photo_list.Photo, data: bytes, height: int, width: int
) -> bytes:
  """Return the serialized tf.train.Example of a JPEG, as in the original."""
  import tensorflow as tf

  values: dict[str, bytes | int] = {
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
  """Return JPEG, label and id of a record; raise InputError if one is bad."""
  import tensorflow as tf
  from google.protobuf import message

  try:
    features = tf.train.Example.FromString(data).features.feature
  except message.DecodeError:
    raise errors.InputError("a record of another kind", path=path) from None
  named = features[IDENTITY].bytes_list.value if IDENTITY in features else ()
  identity = named[0].decode("utf-8", "replace") if named else ""
  where = f"{path}, record {identity!r}"
  for name, kind in ((ENCODED, "bytes_list"), (LABEL, "int64_list")):
    if name not in features or not getattr(features[name], kind).value:
      others = ", ".join(sorted(features))[:80] or "no features"
      raise errors.InputError(f"no {name}, only {others}", path=where)
  label = features[LABEL].int64_list.value[0]
  if label < 0 or (num_classes is not None and label >= num_classes):
    most = "up" if num_classes is None else f"to {num_classes - 1}"
    raise errors.InputError(f"label {label} is not from 0 {most}", path=where)
  return features[ENCODED].bytes_list.value[0], label, identity


def decode(data: bytes, path: str, identity: str) -> np.ndarray:
  """Decode the JPEG of a record to [H, W, 3] uint8, BGR; grey photos too."""
  image = None
  try:
    height, width, _ = read_jpeg_size(data)
    problem = f"the JPEG has {width} x {height} pixels"
    if 0 < height * width <= utils.MAX_PIXELS:
      problem = "the JPEG cannot be decoded"
      image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS)
  except ValueError as error:
    problem = str(error)
  except cv2.error:
    pass
  if image is None:
    raise errors.InputError(problem, path=f"{path}, record {identity!r}")
  return image


def read_photo_bytes(path: files.Path) -> tuple[bytes, int, int]:
  """Read a photo as JPEG of three colours; return (data, height, width).

  Others (grey, CMYK, PNG, ...) are converted, as the original's reader needs.
  """
  data = files.read_bytes(path)
  if data.startswith(b"\xff\xd8"):
    try:
      height, width, colours = read_jpeg_size(data)
    except ValueError as error:
      raise errors.InputError(str(error), path=path) from None
    if colours == 3:
      _check_jpeg(data, height, width, path)
      return data, height, width
  image = utils.RgbLoader(path)
  encoded = io.BytesIO()
  image.save(encoded, "JPEG", quality=QUALITY)
  return encoded.getvalue(), image.height, image.width


def _check_jpeg(data, height, width, path):
  if not 0 < height * width <= utils.MAX_PIXELS:
    text = f"{width} x {height} pixels, not 1 to {utils.MAX_PIXELS} in all"
    raise errors.InputError(text, path=path)
  try:
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    image.draft("RGB", (width // _PART, height // _PART))
    image.load()
  except (OSError, ValueError, SyntaxError) as error:
    raise errors.InputError(f"a damaged JPEG: {error}", path=path) from None
