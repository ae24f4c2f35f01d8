"""Maps between two images that many of their matches agree with.

`estimate` finds such a map; `needed_inliers` says how many inliers chance alone
does not explain.
"""

import dataclasses

import cv2
import numpy as np
from scipy import spatial, special

from delf.base import arrays

AFFINE = "affine"
HOMOGRAPHY = "homography"
FUNDAMENTAL = "fundamental"
ESTIMATORS = (AFFINE, HOMOGRAPHY, FUNDAMENTAL)

# Points that decide a model. As many matches say nothing, so more are needed.
SAMPLE_SIZES = {AFFINE: 3, HOMOGRAPHY: 4, FUNDAMENTAL: 7}
# The eight-point refinement of OpenCV needs one more than the sample.
_FEWEST = {AFFINE: 4, HOMOGRAPHY: 5, FUNDAMENTAL: 9}
# Models that a sample may leave: seven points, the roots of a cubic.
_MODELS_OF_SAMPLE = {AFFINE: 1, HOMOGRAPHY: 1, FUNDAMENTAL: 3}

# Samples at most: 99.9 % sure to draw one of three inliers out of 7 % inliers,
# 92 % sure at 5 %. It stops far earlier where there are more.
_MAX_TRIALS = 20_000
_CONFIDENCE = 0.999
_REFINEMENTS = 3
# Further models that are tried where the first one shrinks an image to a spot.
_RESTARTS = 5
# A map that stretches one direction more than ten times, beside the ratio of
# image sizes, flattens an image to a line, and has inliers in any two images.
# ASIFT (Morel and Yu, 2009) stops at about 8.
_MAX_STRETCH = 10.0


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A map from points 1 to points 2 and how well each pair agrees with it."""

  model: np.ndarray | None  # [2, 3] (affine) or [3, 3] float64 in (x, y).
  residuals: np.ndarray  # [P] float32, pixels; infinity without a model.
  inliers: np.ndarray  # [P] bool, residuals within the threshold.


def estimate(
  points_1: np.ndarray,
  points_2: np.ndarray,
  estimator: str,
  threshold: float,
  *,
  seed: int = 0,
  use: np.ndarray | None = None,
) -> Estimate:
  """Estimate the map that most pairs agree with.

  OpenCV's USAC (uniform samples, MSAC score, inner local optimisation) finds
  it, least squares on the inliers refine it, and all pairs are counted once
  more with the refined map. The random numbers are its own: threads do not
  disturb each other, and OpenCV's global generator is left alone.

  There is no model where there are no more pairs than one sample needs, or
  where only maps exist that squeeze an image, or whose inliers lie in one spot:
  no further spread than the threshold.

  Args:
    points_1: [P, 2], (x, y) pixels, as points 2.
    threshold: Largest residual of an inlier, in pixels.
    use: [P] bool, pairs to sample from; None for all.
  """
  points_1, points_2 = (
    arrays.check_finite(np.asarray(points, np.float64).reshape([-1, 2]), label)
    for points, label in ((points_1, "locations 1"), (points_2, "locations 2"))
  )
  use = np.ones([len(points_1)], bool) if use is None else use
  # Pixels of images far off the origin still fit float32, which USAC wants.
  shift_1, shift_2 = _mean(points_1), _mean(points_2)
  one, two = points_1 - shift_1, points_2 - shift_2
  for restart in range(_RESTARTS):
    if np.count_nonzero(use) < _FEWEST[estimator]:
      break
    model = _usac(one[use], two[use], estimator, threshold, seed + restart)
    result = _measure(model, one, two, estimator, threshold)
    if _is_plausible(result, one, two, estimator, threshold):
      result = _refine(result, one, two, estimator, threshold)
      model = _shift(result.model, estimator, shift_1, shift_2)
      return dataclasses.replace(result, model=model)
    # Inliers of a refused map would hide those of a better one.
    use = use & ~result.inliers
  return _no_estimate(len(points_1))


def residuals(
  model: np.ndarray,
  points_1: np.ndarray,
  points_2: np.ndarray,
  estimator: str | None = None,
) -> np.ndarray:
  """Return the distance of each pair from a map, in pixels, float32.

  Points 1 are [P, 2], (x, y) pixels; with points 2 [P, 2] or [S, P, 2] it is
  [P] or [S, P]. Of a [2, 3] affine map or [3, 3] homography it is that of
  mapped points 1 to points 2: infinity beyond a homography's horizon. Of
  FUNDAMENTAL, [3, 3] with (x2, y2, 1) model (x1, y1, 1) = 0, it is Sampson's:
  to first order that to the nearest pair that fulfils the equation (Hartley and
  Zisserman, 2nd edition, eq. 11.9).
  """
  if estimator == FUNDAMENTAL:
    return _sampson(model, np.asarray(points_1), np.asarray(points_2))
  points_1 = np.asarray(points_1, np.float64)
  mapped = points_1 @ model[:, :2].T + model[:, 2]
  if len(model) == 3:
    depth = mapped[:, 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
      mapped = np.where(depth > 0, mapped[:, :2] / depth, np.inf)
  with np.errstate(invalid="ignore"):
    difference = mapped - points_2
  return np.hypot(difference[..., 0], difference[..., 1]).astype(np.float32)


def _sampson(model, points_1, points_2):
  lines_2 = points_1 @ model[:, :2].T + model[:, 2]
  lines_1 = points_2 @ model[:2] + model[2]
  x, y = points_2[..., 0], points_2[..., 1]
  numerator = np.abs(x * lines_2[:, 0] + y * lines_2[:, 1] + lines_2[:, 2])
  square = lines_1[..., 0] ** 2 + lines_1[..., 1] ** 2
  square = square + lines_2[:, 0] ** 2 + lines_2[:, 1] ** 2
  with np.errstate(divide="ignore", invalid="ignore"):
    distances = numerator / np.sqrt(square)
  return np.nan_to_num(distances, nan=np.inf, posinf=np.inf).astype(np.float32)


def _usac(points_1, points_2, estimator, threshold, seed):
  """Returns a model of OpenCV, or None."""
  one, two = points_1.astype(np.float32), points_2.astype(np.float32)
  parameters = cv2.UsacParams()
  parameters.confidence = _CONFIDENCE
  parameters.isParallel = False
  parameters.loMethod = cv2.LOCAL_OPTIM_INNER_LO
  parameters.loIterations = 10
  parameters.loSampleSize = 20
  parameters.maxIterations = _MAX_TRIALS
  parameters.neighborsSearch = cv2.NEIGH_GRID
  parameters.randomGeneratorState = int(seed) & 0x7FFFFFFF
  parameters.sampler = cv2.SAMPLING_UNIFORM
  parameters.score = cv2.SCORE_METHOD_MSAC
  parameters.threshold = float(threshold)
  try:
    if estimator == AFFINE:
      model, _ = cv2.estimateAffine2D(one, two, params=parameters)
      if model is None:
        # Points on one line: a similarity is all that they can decide.
        model, _ = cv2.estimateAffinePartial2D(
          one, two, method=cv2.RANSAC, ransacReprojThreshold=threshold
        )
    elif estimator == HOMOGRAPHY:
      model, _ = cv2.findHomography(one, two, parameters)
    else:
      model, _ = cv2.findFundamentalMat(one, two, parameters)
  except cv2.error:
    return None
  return None if model is None else model[:3].astype(np.float64)


def _least_squares(one, two, estimator):
  """Returns the model of all these pairs, or None."""
  if estimator == AFFINE:
    design = np.hstack([one, np.ones([len(one), 1])])
    solution, _, rank, _ = np.linalg.lstsq(design, two, rcond=None)
    return solution.T if rank == 3 else None
  if estimator == HOMOGRAPHY:
    model, _ = cv2.findHomography(one, two, 0)
  else:
    model, _ = cv2.findFundamentalMat(one, two, cv2.FM_8POINT)
  return model if model is not None and model.shape == (3, 3) else None


def _refine(best, points_1, points_2, estimator, threshold):
  """Returns an Estimate after least squares on the inliers of another."""
  for _ in range(_REFINEMENTS):
    one, two = points_1[best.inliers], points_2[best.inliers]
    if len(one) < _FEWEST[estimator]:
      break
    model = _least_squares(one, two, estimator)
    refined = _measure(model, points_1, points_2, estimator, threshold)
    if np.count_nonzero(refined.inliers) < np.count_nonzero(best.inliers):
      break
    if not _is_plausible(refined, points_1, points_2, estimator, threshold):
      break
    is_same = np.array_equal(refined.inliers, best.inliers)
    best = refined
    if is_same:
      break
  return best


def _measure(model, points_1, points_2, estimator, threshold):
  """Returns the Estimate of a model, which may be None."""
  if model is None or not np.isfinite(model).all():
    return _no_estimate(len(points_1))
  if estimator == HOMOGRAPHY:
    # Most points are on the visible side of the horizon.
    side = np.median(points_1 @ model[2, :2] + model[2, 2])
    model = model * (-1.0 if side < 0 else 1.0)
  distances = residuals(model, points_1, points_2, estimator)
  return Estimate(model, distances, distances <= threshold)


def _no_estimate(number):
  return Estimate(
    None, np.full([number], np.inf, np.float32), np.zeros([number], bool)
  )


def _is_plausible(result, points_1, points_2, estimator, threshold):
  """Returns whether a map neither flattens nor blows up its inliers."""
  model, inliers = result.model, result.inliers
  if model is None or not inliers.any():
    return False
  if estimator == FUNDAMENTAL:
    return True
  # One spot, which anything may be sent to.
  if _extent(points_2[inliers]) <= threshold:
    return False
  jacobian = model[:2, :2]
  if len(model) == 3:
    mapped = model @ [*points_1[inliers].mean(axis=0), 1.0]
    if mapped[2] <= 0:
      return False
    jacobian = (
      jacobian - np.outer(mapped[:2] / mapped[2], model[2, :2])
    ) / mapped[2]
  stretch = np.linalg.svd(jacobian, compute_uv=False)
  # Extents may differ by scale or by content.
  scale = _extent(points_2) / max(_extent(points_1), 1e-9)
  most, least = max(scale, 1) * _MAX_STRETCH, min(scale, 1) / _MAX_STRETCH
  return stretch[0] <= most and stretch[1] >= least


def _extent(points):
  """Returns the root mean square distance of points to their mean."""
  return np.sqrt(points.var(axis=0).sum()) if len(points) else 0.0


def _mean(points):
  return points.mean(axis=0) if len(points) else np.zeros([2])


def _shift(model, estimator, shift_1, shift_2):
  """Returns a model of centred points as one of the points themselves."""
  if estimator == AFFINE:
    offset = model[:, 2] + shift_2 - model[:, :2] @ shift_1
    return np.hstack([model[:, :2], offset[:, None]])
  to_centre, from_centre = np.eye(3), np.eye(3)
  to_centre[:2, 2] = -shift_1
  if estimator == FUNDAMENTAL:
    from_centre[2, :2] = -shift_2
  else:
    from_centre[:2, 2] = shift_2
  model = from_centre @ model @ to_centre
  # Not by its sign, which says on which side of the horizon the points are.
  scale = abs(model[2, 2])
  return model / (scale if scale > 1e-12 else np.linalg.norm(model))


# Points whose crowding is measured.
_CROWD_POINTS = 500
# Wrong pairs that the chance of a map is measured on.
_WRONG_PAIRS = 20_000
# Matches of neighbours are alike, and the test takes them for independent: with
# 0.01 it called 55 of 300 unrelated small photos a match by an affine map, with
# this 16, and 179 of 186 related ones in place of 180 (held out of training).
_FALSE_ALARMS = 1e-6


def needed_inliers(
  points_1: np.ndarray,
  points_2: np.ndarray,
  model: np.ndarray | None,
  estimator: str,
  threshold: float,
  fewest: int,
) -> int:
  """Return how many inliers of a map chance alone does not explain.

  The a contrario test of Moisan and Stival (IJCV 2004): with n pairs,
  samples of s that leave up to m maps each, and a chance p that a wrong pair
  agrees, k inliers are to be expected m (n - s) C(n, k) C(k, s) p^(k - s) times
  among all maps. The least k is taken that is expected under 1e-6 times. p is
  measured on the estimated map, and never less than for points that lie
  evenly: where images differ in size, or points crowd, a map may have more.

  Points are [P, 2], (x, y) pixels of the putative matches. The result is at
  least `fewest`, and P + 1 (never reached) where any number could be chance.
  """
  number, sample = len(points_2), SAMPLE_SIZES[estimator]
  if number <= sample:
    return max(fewest, number + 1)
  counts = np.arange(sample + 1, number + 1)
  chance = _uniform_chance(points_2, estimator, threshold)
  if model is not None:
    measured = _wrong_chance(points_1, points_2, model, estimator, threshold)
    chance = max(chance, measured)
  alarms = (
    np.log(_MODELS_OF_SAMPLE[estimator] * (number - sample))
    + _log_choose(number, counts)
    + _log_choose(counts, sample)
    + (counts - sample) * np.log(chance)
  )
  # Monotone from the right: more inliers must stay convincing.
  convincing = np.flipud(
    np.logical_and.accumulate(np.flipud(alarms < np.log(_FALSE_ALARMS)))
  )
  least = counts[np.argmax(convincing)] if convincing.any() else number + 1
  return int(max(fewest, least))


def _uniform_chance(points, estimator, threshold):
  """Returns the chance that a point agrees with any map, before it is known."""
  sides = np.ptp(points, axis=0) + 1
  if estimator == FUNDAMENTAL:
    return min(1.0, 2 * threshold * np.hypot(*sides) / sides.prod())
  # How crowded points are where points are, not only over the whole area.
  tree = spatial.cKDTree(points[:: -(-len(points) // _CROWD_POINTS)])
  near = tree.count_neighbors(tree, threshold) - tree.n
  crowded = near / max(1, tree.n * (tree.n - 1))
  return min(1.0, max(crowded, np.pi * threshold**2 / sides.prod()))


def _wrong_chance(points_1, points_2, model, estimator, threshold):
  """Returns the share of wrong pairs that agree with a map.

  Each point 1 is paired with other points 2: all of them, or as many as make
  about 20,000 pairs, at random but always the same.
  """
  number = len(points_1)
  order = np.random.default_rng(0).permutation(number)
  shifts = np.arange(1, np.clip(_WRONG_PAIRS // number, 1, number - 1) + 1)
  others = order[(np.arange(number) + shifts[:, None]) % number]
  distances = residuals(model, points_1[order], points_2[others], estimator)
  return np.mean(distances <= threshold)


def _log_choose(number, chosen):
  return (
    special.gammaln(np.add(number, 1))
    - special.gammaln(np.add(chosen, 1))
    - special.gammaln(np.subtract(number, chosen) + 1)
  )
