"""Matching of the local features of two images."""

import dataclasses
import numbers

import numpy as np

from delf.base import arrays, errors
from delf.matching import geometry, neighbours

# Fewest inliers of a match, however small the chance of fewer.
MIN_INLIERS = 10

# Pixels. An affine map is the first order of what a camera does, so it gets the
# 20 of the original; the exact ones need no such allowance.
DEFAULT_THRESHOLDS = {
  geometry.AFFINE: 20.0,
  geometry.HOMOGRAPHY: 10.0,
  geometry.FUNDAMENTAL: 3.0,
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
  estimator: str = geometry.AFFINE
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
  found = geometry.estimate(
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
    needed = geometry.needed_inliers(
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
  return arrays.check_finite(locations, f"locations of {name}")[:, ::-1]


def _check_min_inliers(number):
  is_whole = isinstance(number, numbers.Integral)
  if number is not None and not (is_whole and number > 0):
    raise errors.InputError(
      "a whole number over 0 as min_inliers", repr(number)
    )


# Matches that any affine map agrees with.
_TOO_FEW = 3


@dataclasses.dataclass(frozen=True)
class VerifyOptions:
  """How pairs are verified; the defaults are Detect-to-Retrieve's.

  Attributes:
    descriptor_threshold: Largest (exclusive) Euclidean distance of descriptors;
      with `use_ratio_test`, largest (exclusive) share of the distance to the
      second nearest.
    residual_threshold: Largest residual of an inlier, in pixels of the query
      image.
    use_ratio_test: Whether to compare with the second nearest descriptor.
    seed: int of the random samples, the same for each pair: what comes of a
      pair does not depend on what was verified before it.

  Raises:
    InputError: If a threshold is not over 0, or the seed no whole number.
  """

  descriptor_threshold: float = 0.9
  residual_threshold: float = 10.0
  use_ratio_test: bool = False
  seed: int = 0

  def __post_init__(self):
    for name in ("descriptor_threshold", "residual_threshold"):
      value = getattr(self, name)
      if not isinstance(value, numbers.Real) or not 0 < value < np.inf:
        raise errors.InputError(f"{name} over 0", repr(value))
    if not isinstance(self.seed, numbers.Integral):
      raise errors.InputError("a whole number as seed", repr(self.seed))


@dataclasses.dataclass(frozen=True)
class Side:
  """The local features of one image, prepared for many pairs.

  Attributes:
    points: [N, 2] float64, (x, y) pixels.
    descriptors: neighbours.Prepared of [N, D].
  """

  points: np.ndarray
  descriptors: neighbours.Prepared

  def __len__(self):
    return len(self.points)

  @property
  def nbytes(self):
    """Bytes that it takes."""
    return self.points.nbytes + self.descriptors.nbytes


@dataclasses.dataclass(frozen=True)
class Verified:
  """What agrees between a query image and an index image.

  Attributes:
    putatives: neighbours.Putatives, from query to index features.
    estimate: robust.Estimate of the map from the index to the query image, or
      None where there are at most three putative matches.
    inliers: Number of inliers; 0 without an estimate.
  """

  putatives: neighbours.Putatives
  estimate: geometry.Estimate | None
  inliers: int


def prepare(locations, descriptors, name="the image"):
  """Prepares the local features of an image.

  Args:
    locations: [N, 2] float, (y, x) in pixels.
    descriptors: [N, D] float.
    name: Words for whose they are.

  Returns:
    Side.

  Raises:
    InputError: If they do not fit together or values are not finite.
  """
  prepared = neighbours.prepare(descriptors, f"descriptors of {name}")
  return Side(points(locations, prepared.array, name), prepared)


def verify(query, index, options):
  """Finds the affine map that most putative matches of two images agree with.

  Each query feature's nearest index feature is a putative match; the map goes
  from the index image to the query image.

  Args:
    query: Side of the query image.
    index: Side of the index image.
    options: VerifyOptions.

  Returns:
    Verified.

  Raises:
    InputError: If dimensions differ or an option is wrong.
  """
  limit = "ratio" if options.use_ratio_test else "max_distance"
  putatives = neighbours.nearest(
    query.descriptors,
    index.descriptors,
    **{limit: options.descriptor_threshold},
  )
  if len(putatives) <= _TOO_FEW:
    return Verified(putatives, None, 0)
  found = geometry.estimate(
    *pair_points(query, index, putatives),
    geometry.AFFINE,
    options.residual_threshold,
    seed=options.seed,
    use=putatives.one_to_one(),
  )
  return Verified(putatives, found, int(np.count_nonzero(found.inliers)))


def pair_points(query, index, putatives):
  """Returns where putative matches lie in the index and in the query image.

  Args:
    query: Side of the query image.
    index: Side of the index image.
    putatives: neighbours.Putatives, from query to index features.

  Returns:
    [P, 2] float64 and [P, 2] float64, (x, y) pixels; the index image first, as
    the map goes.
  """
  of_query, of_index = putatives.pairs.T
  return index.points[of_index], query.points[of_query]
