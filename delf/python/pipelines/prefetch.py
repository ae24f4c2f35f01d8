"""Images that are decoded in the background while others are worked on."""

import collections
import concurrent.futures
import dataclasses

import numpy as np

from delf.python import utils

# Most pixels that are decoded, or being decoded, ahead of the one in use: 64
# million are 192 MB as RGB.
PIXELS_AHEAD = 64_000_000


@dataclasses.dataclass(frozen=True)
class Decoded:
  """One image, or why there is none.

  Attributes:
    job: What was given for it; has `path`.
    image: uint8 [H, W, 3] RGB, or None.
    error: Exception that decoding raised, or None.
    resize_factor: What the size limits are to be multiplied by.
  """

  job: object
  image: np.ndarray | None = None
  error: Exception | None = None
  resize_factor: float = 1.0


def decode_ahead(jobs, load, workers=1, pixels_ahead=PIXELS_AHEAD):
  """Decodes images in threads, ahead of their use, and gives them in order.

  Pillow decodes without holding Python's lock, so threads do. Sizes are read
  from the headers, and decoding waits when `pixels_ahead` would be passed
  (a single image may be larger than that). An image whose size cannot be read
  there, as of a remote one, is decoded alone.

  Args:
    jobs: Iterable of objects with a `path`, and where a part of the image is
      wanted with a `crop` (cropping.Crop).
    load: Function from a path to an image.
    workers: Number of threads; 0 decodes in the caller's thread.
    pixels_ahead: Most pixels to hold.

  Yields:
    Decoded, one per job, in order.
  """
  if workers <= 0:
    for job in jobs:
      yield _decode(job, load)
    return
  jobs = collections.deque(jobs)
  pending = collections.deque()
  held = 0
  pool = concurrent.futures.ThreadPoolExecutor(workers, "decode")
  try:
    while jobs or pending:
      # One more than the threads, so that none waits for the caller.
      while jobs and len(pending) <= workers + 1:
        pixels = _header_pixels(jobs[0].path, pixels_ahead)
        if pending and held + pixels > pixels_ahead:
          break
        pending.append((pool.submit(_decode, jobs.popleft(), load), pixels))
        held += pixels
      future, pixels = pending.popleft()
      decoded = future.result()
      held -= pixels
      yield decoded
  finally:
    pool.shutdown(cancel_futures=True)


def _decode(job, load):
  # Whatever a decoder raises about one image is about that image alone.
  try:
    image, crop = load(job.path), getattr(job, "crop", None)
    if crop is None:
      return Decoded(job, image=np.asarray(image))
    image, resize_factor = crop.cut(image)
    return Decoded(job, image=image, resize_factor=resize_factor)
  except Exception as error:
    return Decoded(job, error=error)


def _header_pixels(path, unknown):
  """Returns the number of pixels that an image's header tells, or `unknown`."""
  try:
    height, width = utils.image_size(path)
  except (OSError, ValueError):
    return unknown
  return height * width
