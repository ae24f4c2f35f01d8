"""How long the extraction of one image takes."""

import dataclasses
import statistics
import time

import numpy as np

from delf.python import errors, progress, utils
from delf.python.pipelines import extract_report, problems


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
  failed: tuple[extract_report.Failure, ...]

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
      reason = problems.find(path, error)
      failed.append(extract_report.Failure(path, reason))
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
