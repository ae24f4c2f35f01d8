"""Script that measures how long the extraction of an image takes."""

import dataclasses
import os
import statistics
import time
import typing
from collections.abc import Sequence

import numpy as np

from delf.base import errors, files, progress
from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.extraction import engine
from delf.formats import configs
from delf.python import utils


def define_flags():
  """Define the flags."""
  scripts.define_config()
  scripts.define_list("/tmp/list_images.txt")
  define("repeat_per_image", 10, "how often each image is extracted")
  help = "whether to count also how long local descriptors take to become bits"
  define("binary_local_features", False, help)
  scripts.define_device()


@dataclasses.dataclass(frozen=True)
class Latency:
  """Seconds of each image, the mean of its repeats, and what they are of."""

  device: str
  seconds: tuple[float, ...]
  # Of these, the time to turn local descriptors into bits, if measured.
  binary_seconds: tuple[float, ...] | None
  features: tuple[int, ...]  # Number of local features of each image.
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


def main():
  """Measures and prints; returns the exit status."""
  from delf.inference import extractor

  images = files.read_lines(FLAGS.list_images_path)
  config = configs.read_delf_config(FLAGS.delf_config_path)
  extract = extractor.make_extractor(config, device=FLAGS.device)
  how = FLAGS.repeat_per_image, FLAGS.binary_local_features
  measured = measure(images, extract, *how)
  for failure in measured.failed:
    scripts.print_problem(failure)
  if measured.seconds:
    _print(measured)
  return 1 if measured.failed else 0


def _print(measured):
  ordered = sorted(measured.seconds)
  lines = [
    f"device                  {measured.device}",
    f"images                  {len(ordered)}",
    f"extractions per image   {FLAGS.repeat_per_image}",
    f"seconds per image       {measured.mean:.4f} (mean)",
    f"  median                {statistics.median(ordered):.4f}",
    f"  fastest, slowest      {ordered[0]:.4f}, {ordered[-1]:.4f}",
    f"images per second       {1 / measured.mean:.2f}",
    f"local features          {statistics.fmean(measured.features):.0f} (mean)",
  ]
  if measured.binary_seconds is not None:
    binary = statistics.fmean(measured.binary_seconds)
    lines.append(f"of it, binary features  {binary:.6f} s per image")
  print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
  scripts.run(main, define_flags)
