"""Whether two models give the same features of photos, to rounding."""

import dataclasses
import os

import numpy as np

from delf.python import errors, progress, utils

# Locations that are nearer than this, in pixels, are of one feature. Weights of
# fewer bits move a keypoint inside its cell where two places are as good.
_NEAR = 0.5
_NEAR_IN_FLOAT32 = 0.01

# Of attention that is 0 everywhere, shares are of this.
_TINY = float(np.finfo(np.float32).tiny)

# A difference of scales counts as so many pixels: other scales are no match.
_SCALE_WEIGHT = 1000.0


@dataclasses.dataclass(frozen=True)
class Differences:
  """The largest differences between the features of two models.

  Attributes:
    photos: Number of photos.
    features: Number of local features of the reference, of all photos.
    common: Least share of a photo's local features that both have.
    location: Of locations that both have, in pixels.
    attention: Of theirs, as a share of the photo's largest.
    descriptor: Of values of their descriptors, which have norm 1.
    global_descriptor: Of values of the global descriptors, which have norm 1.
  """

  photos: int = 0
  features: int = 0
  common: float = 1.0
  location: float = 0.0
  attention: float = 0.0
  descriptor: float = 0.0
  global_descriptor: float = 0.0

  def joined(self, other):
    """Returns those of both."""
    return Differences(
      self.photos + other.photos,
      self.features + other.features,
      min(self.common, other.common),
      *(
        max(getattr(self, name), getattr(other, name))
        for name in ("location", "attention", "descriptor", "global_descriptor")
      ),
    )

  def over(self, limits):
    """Returns words for what is over the limits, Differences; "" for none."""
    found = []
    if not self.common >= limits.common:
      found.append(f"{self.common:.1%} of the local features in common")
    for name in ("location", "attention", "descriptor", "global_descriptor"):
      value = getattr(self, name)
      if not value <= getattr(limits, name):
        found.append(f"{name.replace('_', ' ')}s that differ by {value:.2g}")
    return ", ".join(found)


def compare(reference, found, near=_NEAR):
  """Compares the features of one photo.

  Args:
    reference: features.ImageFeatures.
    found: features.ImageFeatures of another model.
    near: Pixels under which two locations are of one feature.

  Returns:
    Differences.
  """
  differences = Differences(photos=1)
  if reference.local is not None:
    differences = differences.joined(_compare_local(reference, found, near))
  if reference.global_descriptor is not None:
    differences = differences.joined(
      Differences(
        global_descriptor=_largest(
          reference.global_descriptor, found.global_descriptor
        )
      )
    )
  return differences


def _compare_local(reference, found, near):
  one, other = reference.local, found.local
  number = max(len(one.locations), len(other.locations))
  if not min(len(one.locations), len(other.locations)):
    return Differences(features=len(one.locations), common=float(not number))
  first, second = _same_cells(one, other, near)
  largest = max(float(np.abs(one.attention).max()), _TINY)
  return Differences(
    features=len(one.locations),
    common=len(first) / number,
    location=_largest(one.locations[first], other.locations[second]),
    attention=_largest(one.attention[first], other.attention[second]) / largest,
    descriptor=_largest(one.descriptors[first], other.descriptors[second]),
  )


def _same_cells(one, other, near):
  """Returns positions in both of features of one place and scale."""
  from scipy import spatial

  points = [
    np.concatenate([f.locations, f.scales[:, np.newaxis] * _SCALE_WEIGHT], 1)
    for f in (one, other)
  ]
  distances, nearest = spatial.cKDTree(points[1]).query(
    points[0], distance_upper_bound=near
  )
  first = np.flatnonzero(np.isfinite(distances))
  return first, nearest[first]


def _largest(one, other):
  return float(np.abs(one - other).max(initial=0))


# What may differ, by how weights are kept. In float32 it is the order of sums;
# features whose attention is equal up to that may change places at the end of
# the list. Measured on photos, with the compact network and with ResNet-50 with
# and without an autoencoder: descriptors up to 1e-5, attention 1.1e-5, global
# descriptors 9e-8, locations 2.4e-4 px. The compact one in float16: 0.015,
# 0.036, 1e-4, and 99.4 % in common; dynamic-range: 0.024, 0.045, 1.3e-3, 82 %.
_LIMITS = {
  "float32": Differences(
    common=0.99,
    location=_NEAR_IN_FLOAT32,
    attention=1e-4,
    descriptor=1e-4,
    global_descriptor=1e-5,
  ),
  "float16": Differences(
    common=0.95,
    location=_NEAR,
    attention=0.1,
    descriptor=0.05,
    global_descriptor=2e-3,
  ),
  "dynamic-range": Differences(
    common=0.5,
    location=_NEAR,
    attention=0.3,
    descriptor=0.2,
    global_descriptor=0.02,
  ),
}


def require_photos(photos):
  """Reads photos, so that one that is none is told before long work.

  Args:
    photos: Paths of images.

  Raises:
    FileNotFoundError: If one is missing.
    InputError: If one cannot be read.
  """
  for path in photos:
    utils.RgbLoader(os.fspath(path))


def try_on(reference, made, config, photos, precision):
  """Compares two models on photos.

  Args:
    reference: saved_model.ExtractionModel or single_file.SingleFileModel.
    made: One of these.
    config: DelfConfig.
    photos: Paths of images.
    precision: How the weights of `made` are kept.

  Returns:
    Differences.

  Raises:
    InputError: If they are not what rounding of this precision makes.
  """
  from delf.python.inference import extractor

  extractors = [extractor.Extractor(config, each) for each in (reference, made)]
  found = Differences()
  near = _NEAR_IN_FLOAT32 if precision == "float32" else _NEAR
  for path in progress.track(photos, "comparing features"):
    photo = np.array(utils.RgbLoader(os.fspath(path)))
    both = (each.extract(photo) for each in extractors)
    found = found.joined(compare(*both, near))
  over = found.over(_LIMITS[precision])
  if over:
    raise errors.InputError(
      f"features that differ by no more than rounding ({precision})", over
    )
  return found
