"""A run over images: jobs, decoding ahead, batches, writing, report."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from absl import logging
from PIL import Image

from delf.base import errors, files, progress
from delf.protos import delf_config_pb2
from delf.python import utils

# Most pixels to decode ahead of the image in use: 64 million are 192 MB as RGB.
PIXELS_AHEAD = 64_000_000

# Most memory of one batch in the network, in bytes.
MEMORY_BUDGET = 4 * 2**30

# Live activations, in bytes per pixel of the largest scale: three times the 208
# of ResNet-50 on a CPU (benchmarks/extract_folder.py --memory), since a GPU's
# convolutions need working memory.
_BYTES_PER_PIXEL = 600

_LARGEST_BATCH = 8  # Unless a size is requested.
_LOOK_AHEAD = 4  # Images held to find equal sizes, per image of a batch.
_WRITES_AHEAD = 4  # Images whose files may wait to be written.
# Messages of TensorFlow fill pages; their start names the cause.
_LONGEST_REASON = 300
# Longest side of a box over that of the photo: the padding outside of the photo
# takes memory.
_LARGEST_BOX = 2


@dataclasses.dataclass(frozen=True)
class Crop:
  """A part of a photo, and whether the size limits shrink with it."""

  # x_min, y_min, x_max, y_max (exclusive) in pixels, rounded half to even.
  box: tuple[float, float, float, float]
  # Whether `max_image_size` and `min_image_size` are those of the whole photo.
  # The published figures depend on it: DELG scales them for query images,
  # Detect-to-Retrieve does not.
  scale_limits: bool = False

  def __post_init__(self) -> None:
    box = tuple(map(float, self.box))
    if len(box) != 4 or not all(map(math.isfinite, box)):
      form = "x_min, y_min, x_max, y_max in pixels"
      raise errors.InputError(f"a box is {form}, not {list(box)}")
    object.__setattr__(self, "box", box)

  def cut(self, image: np.ndarray | Image.Image) -> tuple[np.ndarray, float]:
    """Crop an RGB photo; the area outside of the photo is black.

    Returns [h, w, 3] uint8, and the factor for the size limits: 1, or with
    `scale_limits` the longer side of the part over that of the photo. Raises
    InputError if the box is empty, outside of the photo, far larger than it, or
    in relative coordinates.
    """
    if not isinstance(image, Image.Image):
      image = Image.fromarray(np.asarray(image))
    size, box = f"an image of {image.width} x {image.height}", list(self.box)
    if min(box) >= 0 and max(box) <= 1:
      message = f"the box {box} is in shares of {size} pixels: use pixels"
      raise errors.InputError(message)
    left, upper, right, lower = rounded = tuple(map(round, box))
    width, height = right - left, lower - upper
    if (
      not 0 < width <= _LARGEST_BOX * image.width
      or not 0 < height <= _LARGEST_BOX * image.height
      or min(right, lower) <= 0
      or left >= image.width
      or upper >= image.height
    ):
      raise errors.InputError(f"the box {box} is not in {size} pixels")
    if min(left, upper) < 0 or right > image.width or lower > image.height:
      logging.warning("Box %s exceeds %s: black is added.", rounded, size)
    longest = max(width, height)
    factor = longest / max(image.size) if self.scale_limits else 1.0
    return np.asarray(image.crop((left, upper, right, lower))), factor


@dataclasses.dataclass(frozen=True)
class Job:
  """One image, or part of one, to work on."""

  path: str
  name: str  # Path of its outputs in the folder, without extension.
  size: int | None = None  # Bytes of the file; None if remote or missing.
  crop: Crop | None = None
  label: str = ""  # Which part it is, for messages, such as "region 1".
  photo: Any = None  # The image itself, in place of the file.


def region_name(image: str, number: int) -> str:
  """Return the output name of a region: 0 for the whole image, boxes from 1."""
  return f"{image}_{number}"


def find(sources: Iterable[str | os.PathLike]) -> tuple[list[str], list[str]]:
  """Return images and an output name for each.

  Sources are those of `files.find_images`. The name of an image in a folder is
  its path relative to the folder, others have base names. Equal names are
  replaced by paths from the common parent of all, then with their extension.
  """
  images: dict[str, tuple[str, str]] = {}  # Absolute path -> (path, name).
  roots = set()
  for source in sources:
    source, is_folder = os.fspath(source), os.path.isdir(source)
    for path in map(str, files.find_images(source)):
      root = source if is_folder else os.path.dirname(path)
      name = os.path.splitext(os.path.relpath(path, root or "."))[0]
      images.setdefault(_absolute(path), (path, name))
      roots.add(_absolute(root))
  parent = os.path.commonpath(roots)
  longer = [os.path.relpath(path, parent) for path in images]
  paths, names = map(list, zip(*images.values(), strict=True))
  names = _replace_equal(names, [os.path.splitext(name)[0] for name in longer])
  # Each round leaves fewer equal names; those in `longer` are unique.
  while len(set(names)) < len(names):
    names = _replace_equal(names, longer)
  return paths, names


def _replace_equal(names, others):
  """Returns names in which repeated ones are replaced by `others`."""
  number = collections.Counter(names)
  return [
    other if number[name] > 1 else name
    for name, other in zip(names, others, strict=True)
  ]


def _absolute(path):
  # A remote path as if it were a local one.
  if "://" in path:
    return "/" + path.replace("://", "/")
  return os.path.abspath(path)


def base_names(images: Iterable[str | os.PathLike]) -> list[str]:
  """Return the base names of images, without extension."""
  return [os.path.splitext(os.path.basename(path))[0] for path in images]


def plan(
  images: Iterable[str | os.PathLike],
  names: Sequence[str] | None = None,
  crops: Sequence[Crop | None] | None = None,
) -> list[Job]:
  """Make the jobs of a run; a repeated image is processed once.

  Names are output names without extension; base names if None. InputError if
  there are no images, a name is outside of the output folder, or two images (or
  two parts of one) have the same name.
  """
  paths = [os.fspath(path) for path in images]
  if not paths:
    raise errors.InputError("no images: give at least one")
  names = base_names(paths) if names is None else names
  crops = [None] * len(paths) if crops is None else crops
  owners: dict[str, tuple[str, Crop | None]] = {}
  for path, name, crop in zip(paths, names, crops, strict=True):
    files.check_inside(name)
    other = owners.setdefault(name, (path, crop))
    if other != (path, crop):
      one, two = (
        f"{p} {list(c.box)}" if c else p for p, c in (other, (path, crop))
      )
      message = f"{one} and {two} have the same output name {name!r}: use a"
      raise errors.InputError(f"{message} different output name for each image")
  return [
    Job(
      path, name, os.path.getsize(path) if os.path.exists(path) else None, crop
    )
    for name, (path, crop) in owners.items()
  ]


@dataclasses.dataclass(frozen=True)
class Failure:
  """A failed image, with the reason in one line."""

  path: str
  reason: str

  @classmethod
  def of(cls, path: str, error: Exception) -> "Failure":
    """Return the failure that an error about a file describes."""
    return cls(path, errors.one_line(error).removeprefix(f"{path}: "))

  def __str__(self) -> str:
    return f"{self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Report:
  """Result of a run over images, given by their paths or names."""

  done: tuple[str, ...] = ()
  skipped: tuple[str, ...] = ()  # Finished in an earlier run.
  failed: tuple[Failure, ...] = ()
  seconds: float = 0.0  # Wall-clock time, without loading models.
  interrupted: bool = False  # By the user.

  _verb: ClassVar[str] = "extracted"

  def summary(self) -> str:
    """Return one line of text."""
    return (
      f"{'interrupted: ' if self.interrupted else ''}{len(self.done)}"
      f" {self._verb}, {len(self.skipped)} already there,"
      f" {len(self.failed)} failed in {self.seconds:.1f} s"
    )

  @property
  def exit_status(self) -> int:
    """Exit status of a program that ran this."""
    return errors.INTERRUPTED if self.interrupted else int(bool(self.failed))


@dataclasses.dataclass(frozen=True)
class ImageReport(Report):
  """Result of a run on a device."""

  device: str = ""  # "" if the model was not needed.
  images_per_second: float = dataclasses.field(init=False)

  def __post_init__(self) -> None:
    speed = len(self.done) / self.seconds if self.seconds else 0.0
    object.__setattr__(self, "images_per_second", speed)

  def summary(self) -> str:
    """Return one line of text."""
    speed = f" ({self.images_per_second:.2f} images/s on {self.device})"
    return f"{super().summary()}{speed if self.done else ''}"


@dataclasses.dataclass(frozen=True)
class RunOptions:
  """Options of all runs over images."""

  # Output names, without extension; None for base names.
  names: Sequence[str] | None = None
  workers: int = 1  # Threads that decode; with 0 the main thread decodes.
  device: str | None = None  # "gpu:1", for example; None for the best one.
  # Whether to apply the EXIF orientation of images, unlike the original.
  apply_rotation: bool = False
  # Called at the end with a line for each failure, also after an error.
  say: Callable[[str], object] | None = None

  def decode_ahead(self, todo: Iterable) -> "Generator[Decoded]":
    """Yield the images of jobs, decoded in threads."""
    load = functools.partial(
      utils.RgbLoader, apply_rotation=self.apply_rotation
    )
    return decode_ahead(todo, load, self.workers)


@dataclasses.dataclass(frozen=True)
class ImageOptions(RunOptions):
  """Options of a resumable run."""

  resume: bool = True  # Whether to skip images whose files are complete.
  # Largest batch. None: 1 on a CPU, on a GPU what `MEMORY_BUDGET` allows.
  batch_size: int | None = None
  strict: bool = False  # Whether the first failure ends the run with an error.


@dataclasses.dataclass(frozen=True)
class Decoded:
  """A decoded image, [H, W, 3] uint8 RGB, or the error of decoding it."""

  job: Any
  image: np.ndarray | None = None
  error: Exception | None = None
  resize_factor: float = 1.0

  @property
  def factor(self) -> tuple[float, ...]:
    """Arguments for the extractor: the resize factor unless it is 1."""
    return () if self.resize_factor == 1 else (self.resize_factor,)


def decode_ahead(
  todo: Iterable,
  load: Callable,
  workers: int = 1,
  pixels_ahead: int = PIXELS_AHEAD,
) -> Generator[Decoded]:
  """Decode images in threads ahead of their use, and yield them in order.

  At most `pixels_ahead` pixels are held, by the sizes in the headers; a larger
  image, or one of unknown size, is decoded alone. Jobs have a `path`, and a
  `crop` (Crop) for a part. Without workers the caller's thread decodes.
  """
  if workers <= 0:
    yield from (_decode(job, load) for job in todo)
    return
  # Bounded by pixels, unlike `concurrency.map_ahead` and joblib.
  waiting, held = collections.deque(todo), 0
  pending: collections.deque = collections.deque()
  pool = concurrent.futures.ThreadPoolExecutor(workers, "decode")
  try:
    while waiting or pending:
      # One more than there are threads, so that they do not wait.
      while waiting and len(pending) <= workers + 1:
        try:
          pixels = int(np.prod(utils.image_size(waiting[0].path)))
        except (OSError, ValueError):
          pixels = pixels_ahead
        if pending and held + pixels > pixels_ahead:
          break
        pending.append((pool.submit(_decode, waiting.popleft(), load), pixels))
        held += pixels
      future, pixels = pending.popleft()
      decoded = future.result()
      held -= pixels
      yield decoded
  finally:
    pool.shutdown(cancel_futures=True)


def _decode(job, load):
  try:
    photo = getattr(job, "photo", None)
    return cut(job, load(job.path if photo is None else photo))
  except Exception as error:  # Any error concerns this image alone.
    return Decoded(job, error=error)


def cut(job: Job, image: np.ndarray) -> Decoded:
  """Return a job's part of an image."""
  crop = getattr(job, "crop", None)
  if crop is None:
    return Decoded(job, np.asarray(image))
  image, resize_factor = crop.cut(image)
  return Decoded(job, image, resize_factor=resize_factor)


