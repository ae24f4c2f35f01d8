"""Features of many images, from image files to feature files."""

import dataclasses
import statistics
import time
from collections.abc import Sequence

import numpy as np

from delf.base import errors, files, progress
from delf.extraction import engine, jobs, output_folder
from delf.python import utils


@dataclasses.dataclass(frozen=True)
class ExtractOptions(engine.RunOptions):
  """How to extract, as RunOptions and more; the configuration says what.

  Attributes:
    crops: cropping.Crop of each image, or None for all of it; None for all of
      each. Locations are then in pixels of the part.
    local_extension: Extension of local features' files.
    extractor: Extractor to use in place of one made from the configuration.
  """

  crops: Sequence[jobs.Crop | None] | None = None
  local_extension: str = files.DELF
  extractor: object = None


def extract_and_say(images, config, output_dir, say, **options):
  """Does `extract_to_files` for a program; what failed is said in any case.

  Args:
    images: As in `extract_to_files`.
    config: As there.
    output_dir: As there.
    say: Function of a line: called for each image that failed, also before an
      error, as of a full disk.
    **options: Fields of ExtractOptions.

  Returns:
    ExtractReport.
  """
  return engine.say_failures(
    lambda: extract_to_files(images, config, output_dir, **options), say
  )


def extract_to_files(images, config, output_dir, **options):
  """Extracts features of images and writes them, each file whole or not at all.

  Images are decoded in the background; an image that fails is reported and the
  others go on. A run that was ended at any moment can be repeated: it does what
  is missing. `extraction.json` in the folder says what model and settings the
  files are of; others are refused there. `extraction_images.jsonl` has the size
  of each photo, and which part was extracted; others are done again.

  Args:
    images: Paths of image files.
    config: delf_config_pb2.DelfConfig.
    output_dir: Local folder, made if need be, for `<name>.delf` (local
      features) and `<name>.delg_global` (the global descriptor), as the
      configuration asks.
    **options: Fields of ExtractOptions.

  Returns:
    ExtractReport. An interrupt by the user (SIGINT) also ends in one.

  Raises:
    InputError: If nothing can be done: no images, two for one output name, a
      model or configuration that does not work, a folder of other features.
    OSError: If files cannot be written. What was done until then is in its
      attribute `report`, an ExtractReport, if it was begun.
  """
  options = ExtractOptions(**options)
  todo, done = jobs.plan(images, options.names, options.crops), []
  made_with = output_folder.describe(
    config, _model_folder(config, options), options.apply_rotation
  )
  folder = output_folder.OutputFolder(
    output_dir, config, options.local_extension, made_with
  )
  folder.check(todo, overwrite=not options.resume)
  if options.resume:
    todo, done = folder.divide(todo)
  skipped = tuple(job.path for job in done)
  if not todo:
    return engine.ExtractReport(skipped=skipped)
  folder.prepare()
  extractor = options.extractor or _make_extractor(config, options)
  run = engine.ImageRun(
    extractor,
    config,
    folder,
    options,
    engine.ExtractReport(skipped=skipped),
    "extracting",
  )
  return run.do(todo)


def _model_folder(config, options):
  if options.extractor is not None and not config.model_path:
    return None
  from delf.inference import zoo

  return zoo.resolve(config.model_path)


def _make_extractor(config, options):
  # TensorFlow is loaded here, once there is something to do.
  from delf.inference import extractor

  return extractor.make_extractor(config, device=options.device)


@dataclasses.dataclass(frozen=True)
class Latency:
  """Seconds per image, and what they were measured on.

  Attributes:
    device: Words for the device.
    seconds: Mean of the repeats of each image, in the order of the images.
    binary_seconds: Of these, what turning local descriptors into bits takes;
      None if it was not asked for.
    features: Local features of each image.
    failed: extract_report.Failure of each image that gave none.
  """

  device: str
  seconds: tuple[float, ...]
  binary_seconds: tuple[float, ...] | None
  features: tuple[int, ...]
  failed: tuple[engine.Failure, ...]

  @property
  def mean(self):
    """Seconds per image, over all images and repeats; NaN if all failed."""
    return statistics.fmean(self.seconds) if self.seconds else float("nan")


def measure(images, extractor, repeats, binary_local_features=False):
  """Measures extraction, image by image, from pixels in memory to features.

  Neither loading an image is in it nor, as the first of a size is slower, one
  extraction before those that count.

  Args:
    images: Paths of images.
    extractor: inference.extractor.Extractor.
    repeats: How often each image is extracted.
    binary_local_features: Whether to add the time in which local descriptors
      become bits, as ASMK* and binary matching have them.

  Returns:
    Latency.

  Raises:
    InputError: If there are no images or repeats, or the extractor has no local
      features to turn into bits.
  """
  if not images:
    raise errors.InputError("at least one image", "none")
  if repeats < 1:
    raise errors.InputError("at least 1 repeat per image", repeats)
  if binary_local_features and not extractor.config.use_local_features:
    raise errors.InputError(
      "a configuration with use_local_features, for binary ones", "one without"
    )
  times, failed = [], []
  for path in progress.track(images, f"measuring on {extractor.device}"):
    try:
      image = np.asarray(utils.RgbLoader(path))
      times.append(_time(image, extractor, repeats, binary_local_features))
    except Exception as error:  # Of this image alone, as of its size.
      reason = engine.find(path, error)
      failed.append(engine.Failure(path, reason))
  seconds, binary, features = zip(*times, strict=True) if times else ((),) * 3
  return Latency(
    extractor.device,
    tuple(seconds),
    tuple(binary) if binary_local_features else None,
    tuple(features),
    tuple(failed),
  )


def pack_bits(descriptors):
  """Returns the signs of descriptors as bits.

  Args:
    descriptors: [N, D] float.

  Returns:
    [N, ceil(D / 8)] uint8; a bit is set where a value is positive, the first
    value in the highest bit.
  """
  return np.packbits(descriptors > 0, axis=1)


def _time(image, extractor, repeats, binary_local_features):
  """Returns seconds per extraction, of these for bits, and local features."""
  found = extractor.extract(image)
  total = binary = 0.0
  for _ in range(repeats):
    start = time.perf_counter()
    found = extractor.extract(image)
    extracted = time.perf_counter()
    if binary_local_features:
      pack_bits(found.local.descriptors)
    end = time.perf_counter()
    total, binary = total + end - start, binary + end - extracted
  number = len(found.local.scales) if found.local is not None else 0
  return total / repeats, binary / repeats, number
