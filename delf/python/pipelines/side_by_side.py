"""Several images extracted at the same time, on the cores of a CPU.

One image alone keeps little more than one core busy: most of its convolutions
are too small to be divided (benchmarks/regions.py measures it).
"""

import collections
import concurrent.futures
import os

from delf.python.pipelines import batching

# More at once than this gain little, and each takes the memory of its own.
_MOST_WORKERS = 8

# Images per worker whose results may wait for those of one before them, as the
# boxes of a photo do for the whole of it, which takes far longer.
_AHEAD = 4


def number_of_cores():
  """Returns how many cores this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def number_of_workers(asked=None):
  """Returns how many images a CPU extracts at once.

  Args:
    asked: That number, or None for one per core.
  """
  return asked or min(number_of_cores(), _MOST_WORKERS)


def make(extractor, config, device, workers=None):
  """Returns what extracts a stream of images in the way that suits a device.

  Args:
    extractor: Object with `extract(image)` and `extract_batch(images)`, safe to
      call from several threads.
    config: delf_config_pb2.DelfConfig; its sizes and scales tell the memory.
    device: Words for the device, for example "CPU".
    workers: Images at once on a CPU, or None: one per core.

  Returns:
    Object with `run(stream)`, as of batching.BatchExtractor: on a GPU images of
    one size go together, on a CPU images of any size side by side.
  """
  limit = batching.memory_limit(config, "GPU")
  if "GPU" in str(device).upper():
    return batching.BatchExtractor(extractor, limit)
  return SideBySide(extractor, limit, number_of_workers(workers))


class SideBySide:
  """Extracts a stream of images in threads; results are those of one thread."""

  def __init__(self, extractor, limit, workers):
    """Creates it.

    Args:
      extractor: Object with `extract(image)`.
      limit: Function from (height, width) to how many such images fit in
        memory at once.
      workers: Threads.
    """
    self._extractor = extractor
    self._limit = limit
    self._workers = max(1, workers)

  def run(self, stream):
    """Extracts in order.

    Args:
      stream: Iterable of prefetch.Decoded.

    Yields:
      (prefetch.Decoded, features.ImageFeatures or Exception).
    """
    pool = concurrent.futures.ThreadPoolExecutor(self._workers, "extract")
    pending = collections.deque()  # (Decoded, future, share of the memory)
    try:
      for decoded in stream:
        share = self._share(decoded)
        while len(pending) > _AHEAD * self._workers or _wait(pending, share):
          first, future, _ = pending.popleft()
          yield first, future.result()
        pending.append((decoded, pool.submit(self._extract, decoded), share))
      while pending:
        first, future, _ = pending.popleft()
        yield first, future.result()
    finally:
      pool.shutdown(cancel_futures=True)

  def _share(self, decoded):
    """Returns the part of the memory that an image takes, at most all."""
    if decoded.image is None:
      return 0.0
    return 1 / max(1, self._limit(decoded.image.shape[:2]))

  def _extract(self, decoded):
    if decoded.error is not None:
      return decoded.error
    factor = decoded.resize_factor
    try:
      return self._extractor.extract(
        decoded.image, *(() if factor == 1 else (factor,))
      )
    except Exception as error:  # Whatever it is, it is about this image alone.
      return error


def _wait(pending, share):
  """Waits until there is memory for one image more.

  Args:
    pending: deque of (Decoded, future, share of the memory).
    share: That of the image.

  Returns:
    Whether the first of them is finished, so that its result can be given.
  """
  while pending and not pending[0][1].done():
    running = [(f, held) for _, f, held in pending if not f.done()]
    if sum(held for _, held in running) + share <= 1 + 1e-9:
      return False
    concurrent.futures.wait(
      [future for future, _ in running],
      return_when=concurrent.futures.FIRST_COMPLETED,
    )
  return bool(pending)
