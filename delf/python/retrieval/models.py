"""Maps between images: their residuals, least squares and sanity."""

import cv2
import numpy as np

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


def distances(model, points_1, points_2, estimator):
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


def shifted(model, estimator, shift_1, shift_2):
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
