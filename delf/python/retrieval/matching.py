"""Matching of the local features of two images."""

import dataclasses
import numbers

import numpy as np

from delf.python import errors
from delf.python.retrieval import chance, models, neighbours, robust

# Fewest inliers of a match, however small the chance of fewer.
MIN_INLIERS = 10

# Pixels. An affine map is the first order of what a camera does, so it gets the
# 20 of the original; the exact ones need no such allowance.
DEFAULT_THRESHOLDS = {
  models.AFFINE: 20.0,
  models.HOMOGRAPHY: 10.0,
  models.FUNDAMENTAL: 3.0,
}


@dataclasses.dataclass(frozen=True)
class MatchOptions:
  """How features are matched. The defaults suit any unit-length descriptor.

  Attributes:
    max_distance: Largest Euclidean distance of descriptors, exclusive, or
      None.
    ratio: Largest (exclusive) distance as a share of that to the second
      nearest, or None.
    mutual: Whether each must be the other's nearest neighbour.
    estimator: "affine" (as the original), "homography" or "fundamental".
    residual_threshold: Largest residual of an inlier, in pixels of image 2
      (Sampson distance for "fundamental"), or None for DEFAULT_THRESHOLDS.
    seed: int; one seed, one result.
    min_inliers: Inliers that make a match, or None for the default of `Match`.
  """

  max_distance: float | None = None
  ratio: float | None = None
  mutual: bool = True
  estimator: str = models.AFFINE
  residual_threshold: float | None = None
  seed: int = 0
  min_inliers: int | None = None


@dataclasses.dataclass(frozen=True)
class Match:
  """What agrees between two images.

  Attributes:
    putative: [P, 2] int32, matches by descriptor: indices into features 1, 2.
    inliers: [M, 2] int32, those of them that agree with the model.
    model: [2, 3] (affine) or [3, 3] float64, from image 1 to image 2 in (x, y)
      pixels, or None where nothing was found.
    residuals: [M] float32, pixels that each inlier is off.
    distances: [M] float32, Euclidean distance of each inlier's descriptors.
    residual_threshold: Largest residual of an inlier, in pixels.
    min_inliers: Score from which on the images are said to match. Default: the
      least number that chance does not explain (`chance.needed_inliers`), and
      at least 10.
  """

  putative: np.ndarray
  inliers: np.ndarray
  model: np.ndarray | None
  residuals: np.ndarray
  distances: np.ndarray
  residual_threshold: float
  min_inliers: int

  @property
  def score(self):
    """Number of inliers."""
    return len(self.inliers)

  @property
  def is_match(self):
    """Whether the images show the same thing: enough inliers."""
    return self.score >= self.min_inliers

  @property
  def strengths(self):
    """[M] float32 in [0, 1]: 1 for an inlier on the spot, 0 at the limit."""
    return 1 - self.residuals / np.float32(self.residual_threshold)


def match(features_1, features_2, options=None, **changes):
  """Matches the local features of two images.

  Args:
    features_1: features.LocalFeatures of image 1.
    features_2: features.LocalFeatures of image 2.
    options: MatchOptions, or None for the defaults.
    **changes: Fields of MatchOptions to change.

  Returns:
    Match. With score 0 and no model where features are too few to tell.

  Raises:
    InputError: If values are not finite, dimensions differ or an option is
      wrong.
  """
  return match_arrays(
    features_1.locations,
    features_1.descriptors,
    features_2.locations,
    features_2.descriptors,
    options,
    **changes,
  )


def match_arrays(
  locations_1,
  descriptors_1,
  locations_2,
  descriptors_2,
  options=None,
  **changes,
):
  """Matches local features given as arrays.

  Args:
    locations_1: [N1, 2] float, (y, x) in pixels of image 1.
    descriptors_1: [N1, D] float.
    locations_2: [N2, 2] float, (y, x) in pixels of image 2.
    descriptors_2: [N2, D] float.
    options: MatchOptions, or None for the defaults.
    **changes: Fields of MatchOptions to change.

  Returns:
    Match.

  Raises:
    InputError: If values are not finite, shapes differ or an option is wrong.
  """
  options = dataclasses.replace(options or MatchOptions(), **changes)
  _check_min_inliers(options.min_inliers)
  threshold = options.residual_threshold
  if threshold is None:
    threshold = DEFAULT_THRESHOLDS.get(options.estimator, 20.0)
  putatives = neighbours.nearest(
    descriptors_1,
    descriptors_2,
    max_distance=options.max_distance,
    ratio=options.ratio,
    mutual=options.mutual,
  )
  points_1 = points(locations_1, descriptors_1, "image 1")
  points_2 = points(locations_2, descriptors_2, "image 2")
  points_1 = points_1[putatives.pairs[:, 0]]
  points_2 = points_2[putatives.pairs[:, 1]]
  found = robust.estimate(
    points_1,
    points_2,
    options.estimator,
    threshold,
    seed=options.seed,
    use=putatives.one_to_one(),
  )
  return from_estimate(
    putatives,
    found,
    points_1,
    points_2,
    dataclasses.replace(options, residual_threshold=threshold),
  )


def from_estimate(putatives, found, points_1, points_2, options):
  """Returns the Match of an estimated map.

  Args:
    putatives: neighbours.Putatives of features 1 and 2.
    found: robust.Estimate of them.
    points_1: [P, 2] float, where the putative matches lie in the image that the
      map comes from.
    points_2: [P, 2] float, the same in the image that it leads to.
    options: MatchOptions with the threshold that was used.

  Returns:
    Match.
  """
  needed = options.min_inliers
  if needed is None:
    needed = chance.needed_inliers(
      points_1,
      points_2,
      found.model,
      options.estimator,
      options.residual_threshold,
      MIN_INLIERS,
    )
  return Match(
    putative=putatives.pairs,
    inliers=putatives.pairs[found.inliers],
    model=found.model,
    residuals=found.residuals[found.inliers],
    distances=putatives.distances[found.inliers],
    residual_threshold=float(options.residual_threshold),
    min_inliers=needed,
  )


def points(locations, descriptors, name):
  """Returns locations as points, checked.

  Args:
    locations: [N, 2] float, (y, x) pixels.
    descriptors: [N, D] float that belong to them, checked.
    name: Words for whose they are.

  Returns:
    [N, 2] float64, (x, y) pixels.

  Raises:
    InputError: If they are not N finite pairs.
  """
  locations = np.asarray(locations, dtype=np.float64)
  if locations.size == 0 and np.size(descriptors) == 0:
    return np.zeros([0, 2])
  if locations.shape != (len(descriptors), 2):
    raise errors.InputError(
      f"locations of shape [{len(descriptors)}, 2] of {name}",
      f"shape {list(locations.shape)}",
    )
  bad = np.count_nonzero(~np.isfinite(locations).all(axis=1))
  if bad:
    raise errors.InputError(
      f"finite locations of {name}",
      f"NaN or infinity in {bad} of {len(locations)}",
    )
  return locations[:, ::-1]


def _check_min_inliers(number):
  is_whole = isinstance(number, numbers.Integral)
  if number is not None and not (is_whole and number > 0):
    raise errors.InputError(
      "a whole number over 0 as min_inliers", repr(number)
    )
