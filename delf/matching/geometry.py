"""How many inliers chance alone explains."""

import dataclasses
import numbers

import cv2
import numpy as np
from scipy import spatial, special

from delf.base import arrays, errors

AFFINE = "affine"
HOMOGRAPHY = "homography"
FUNDAMENTAL = "fundamental"
ESTIMATORS = (AFFINE, HOMOGRAPHY, FUNDAMENTAL)

# Points that decide a model. As many matches say nothing, so more are needed.
SAMPLE_SIZES = {AFFINE: 3, HOMOGRAPHY: 4, FUNDAMENTAL: 7}
# The eight-point refinement of OpenCV needs one more than the sample.
FEWEST = {AFFINE: 4, HOMOGRAPHY: 5, FUNDAMENTAL: 9}
# Models that a sample may leave: seven points, the roots of a cubic.
MAPS_OF_SAMPLE = {AFFINE: 1, HOMOGRAPHY: 1, FUNDAMENTAL: 3}

# Beyond ten times in either direction, and what the images differ in size, a
# map squeezes what it sees into lines, and finds inliers in anything. ASIFT
# (Morel and Yu, 2009) stops at about 8.
_MAX_STRETCH = 10.0


def distances_models(model, points_1, points_2, estimator):
  """Returns the `epipolar_residuals` of a fundamental matrix, else `residuals`.

  Points 2 may be [S, P, 2]: S in place of each; distances are then [S, P].
  """
  if estimator == FUNDAMENTAL:
    return epipolar_residuals(model, points_1, points_2)
  return residuals(model, points_1, points_2)


