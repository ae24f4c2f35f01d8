"""Decoded photos of a working size, in one memory-mapped file."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os

import numpy as np
from PIL import Image

from delf.python import errors, files, progress, utils
from delf.python.pipelines import extract_report, problems

_PIXELS, _RECORD = "photos.u8", "photos.json"

# Nothing can be learnt of a photo whose shorter side has fewer pixels.
_LEAST_SIDE = 32


@dataclasses.dataclass(frozen=True)
class Store:
  """Decoded photos.

  Attributes:
    images: list of [H, W, 3] uint8, RGB, memory-mapped; None for one that was
      left out.
    failures: tuple of extract_report.Failure, those that were.
  """

  images: list
  failures: tuple


def digest(paths):
  """Returns words that other photos, or the same ones changed, do not have."""
  found = hashlib.sha256()
  for path in paths:
    try:
      stat = os.stat(path)
      stamp = (stat.st_size, stat.st_mtime_ns)
    except OSError:
      stamp = None
    found.update(f"{path}\0{stamp}\0".encode(errors="surrogateescape"))
  return found.hexdigest()


def gather(paths, folder, size, rotate=False):
  """Decodes photos once, on all cores; a run that is repeated finds them.

  In memory are the few that are being decoded.

  Args:
    paths: Paths of photos.
    folder: pathlib.Path for the file: 3 bytes a pixel of the working size.
    size: Pixels that the longer side is scaled down to.
    rotate: Whether the EXIF orientation is applied.

  Returns:
    Store. A photo that cannot be decoded, or is too small, is a failure.
  """
  if not (folder / _RECORD).exists():
    _write(paths, folder, size, rotate)
  record = json.loads(files.read_bytes(folder / _RECORD))
  pixels = np.zeros(0, np.uint8)
  if (folder / _PIXELS).stat().st_size:
    # An array as such: OpenCV takes no memory map.
    pixels = np.asarray(np.memmap(folder / _PIXELS, np.uint8, "r"))
  images, start = [], 0
  for shape in record["shapes"]:
    if shape is None:
      images.append(None)
      continue
    end = start + shape[0] * shape[1] * 3
    images.append(pixels[start:end].reshape(*shape, 3))
    start = end
  failures = tuple(
    extract_report.Failure(*failure) for failure in record["failures"]
  )
  return Store(images, failures)


def _write(paths, folder, size, rotate):
  shapes, failures = [], []
  with (
    files.atomic_path(folder / _PIXELS) as temporary,
    open(temporary, "wb") as file,
  ):
    found = _decoded(paths, size, rotate)
    for path, image in zip(
      paths, progress.track(found, "reading photos", len(paths)), strict=True
    ):
      reason = problems.find(path, image) if _is_bad(image) else None
      if reason:
        failures.append((os.fspath(path), reason))
        shapes.append(None)
      else:
        shapes.append(image.shape[:2])
        file.write(image.data)
  record = json.dumps({"shapes": shapes, "failures": failures})
  files.write_bytes(folder / _RECORD, record.encode())


def _is_bad(image):
  return isinstance(image, Exception)


def _decoded(paths, size, rotate):
  """Yields each photo in turn, or the exception that came in its place."""
  workers = os.cpu_count() or 1
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    waiting = collections.deque()
    for path in paths:
      waiting.append(pool.submit(_decode, path, size, rotate))
      if len(waiting) > 2 * workers:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()


def _decode(path, size, rotate):
  try:
    image = utils.RgbLoader(path, rotate, at_least=(size, size))
    share = min(1.0, size / max(image.size))
    width, height = (max(1, round(side * share)) for side in image.size)
    if min(width, height) < _LEAST_SIDE:
      raise errors.InputError(
        f"a photo of {_LEAST_SIDE} pixels or more a side at {size} pixels",
        f"{width} x {height}",
      )
    if share < 1:
      image = image.resize((width, height), Image.Resampling.BOX)
    return np.ascontiguousarray(image)
  except Exception as error:  # noqa: BLE001 - one bad photo ends no run
    return error
