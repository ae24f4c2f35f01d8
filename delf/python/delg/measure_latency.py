"""Measure the latency of extraction (script)."""

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


def define_flags() -> None:
  """Define the flags."""
  scripts.define_config()
  scripts.define_list("/tmp/list_images.txt")
  define("repeat_per_image", 10, "Number of extractions of each image.")
  help = "Whether to include the conversion of local descriptors to bits."
  define("binary_local_features", False, help)
  scripts.define_device()


@dataclasses.dataclass(frozen=True)
class Latency:
  """Latency of extraction."""

  device: str
  seconds: tuple[float, ...]  # Of each image, the mean of its repeats.
  # Part of `seconds` to convert local descriptors to bits, if included.
  binary_seconds: tuple[float, ...] | None
  features: tuple[int, ...]  # Number of local features of each image.
  failed: tuple[engine.Failure, ...]

  @property
  def mean(self) -> float:
    """Mean seconds per image, over all images; NaN if all failed."""
    return statistics.fmean(self.seconds) if self.seconds else float("nan")


def measure(
  images: Sequence[str | os.PathLike],
  extractor: typing.Any,
  repeats: int,
  binary_local_features: bool = False,
) -> Latency:
  """Measure extraction of single images, from pixels in memory to features.

  Loading is excluded, and so is one extraction before the others, since the
  first of a size is slower. With `binary_local_features`, conversion of local
  descriptors to bits, for ASMK* and binary matching, is included.
  """
  if not images:
    raise errors.InputError("the list has no images: at least one is required")
  if repeats < 1:
    raise errors.InputError(f"at least 1 repeat is required, not {repeats}")
  if binary_local_features and not extractor.config.use_local_features:
    raise errors.InputError("binary features need use_local_features")
  times, failed = [], []
  for path in progress.track(images, f"measuring on {extractor.device}"):
    try:
      image = np.asarray(utils.RgbLoader(path))
      times.append(_time(image, extractor, repeats, binary_local_features))
    except Exception as error:  # Concerns one image, as for its size.
      path = os.fspath(path)
      reason = engine.find_problem(path, error) or str(error)
      failed.append(engine.Failure(path, reason))
  seconds, binary, numbers = zip(*times, strict=True) if times else ((),) * 3
  return Latency(
    extractor.device,
    seconds,
    binary if binary_local_features else None,
    numbers,
    tuple(failed),
  )


def pack_bits(descriptors: np.ndarray) -> np.ndarray:
  """Return the signs of [N, D] as bits, [N, ceil(D / 8)], big-endian."""
  return np.packbits(descriptors > 0, axis=1)


def _time(image, extractor, repeats, binary_local_features):
  """Return seconds per extraction, the part for bits, and local features."""
  features = extractor.extract(image)
  total = binary = 0.0
  for _ in range(repeats):
    start = time.perf_counter()
    features = extractor.extract(image)
    extracted = time.perf_counter()
    if binary_local_features:
      pack_bits(features.local.descriptors)
    end = time.perf_counter()
    total, binary = total + end - start, binary + end - extracted
  number = 0 if features.local is None else len(features.local.scales)
  return total / repeats, binary / repeats, number


def main() -> int:
  """Measure and print; return the exit status."""
  from delf.inference import extractor

  images = files.read_lines(FLAGS.list_images_path)
  config = configs.read_delf_config(FLAGS.delf_config_path)
  extract = extractor.make_extractor(config, device=FLAGS.device)
  repeats, binary = FLAGS.repeat_per_image, FLAGS.binary_local_features
  measured = measure(images, extract, repeats, binary)
  for failure in measured.failed:
    scripts.print_problem(str(failure))
  if not measured.seconds:
    return 1
  ordered = sorted(measured.seconds)
  lines = [
    f"device                  {measured.device}",
    f"images                  {len(ordered)}",
    f"extractions per image   {repeats}",
    f"seconds per image       {measured.mean:.4f} (mean)",
    f"  median                {statistics.median(ordered):.4f}",
    f"  fastest, slowest      {ordered[0]:.4f}, {ordered[-1]:.4f}",
    f"images per second       {1 / measured.mean:.2f}",
    f"local features          {statistics.fmean(measured.features):.0f} (mean)",
  ]
  if measured.binary_seconds is not None:
    seconds = statistics.fmean(measured.binary_seconds)
    lines.append(f"  binary features       {seconds:.6f} s per image")
  print("\n".join(lines))  # noqa: T201
  return 1 if measured.failed else 0


if __name__ == "__main__":
  scripts.run(main, define_flags)
