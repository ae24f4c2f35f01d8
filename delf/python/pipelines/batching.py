"""Batches of images of one size, as large as memory allows."""

import collections

from absl import logging

from delf.python import utils
from delf.python.pipelines import problems

# Memory that one batch may take in the network, in bytes.
MEMORY_BUDGET = 4 * 2**30

# Activations that live at once, in bytes per pixel of the largest scale: three
# times the 208 that ResNet-50 takes on a CPU (benchmarks/extract_folder.py
# --memory), for the working memory of a GPU's convolutions.
_BYTES_PER_PIXEL = 600

# More at once are not tried unless asked for.
_MOST_AUTOMATIC = 8

# Images held to find some of one size, per image of a batch.
_LOOK_AHEAD = 4

# Pixels held to find images of one size.
_PIXELS_HELD = 64_000_000


class BatchExtractor:
  """Extracts features of a stream of images, those of one size together.

  The result for an image is the same in a batch as alone, up to the rounding of
  float32 (`Extractor.extract_batch` states the tolerance).
  """

  def __init__(self, extractor, limit):
    """Creates it.

    Args:
      extractor: Object with `extract(image)` and `extract_batch(images)`; both
        take a resize factor as well, if an image has one.
      limit: Function from (height, width) to the most images of a batch.
    """
    self._extractor = extractor
    self._limit = limit
    self._most = None  # Lowered when memory runs out.

  def run(self, stream):
    """Extracts in order, but for images that join an earlier one of their size.

    Args:
      stream: Iterable of prefetch.Decoded.

    Yields:
      (prefetch.Decoded, features.ImageFeatures or Exception).
    """
    for batch in self._group(iter(stream)):
      if batch[0].error is not None:
        yield batch[0], batch[0].error
        continue
      yield from zip(batch, self._extract(batch), strict=True)

  def _batch_limit(self, image):
    limit = max(1, self._limit(image.shape[:2]))
    return min(limit, self._most) if self._most else limit

  def _group(self, stream):
    """Yields lists of images of one size; one that failed is alone."""
    window = collections.deque()
    while True:
      if not window:
        window.extend(_take(stream, 1))
      if not window:
        return
      head = window.popleft()
      batch = [head]
      limit = 1 if head.error is not None else self._batch_limit(head.image)
      if limit > 1:
        _fill(window, stream, _LOOK_AHEAD * limit)
        for other in [d for d in window if _same_size(d, head)][: limit - 1]:
          batch.append(other)
        chosen = {id(d) for d in batch}
        rest = [d for d in window if id(d) not in chosen]
        window = collections.deque(rest)
      yield batch

  def _extract(self, batch):
    """Returns features of each image, or the error that it raised."""
    factor = batch[0].resize_factor
    more = () if factor == 1 else (factor,)
    try:
      if len(batch) == 1:
        return [self._extractor.extract(batch[0].image, *more)]
      return self._extractor.extract_batch([d.image for d in batch], *more)
    except Exception as error:
      if len(batch) == 1:
        return [error]
      half = len(batch) // 2
      if problems.is_out_of_memory(error):
        self._most = half
        logging.info("Out of memory: batches of %d from here on.", half)
    return self._extract(batch[:half]) + self._extract(batch[half:])


def memory_limit(config, device, batch_size=None, budget=MEMORY_BUDGET):
  """Returns a function from (height, width) to the most images of a batch.

  Args:
    config: delf_config_pb2.DelfConfig; its sizes and scales tell the pixels.
    device: Words for the device, for example "CPU".
    batch_size: Size that was asked for, or None. None is 1 on a CPU, which one
      image keeps busy, and which then gives the same bytes however the work is
      cut.
    budget: Memory for one batch, in bytes.
  """
  if batch_size is None and "GPU" not in str(device).upper():
    return lambda shape: 1
  largest_scale = max(config.image_scales, default=1.0)

  def limit(shape):
    height, width = utils.target_size(shape, config)
    pixels = height * width * largest_scale**2
    fits = int(budget // (pixels * _BYTES_PER_PIXEL + 1))
    return min(fits, batch_size or _MOST_AUTOMATIC)

  return limit


def _take(stream, number):
  return [d for _, d in zip(range(number), stream, strict=False)]


def _fill(window, stream, number):
  """Takes decoded images until there are enough, within the pixels allowed."""
  held = sum(d.image.size // 3 for d in window if d.image is not None)
  while len(window) < number and held < _PIXELS_HELD:
    taken = _take(stream, 1)
    if not taken:
      return
    window.extend(taken)
    held += taken[0].image.size // 3 if taken[0].image is not None else 0


def _same_size(decoded, head):
  """Returns whether two images become arrays of one size."""
  return (
    decoded.image is not None
    and decoded.image.shape == head.image.shape
    and decoded.resize_factor == head.resize_factor
  )
