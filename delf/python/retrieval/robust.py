"""Robust estimation of the map between two sets of points."""

import dataclasses
import numbers

import cv2
import numpy as np

from delf.python import errors
from delf.python.retrieval import models

# Samples at most: 99.9 % sure to draw one of three inliers out of 7 % inliers,
# 92 % sure at 5 %. It stops far earlier where there are more.
MAX_TRIALS = 20_000
_CONFIDENCE = 0.999
_REFINEMENTS = 3
# Maps that are looked at where the first ones squeeze an image to a spot.
_RESTARTS = 5


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A map from points 1 to points 2 and how well each pair agrees with it.

  Attributes:
    model: [2, 3] (affine) or [3, 3] float64 in (x, y), or None where none was
      found.
    residuals: [P] float32, pixels; infinity where there is no model.
    inliers: [P] bool, residuals within the threshold.
  """

  model: np.ndarray | None
  residuals: np.ndarray
  inliers: np.ndarray


def estimate(points_1, points_2, estimator, threshold, *, seed=0, use=None):
  """Finds the map that most pairs agree with.

  OpenCV's USAC (uniform samples, MSAC score, inner local optimisation) finds
  it, least squares on the inliers refine it, and all pairs are counted once
  more with the refined map. The random numbers are its own: threads do not
  disturb each other, and OpenCV's global generator is left alone.

  Args:
    points_1: [P, 2] float, (x, y) pixels.
    points_2: [P, 2] float, (x, y) pixels.
    estimator: One of models.ESTIMATORS.
    threshold: Largest residual of an inlier, in pixels; see `models.residuals`.
    seed: int; one seed, one result.
    use: [P] bool, pairs that the map is sought among, or None for all.

  Returns:
    Estimate. Without a model where there are no more pairs than one sample
    needs, or where only maps exist that squeeze an image, or whose inliers lie
    in one spot: no further spread than the threshold.
  """
  _check(estimator, threshold, seed)
  points_1 = _checked(points_1, "locations 1")
  points_2 = _checked(points_2, "locations 2")
  use = np.ones([len(points_1)], bool) if use is None else use
  # Pixels of images far off the origin still fit float32, which USAC wants.
  shift_1, shift_2 = _centre(points_1), _centre(points_2)
  one, two = points_1 - shift_1, points_2 - shift_2
  for restart in range(_RESTARTS):
    if np.count_nonzero(use) < models.FEWEST[estimator]:
      break
    model = _usac(one[use], two[use], estimator, threshold, seed + restart)
    found = _counted(model, one, two, estimator, threshold)
    if _is_possible(found, one, two, estimator, threshold):
      found = _refined(found, one, two, estimator, threshold)
      shifted = models.shifted(found.model, estimator, shift_1, shift_2)
      return dataclasses.replace(found, model=shifted)
    # What a refused map holds together hides the others.
    use = use & ~found.inliers
  return _none(len(points_1))


def _usac(points_1, points_2, estimator, threshold, seed):
  """Returns a model of OpenCV, or None."""
  one, two = points_1.astype(np.float32), points_2.astype(np.float32)
  parameters = _parameters(threshold, seed)
  try:
    if estimator == models.AFFINE:
      model, _ = cv2.estimateAffine2D(one, two, params=parameters)
      if model is None:
        # Points on one line: a similarity is all that they can decide.
        model, _ = cv2.estimateAffinePartial2D(
          one, two, method=cv2.RANSAC, ransacReprojThreshold=threshold
        )
    elif estimator == models.HOMOGRAPHY:
      model, _ = cv2.findHomography(one, two, parameters)
    else:
      model, _ = cv2.findFundamentalMat(one, two, parameters)
  except cv2.error:
    return None
  return None if model is None else model[:3].astype(np.float64)


def _parameters(threshold, seed):
  parameters = cv2.UsacParams()
  parameters.confidence = _CONFIDENCE
  parameters.isParallel = False
  parameters.loMethod = cv2.LOCAL_OPTIM_INNER_LO
  parameters.loIterations = 10
  parameters.loSampleSize = 20
  parameters.maxIterations = MAX_TRIALS
  parameters.neighborsSearch = cv2.NEIGH_GRID
  parameters.randomGeneratorState = int(seed) & 0x7FFFFFFF
  parameters.sampler = cv2.SAMPLING_UNIFORM
  parameters.score = cv2.SCORE_METHOD_MSAC
  parameters.threshold = float(threshold)
  return parameters


def _refined(best, points_1, points_2, estimator, threshold):
  """Returns an Estimate, after least squares on the inliers of another."""
  for _ in range(_REFINEMENTS):
    one, two = points_1[best.inliers], points_2[best.inliers]
    if len(one) < models.FEWEST[estimator]:
      break
    model = models.least_squares(one, two, estimator)
    found = _counted(model, points_1, points_2, estimator, threshold)
    if np.count_nonzero(found.inliers) < np.count_nonzero(best.inliers):
      break
    if not _is_possible(found, points_1, points_2, estimator, threshold):
      break
    same = np.array_equal(found.inliers, best.inliers)
    best = found
    if same:
      break
  return best


def _counted(model, points_1, points_2, estimator, threshold):
  """Returns an Estimate of a model, which may be None."""
  if model is None or not np.isfinite(model).all():
    return _none(len(points_1))
  if estimator == models.HOMOGRAPHY:
    model = model * models.horizon_side(model, points_1)
  distances = models.distances(model, points_1, points_2, estimator)
  return Estimate(model, distances, distances <= threshold)


def _is_possible(found, points_1, points_2, estimator, threshold):
  """Returns whether an Estimate has a map that is not degenerate."""
  if found.model is None or not found.inliers.any():
    return False
  if estimator == models.FUNDAMENTAL:
    return True
  # One spot, which anything may be sent to.
  if models.spread(points_2[found.inliers]) <= threshold:
    return False
  scale = models.spread(points_2) / max(models.spread(points_1), 1e-9)
  return models.is_possible(found.model, points_1[found.inliers], scale)


def _centre(points):
  return points.mean(axis=0) if len(points) else np.zeros([2])


def _none(number):
  return Estimate(
    None, np.full([number], np.inf, np.float32), np.zeros([number], bool)
  )


def _checked(points, name):
  points = np.asarray(points, np.float64).reshape([-1, 2])
  bad = np.count_nonzero(~np.isfinite(points).all(axis=1))
  if bad:
    raise errors.InputError(
      f"finite {name}", f"NaN or infinity in {bad} of {len(points)}"
    )
  return points


def _check(estimator, threshold, seed):
  if estimator not in models.ESTIMATORS:
    raise errors.InputError(
      f"an estimator of {', '.join(models.ESTIMATORS)}", repr(estimator)
    )
  is_number = isinstance(threshold, numbers.Real)
  if not is_number or not 0 < threshold < np.inf:
    raise errors.InputError(
      "a residual threshold over 0 pixels", repr(threshold)
    )
  if not isinstance(seed, numbers.Integral):
    raise errors.InputError("a whole number as seed", repr(seed))