def memory_limit(
  config: delf_config_pb2.DelfConfig,
  device: str,
  batch_size: int | None = None,
  budget: int = MEMORY_BUDGET,
) -> Callable[[tuple[int, int]], int]:
  """Return a function from (height, width) to the largest batch size."""
  if batch_size is None and "GPU" not in device.upper():
    return lambda shape: 1  # One image keeps a CPU busy.
  largest_scale = max(config.image_scales, default=1.0)

  def limit(shape):
    height, width = utils.target_size(shape, config)
    pixels = height * width * largest_scale**2
    fitting = int(budget // (pixels * _BYTES_PER_PIXEL + 1))
    return min(fitting, batch_size or _LARGEST_BATCH)

  return limit


class BatchExtractor:
  """Extracts a stream of images in batches of one size.

  An extractor has `extract(image)` and `extract_batch(images)`, whose results
  are equal up to rounding; both also take a resize factor.
  """

  def __init__(self, extractor: Any, limit: Callable):
    self._extractor, self._limit = extractor, limit
    self._largest: int | None = None  # Lowered when memory runs out.

  def run(self, stream: Iterable[Decoded]) -> Iterator[tuple]:
    """Yield (Decoded, result or Exception); images of one size come early."""
    for batch in self._batches(iter(stream)):
      if batch[0].error is not None:
        yield batch[0], batch[0].error
      else:
        yield from zip(batch, self._extract(batch), strict=True)

  def _batches(self, stream):
    """Yields lists of images of one size; a failed image is alone."""
    window: collections.deque[Decoded] = collections.deque()
    while head := window.popleft() if window else next(stream, None):
      batch = [head]
      limit = 1 if head.image is None else self._limit(head.image.shape[:2])
      limit = max(1, min(limit, self._largest or limit))
      if limit > 1:
        held = sum(d.image.size // 3 for d in window if d.image is not None)
        while len(window) < _LOOK_AHEAD * limit and held < PIXELS_AHEAD:
          if (decoded := next(stream, None)) is None:
            break
          window.append(decoded)
          held += decoded.image.size // 3 if decoded.image is not None else 0
        batch += [d for d in window if _shape(d) == _shape(head)][: limit - 1]
        chosen = set(map(id, batch))
        window = collections.deque(d for d in window if id(d) not in chosen)
      yield batch

  def _extract(self, batch):
    """Returns the result or the error of each image."""
    try:
      factor = batch[0].factor
      if len(batch) == 1:
        return [self._extractor.extract(batch[0].image, *factor)]
      images = [decoded.image for decoded in batch]
      return self._extractor.extract_batch(images, *factor)
    except Exception as error:
      if len(batch) == 1:
        return [error]
      half = len(batch) // 2
      if is_out_of_memory(error):
        self._largest = half
        logging.info("Out of memory: batches of %d from now on.", half)
    return self._extract(batch[:half]) + self._extract(batch[half:])


def _shape(decoded):
  return decoded.image is not None and (decoded.image.shape, decoded.factor)


def find_problem(path: str, result: Any) -> str | None:
  """Return a line about the problem with a result, or None.

  A result is a dataclass of arrays, or an Exception. The line has no path.
  """
  if isinstance(result, Exception):
    if is_out_of_memory(result):
      return "the image does not fit in memory"
    line = errors.one_line(result).removeprefix(f"{path}: ")
    if isinstance(result, (errors.InputError, OSError)):
      return line
    return f"{type(result).__name__}: {line[:_LONGEST_REASON]}"
  for field in dataclasses.fields(result):
    value = getattr(result, field.name)
    if dataclasses.is_dataclass(value):
      if problem := find_problem(path, value):
        return problem
    elif value is not None and not np.all(np.isfinite(value)):
      name = field.name.replace("_", " ")
      return f"the model returned NaN or infinity in {name}"
  return None


def is_out_of_memory(error: Exception) -> bool:
  """Return whether an error means that host or device ran out of memory."""
  # By name, so that TensorFlow need not be imported.
  return isinstance(error, MemoryError) or (
    type(error).__name__ == "ResourceExhaustedError"
  )


_Report = TypeVar("_Report", bound=Report)
_ImageReport = TypeVar("_ImageReport", bound=ImageReport)


@dataclasses.dataclass
class Run(Generic[_Report]):
  """One pass over jobs: writes results in a thread, and reports.

  After an error in the thread nothing more is written.
  """

  # With the `claim`, `write`, `finish`, `close`, `report_fields` and
  # `wants_images` of extract.OutputFolder.
  outputs: Any
  report: _Report  # With the skipped images.
  say: Callable[[str], object] | None = None
  strict: bool = False
  overwrite: bool = False  # Whether to remove files that are not stale, too.

  def __post_init__(self) -> None:
    self._done: list[str] = []
    self._failed: list[Failure] = []
    self._is_claimed = self._is_broken = False
    self._start = time.perf_counter()

  def do(self, results: Iterator[tuple], todo: list[Job], bar: Any) -> _Report:
    """Write results and return the report, also after an interrupt (SIGINT).

    Results are (Decoded, result or Exception), in any order; stale files of all
    jobs are removed before the first write. If writing fails, the OSError has
    the report so far as `report`.
    """
    try:
      with (
        contextlib.closing(self.outputs),
        concurrent.futures.ThreadPoolExecutor(1, "write") as writer,
      ):
        self._write_all(results, todo, bar, writer)
        self.outputs.finish()
    except KeyboardInterrupt:
      return self._make_report(interrupted=True)
    except OSError as error:
      error.report = self._make_report()  # type: ignore[attr-defined]
      raise
    finally:
      if self.say is not None:
        for failure in self._failed:
          self.say(str(failure))
    return self._make_report()

  def _make_report(self, interrupted=False):
    fields = {
      "done": tuple(self._done),
      "failed": tuple(self._failed),
      "seconds": time.perf_counter() - self._start,
      "interrupted": interrupted,
    }
    fields |= self.outputs.report_fields()
    return dataclasses.replace(self.report, **fields)

  def _write_all(self, results, todo, bar, writer):
    pending: collections.deque = collections.deque()
    try:
      for decoded, result in results:
        problem = find_problem(decoded.job.path, result)
        if problem:
          self._fail(decoded.job, problem)
          bar.set_postfix_str(f"{len(self._failed)} failed")
          continue
        if not self._is_claimed:
          self.outputs.claim(todo, self.overwrite)
          self._is_claimed = True
        more = (decoded.image,) if self.outputs.wants_images else ()
        pending.append(writer.submit(self._write, decoded.job, result, *more))
        while len(pending) > _WRITES_AHEAD:
          pending.popleft().result()
    finally:
      results.close()
      while pending:
        pending.popleft().result()

  def _write(self, job, *result):
    # In a thread that is not interrupted: each written result is counted.
    if self._is_broken:
      return
    try:
      self.outputs.write(job, *result)
    except BaseException:
      self._is_broken = True
      raise
    self._done.append(job.path)

  def _fail(self, job, problem):
    if self.strict:
      raise errors.InputError(problem, path=job.path)
    reason = f"{job.label}: {problem}" if job.label else problem
    logging.info("Failed: %s: %s", job.path, reason)
    self._failed.append(Failure(job.path, reason))


def run_images(
  plan: list[Job],
  outputs: Any,
  make_extractor: Callable,
  options: ImageOptions,
  report: _ImageReport,
  label: str,
) -> _ImageReport:
  """Process the images of a plan that are missing in a folder, in batches.

  Outputs are those of a `Run`, with `check`, `divide` and `prepare`. If images
  are missing, `make_extractor` returns an extractor for `BatchExtractor` and a
  configuration with sizes and scales. The label is that of the progress bar.
  """
  outputs.check(plan, overwrite=not options.resume)
  todo, done = outputs.divide(plan) if options.resume else (plan, [])
  report = dataclasses.replace(report, skipped=tuple(job.path for job in done))
  if not todo:
    return report
  outputs.prepare()
  extractor, config = make_extractor()
  device = getattr(extractor, "device", None) or "CPU"
  logging.info("%s: %d images on %s.", label, len(todo), device)
  limit = memory_limit(config, device, options.batch_size)
  report = dataclasses.replace(report, device=device)
  run = Run(outputs, report, options.say, options.strict, not options.resume)
  with contextlib.closing(options.decode_ahead(todo)) as stream:
    results = BatchExtractor(extractor, limit).run(stream)
    with progress.count(f"{label} on {device}", len(todo)) as bar:
      return run.do(_counted(results, bar), todo, bar)


def _counted(results, bar):
  for result in results:
    yield result
    bar.update(1)
