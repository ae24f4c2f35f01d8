"""Features of many images, from image files to feature files."""

import dataclasses
import os
import statistics
import time
import typing
from collections.abc import Callable, Sequence

import numpy as np

from delf.base import errors, files, progress
from delf.extraction import engine, jobs, output_folder
from delf.formats import features
from delf.protos import delf_config_pb2
from delf.python import utils


@dataclasses.dataclass(frozen=True)
class ExtractOptions(engine.ImageOptions):
  """Options of an extraction; the configuration says what is extracted.

  Attributes:
    crops: Part of each image, or None for all of it; locations are then in
      pixels of the part.
    local_extension: Extension of local features' files.
    extractor: Extractor to use in place of one made from the configuration.
    on_written: Called, in a thread, with the name and the features of each
      image whose files were written.
  """

  crops: Sequence[jobs.Crop | None] | None = None
  local_extension: str = files.DELF
  extractor: typing.Any = None
  on_written: Callable[[str, features.ImageFeatures], object] | None = None


def extract_to_files(
  images: Sequence[str | os.PathLike],
  config: delf_config_pb2.DelfConfig,
  output_dir: str | os.PathLike,
  **options: typing.Any,
) -> engine.ImageReport:
  """Extract features of images and write them, each file whole or not at all.

  An image that fails is reported and the others continue. A run that was
  stopped at any moment can be repeated: it does what is missing.
  `extraction.json` in the folder has the model and settings of the files;
  others are refused there. `extraction_images.jsonl` has the size of each
  photo, and which part was extracted; others are done again.

  Args:
    images: Paths of image files.
    config: What to extract.
    output_dir: Local folder, made if need be, for `<name>.delf` (local
      features) and `<name>.delg_global` (the global descriptor).
    **options: Fields of ExtractOptions.

  Returns:
    Report, also after an interrupt by the user (SIGINT).

  Raises:
    InputError: If nothing can be done, as with a folder of other features.
    OSError: If files cannot be written; its `report` has what was done.
  """
  options = ExtractOptions(**options)
  plan = jobs.plan(images, options.names, options.crops)
  made_with = output_folder.describe(
    config, model_folder(config, options), options.apply_rotation
  )
  folder = output_folder.FeatureFolder(
    output_dir, config, options.local_extension, made_with, options.on_written
  )

  def make():
    return options.extractor or _make_extractor(config, options), config

  return engine.run_images(
    plan, folder, make, options, engine.ImageReport(), "extracting"
  )


def model_folder(
  config: delf_config_pb2.DelfConfig, options: typing.Any
) -> os.PathLike | None:
  """Return the folder of a configuration's model, if it is to be used."""
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
  """Seconds of each image, the mean of its repeats, and what they are of.

  Attributes:
    binary_seconds: Of these, the time to turn local descriptors into bits;
      None if it was not measured.
    features: Number of local features of each image.
  """

  device: str
  seconds: tuple[float, ...]
  binary_seconds: tuple[float, ...] | None
  features: tuple[int, ...]
  failed: tuple[engine.Failure, ...]

  @property
  def mean(self) -> float:
    """Seconds per image, over all images and repeats; NaN if all failed."""
    return statistics.fmean(self.seconds) if self.seconds else float("nan")


def measure(
  images: Sequence[str | os.PathLike],
  extractor: typing.Any,
  repeats: int,
  binary_local_features: bool = False,
) -> Latency:
  """Measure extraction, image by image, from pixels in memory to features.

  Loading an image is not included, nor, as the first of a size is slower, one
  extraction before those that count. With `binary_local_features` local
  descriptors are also turned into bits, as ASMK* and binary matching have them.
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
      failed.append(engine.Failure(path, engine.find_problem(path, error)))
  seconds, binary, numbers = zip(*times, strict=True) if times else ((),) * 3
  return Latency(
    extractor.device,
    seconds,
    binary if binary_local_features else None,
    numbers,
    tuple(failed),
  )


def pack_bits(descriptors: np.ndarray) -> np.ndarray:
  """Return the signs of [N, D] as bits [N, ceil(D / 8)], the first highest."""
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
