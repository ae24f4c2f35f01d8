"""Geometric verification: how many local features agree with an affine map."""

import dataclasses
import numbers

import numpy as np

from delf.python import errors
from delf.python.retrieval import matching, models, neighbours, robust

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
  estimate: robust.Estimate | None
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
  return Side(matching.points(locations, prepared.array, name), prepared)


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
  found = robust.estimate(
    *pair_points(query, index, putatives),
    models.AFFINE,
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
