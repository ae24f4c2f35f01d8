"""Batches of images of one size, as large as memory allows."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import time
import typing
from collections.abc import Sequence

import numpy as np
from absl import logging

from delf.base import concurrency, errors, progress
from delf.python import utils

# Errors of TensorFlow go on for pages; the first words say what happened.
_LONGEST_REASON = 300


def find(path, features):
  """Returns one line that says what is wrong with a result, or None.

  Args:
    path: Path of the image.
    features: features.ImageFeatures or detections.Detections, or the Exception
      that came in its place.

  Returns:
    str without the path, or None.
  """
  if isinstance(features, Exception):
    return of_error(path, features)
  for name, array in _arrays(features):
    if array is not None and not np.all(np.isfinite(array)):
      return f"expected finite {name}, received NaN or infinity"
  return None


def _arrays(result):
  """Yields (name in words, array or None) of all that is in a result."""
  for field in dataclasses.fields(result):
    value = getattr(result, field.name)
    if dataclasses.is_dataclass(value):
      yield from _arrays(value)
    else:
      yield field.name.replace("_", " "), value


def of_error(path, error):
  """Returns one line, without the path, that says what an Exception is about.

  Args:
    path: Path of the image.
    error: Exception.
  """
  if is_out_of_memory(error):
    return "expected an image that fits in memory, received one that does not"
  line = " ".join(str(error).split()).removeprefix(f"{path}: ")
  if isinstance(error, (errors.InputError, OSError)):
    return line
  return f"{type(error).__name__}: {line[:_LONGEST_REASON]}"


def is_out_of_memory(error):
  """Returns whether an error says that memory ran out (host or device)."""
  # By name, so that TensorFlow need not be imported to ask.
  return isinstance(error, MemoryError) or (
    type(error).__name__ == "ResourceExhaustedError"
  )


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
      if is_out_of_memory(error):
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


# More at once than this gain little, and each takes the memory of its own.
_MOST_WORKERS = 8

# Images per worker whose results may wait for those of one before them, as the
# boxes of a photo do for the whole of it, which takes far longer.
_AHEAD = 4


def number_of_workers(asked=None):
  """Returns how many images a CPU extracts at once.

  Args:
    asked: That number, or None for one per core.
  """
  return asked or min(concurrency.core_count(), _MOST_WORKERS)


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
  limit = memory_limit(config, "GPU")
  if "GPU" in str(device).upper():
    return BatchExtractor(extractor, limit)
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


@dataclasses.dataclass(frozen=True)
class Failure:
  """An image that gave no result: its path, and one line that says why."""

  path: str
  reason: str

  def __str__(self):
    return f"{self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class ExtractReport:
  """What became of each image.

  Attributes:
    done: Paths of images whose files were written.
    skipped: Paths of images whose files were there.
    failed: Failure of each image that gave none.
    seconds: Wall-clock time, without loading the model.
    images_per_second: Images done per second.
    device: Words for the device that was used; "" if none was needed.
    interrupted: Whether the user ended the work before its end.
  """

  done: tuple[str, ...] = ()
  skipped: tuple[str, ...] = ()
  failed: tuple[Failure, ...] = ()
  seconds: float = 0.0
  images_per_second: float = 0.0
  device: str = ""
  interrupted: bool = False

  # What was done to an image, in a word.
  _verb: typing.ClassVar[str] = "extracted"

  def summary(self):
    """Returns one line for people."""
    speed = f" ({self.images_per_second:.2f} images/s on {self.device})"
    state = "interrupted: " if self.interrupted else ""
    return (
      f"{state}{len(self.done)} {self._verb},"
      f" {len(self.skipped)} already there, {len(self.failed)} failed"
      f" in {self.seconds:.1f} s{speed if self.done else ''}"
    )

  @property
  def exit_status(self):
    """Exit status of a program that did this."""
    if self.interrupted:
      return errors.INTERRUPTED
    return 1 if self.failed else 0


def say_failures(work, say):
  """Does work on many images for a program; what failed is said in any case.

  Args:
    work: Function that returns a report with `failed`; or raises an OSError
      that has it as `report`, if the work was begun.
    say: Function of a line: called for each image that failed, also before an
      error, as of a full disk.

  Returns:
    The report.
  """
  report = None
  try:
    report = work()
  except OSError as error:
    report = getattr(error, "report", None)
    raise
  finally:
    for failure in report.failed if report else ():
      say(str(failure))
  return report


# Images whose files may wait to be written.
_WRITES_AHEAD = 4


class ImageRun:
  """One pass over the images that are to be done."""

  def __init__(self, extractor, config, folder, options, report, label):
    """Prepares the pass.

    Args:
      extractor: Object with `extract(image)` and `extract_batch(images)`, as
        `batching.BatchExtractor` takes; `device` has words for its device.
      config: delf_config_pb2.DelfConfig, of which sizes and scales count.
      folder: What writes the results: an object with `claim(jobs, overwrite)`,
        called before the first, `write(job, result)` and `close()`, and
        `wants_images`: whether `write` takes the image, too.
      options: Object with `resume`, `batch_size`, `workers`, `apply_rotation`
        and `strict`, as of `extract.ExtractOptions`.
      report: extract_report.ExtractReport, with what was done before.
      label: Words for what is being done.
    """
    self._folder = folder
    self._options = options
    self._extractor = extractor
    self._device = getattr(extractor, "device", None) or "CPU"
    self._limit = memory_limit(config, self._device, options.batch_size)
    self._label = label
    self._claimed = False
    self._before = report
    self._start = time.perf_counter()
    self._done = []
    self._failed = []

  def do(self, todo):
    """Does the images, and writes what they give.

    Args:
      todo: list of jobs.Job.

    Returns:
      The report, completed; also after an interrupt by the user (SIGINT).

    Raises:
      OSError: If a result cannot be written; it has the `report` until then.
    """
    logging.info("%s: %d images on %s.", self._label, len(todo), self._device)
    try:
      with (
        contextlib.closing(self._folder),
        concurrent.futures.ThreadPoolExecutor(1, "write") as writer,
      ):
        self._loop(todo, writer)
    except KeyboardInterrupt:
      return self._report(interrupted=True)
    except OSError as error:
      error.report = self._report()
      raise
    return self._report()

  def _report(self, interrupted=False):
    seconds = time.perf_counter() - self._start
    return dataclasses.replace(
      self._before,
      done=tuple(self._done),
      failed=tuple(self._failed),
      seconds=seconds,
      images_per_second=len(self._done) / seconds,
      device=self._device,
      interrupted=interrupted,
    )

  def _loop(self, todo, writer):
    stream = decode_ahead(todo, self._load, self._options.workers)
    results = BatchExtractor(self._extractor, self._limit).run(stream)
    pending = collections.deque()
    bar = progress.track(
      results, f"{self._label} on {self._device}", total=len(todo)
    )
    try:
      for decoded, result in bar:
        problem = find(decoded.job.path, result)
        if problem:
          self._fail(decoded.job, problem)
          bar.set_postfix_str(f"{len(self._failed)} failed")
          continue
        if not self._claimed:
          self._folder.claim(todo, overwrite=not self._options.resume)
          self._claimed = True
        more = (decoded.image,) if self._folder.wants_images else ()
        pending.append(writer.submit(self._write, decoded.job, result, *more))
        while len(pending) > _WRITES_AHEAD:
          pending.popleft().result()
    finally:
      results.close()
      stream.close()
      while pending:
        pending.popleft().result()

  def _write(self, job, *results):
    # In the writer's thread, which no interrupt reaches: what is written is
    # counted.
    self._folder.write(job, *results)
    self._done.append(job.path)

  def _fail(self, job, problem):
    if self._options.strict:
      raise errors.InputError("a result of each image", problem, job.path)
    logging.info("Failed: %s: %s", job.path, problem)
    self._failed.append(Failure(job.path, problem))

  def _load(self, path):
    rotate = self._options.apply_rotation
    return utils.RgbLoader(path, apply_rotation=rotate)


@dataclasses.dataclass(frozen=True)
class RunOptions:
  """Options of each pass over many images.

  Attributes:
    names: Output name of each image, without extension and relative to the
      output folder, or None for their base names.
    resume: Whether images whose files, all that are asked for, are there and
      whole are left as they are. If not, all are done again.
    batch_size: Most images to run at once, or None: one on a CPU, and on a GPU
      as many of one size as `batching.MEMORY_BUDGET` allows.
    workers: Threads that decode; 0 decodes in between.
    device: Device such as "cpu" or "gpu:1", or None for the best there is.
    apply_rotation: Whether images are turned as their EXIF orientation says.
      The original does not, and its results are of the image as it is stored.
    strict: Whether the first image that fails ends the work.
  """

  names: Sequence[str] | None = None
  resume: bool = True
  batch_size: int | None = None
  workers: int = 1
  device: str | None = None
  apply_rotation: bool = False
  strict: bool = False