def residuals(model, points_1, points_2):
  """Returns how far each pair is from a map.

  Args:
    model: [2, 3] affine or [3, 3] homography: the distance in image 2 of the
      mapped point 1 to point 2.
    points_1: [P, 2] float, (x, y) pixels.
    points_2: [P, 2] or [S, P, 2] float, (x, y) pixels.

  Returns:
    [P] float32, pixels. Infinity for points beyond a homography's horizon.
  """
  points_1 = np.asarray(points_1, np.float64)
  mapped = points_1 @ model[:, :2].T + model[:, 2]
  if len(model) == 3:
    depth = mapped[:, 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
      mapped = np.where(depth > 0, mapped[:, :2] / depth, np.inf)
  with np.errstate(invalid="ignore"):
    difference = mapped - points_2
  return np.hypot(difference[..., 0], difference[..., 1]).astype(np.float32)


def epipolar_residuals(model, points_1, points_2):
  """Returns the Sampson distances of pairs to a fundamental matrix.

  Args:
    model: [3, 3], with (x2, y2, 1) model (x1, y1, 1) = 0 for a true pair.
    points_1: [P, 2] float, (x, y) pixels.
    points_2: [P, 2] or [S, P, 2] float, (x, y) pixels.

  Returns:
    [P] float32, pixels: first order distance to the nearest pair that fulfils
    the equation (Hartley and Zisserman, 2nd edition, eq. 11.9).
  """
  points_1, points_2 = np.asarray(points_1), np.asarray(points_2)
  lines_2 = points_1 @ model[:, :2].T + model[:, 2]
  lines_1 = points_2 @ model[:2] + model[2]
  x, y = points_2[..., 0], points_2[..., 1]
  numerator = np.abs(x * lines_2[:, 0] + y * lines_2[:, 1] + lines_2[:, 2])
  square = lines_1[..., 0] ** 2 + lines_1[..., 1] ** 2
  square = square + lines_2[:, 0] ** 2 + lines_2[:, 1] ** 2
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.nan_to_num(
      numerator / np.sqrt(square), nan=np.inf, posinf=np.inf
    ).astype(np.float32)


def least_squares(one, two, estimator):
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


def horizon_side(model, points):
  """Returns 1 or -1: on which side of the horizon most points are."""
  side = np.median(points @ model[2, :2] + model[2, 2])
  return -1.0 if side < 0 else 1.0


def spread(points):
  """Returns the root mean square distance of points to their mean."""
  return np.sqrt(points.var(axis=0).sum()) if len(points) else 0.0


def is_possible(model, points, scale):
  """Returns whether a map neither flattens nor blows up where points are.

  Args:
    model: [2, 3] affine or [3, 3] homography.
    points: [P, 2] float, (x, y) pixels of its inliers in image 1.
    scale: Extent of image 2 as a share of that of image 1.
  """
  jacobian = model[:2, :2]
  if len(model) == 3:
    x, y = points.mean(axis=0)
    mapped = model @ [x, y, 1.0]
    if mapped[2] <= 0:
      return False
    jacobian = (
      jacobian - np.outer(mapped[:2] / mapped[2], model[2, :2])
    ) / mapped[2]
  stretch = np.linalg.svd(jacobian, compute_uv=False)
  # Images that differ in extent may do so in scale or in what they show.
  most, least = max(scale, 1) * _MAX_STRETCH, min(scale, 1) / _MAX_STRETCH
  return stretch[0] <= most and stretch[1] >= least


def shifted_models(model, estimator, shift_1, shift_2):
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


# Points that stand for all where their crowding is measured.
_CROWD_POINTS = 500
# Wrong pairs that the chance of a found map is measured on.
_WRONG_PAIRS = 20_000
# Matches of neighbours are alike, and the test takes them for independent: with
# 0.01 it called 55 of 300 unrelated small photos a match by an affine map, with
# this 16, and 179 of 186 related ones in place of 180 (held out of training).
_FALSE_ALARMS = 1e-6


def needed_inliers(points_1, points_2, model, estimator, threshold, fewest):
  """Returns how many inliers of a map chance alone does not explain.

  The a contrario test of Moisan and Stival (IJCV 2004): with n pairs,
  samples of s that leave up to m maps each, and a chance p that a wrong pair
  agrees, k inliers are to be expected m (n - s) C(n, k) C(k, s) p^(k - s) times
  among all maps. The least k is taken that is expected under 1e-6 times. p is
  measured on the map that was found, and never less than for points that lie
  evenly: where images differ in size, or points crowd, a map may have more.

  Args:
    points_1: [P, 2] float, (x, y) pixels of the putative matches in image 1.
    points_2: [P, 2] float, (x, y) pixels of the same in image 2.
    model: The map that was found, or None.
    estimator: One of models.ESTIMATORS.
    threshold: Largest residual of an inlier, in pixels.
    fewest: Never fewer than this.

  Returns:
    int. P + 1 (never reached) where any number could be chance.
  """
  number, sample = len(points_2), SAMPLE_SIZES[estimator]
  if number <= sample:
    return max(fewest, number + 1)
  counts = np.arange(sample + 1, number + 1)
  chance = _uniform_chance(points_2, estimator, threshold)
  if model is not None:
    wrong = _wrong_chance(points_1, points_2, model, estimator, threshold)
    chance = max(chance, wrong)
  alarms = (
    np.log(MAPS_OF_SAMPLE[estimator] * (number - sample))
    + _log_choose(number, counts)
    + _log_choose(counts, sample)
    + (counts - sample) * np.log(chance)
  )
  # Monotone from the right: what counts is that more inliers stay convincing.
  convincing = np.flipud(
    np.logical_and.accumulate(np.flipud(alarms < np.log(_FALSE_ALARMS)))
  )
  least = counts[convincing.argmax()] if convincing.any() else number + 1
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
  distances = distances_models(
    model, points_1[order], points_2[others], estimator
  )
  return np.mean(distances <= threshold)


def _log_choose(number, chosen):
  return (
    special.gammaln(np.add(number, 1))
    - special.gammaln(np.add(chosen, 1))
    - special.gammaln(np.subtract(number, chosen) + 1)
  )


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
    if np.count_nonzero(use) < FEWEST[estimator]:
      break
    model = _usac(one[use], two[use], estimator, threshold, seed + restart)
    found = _counted(model, one, two, estimator, threshold)
    if _is_possible(found, one, two, estimator, threshold):
      found = _refined(found, one, two, estimator, threshold)
      shifted = shifted_models(found.model, estimator, shift_1, shift_2)
      return dataclasses.replace(found, model=shifted)
    # What a refused map holds together hides the others.
    use = use & ~found.inliers
  return _none(len(points_1))


def _usac(points_1, points_2, estimator, threshold, seed):
  """Returns a model of OpenCV, or None."""
  one, two = points_1.astype(np.float32), points_2.astype(np.float32)
  parameters = _parameters(threshold, seed)
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
    if len(one) < FEWEST[estimator]:
      break
    model = least_squares(one, two, estimator)
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
  if estimator == HOMOGRAPHY:
    model = model * horizon_side(model, points_1)
  distances = distances_models(model, points_1, points_2, estimator)
  return Estimate(model, distances, distances <= threshold)


def _is_possible(found, points_1, points_2, estimator, threshold):
  """Returns whether an Estimate has a map that is not degenerate."""
  if found.model is None or not found.inliers.any():
    return False
  if estimator == FUNDAMENTAL:
    return True
  # One spot, which anything may be sent to.
  if spread(points_2[found.inliers]) <= threshold:
    return False
  scale = spread(points_2) / max(spread(points_1), 1e-9)
  return is_possible(found.model, points_1[found.inliers], scale)


def _centre(points):
  return points.mean(axis=0) if len(points) else np.zeros([2])


def _none(number):
  return Estimate(
    None, np.full([number], np.inf, np.float32), np.zeros([number], bool)
  )


def _checked(points, name):
  points = np.asarray(points, np.float64).reshape([-1, 2])
  return arrays.check_finite(points, name)


def _check(estimator, threshold, seed):
  if estimator not in ESTIMATORS:
    raise errors.InputError(
      f"an estimator of {', '.join(ESTIMATORS)}", repr(estimator)
    )
  is_number = isinstance(threshold, numbers.Real)
  if not is_number or not 0 < threshold < np.inf:
    raise errors.InputError(
      "a residual threshold over 0 pixels", repr(threshold)
    )
  if not isinstance(seed, numbers.Integral):
    raise errors.InputError("a whole number as seed", repr(seed))
