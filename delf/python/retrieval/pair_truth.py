"""Whether matches agree with what is known, and how well scores tell."""

import cv2
import numpy as np

from delf.python.retrieval import models

# Shares of the longer side of the second image (as the table's own text says).
HOMOGRAPHY_SHARE = 0.02
EPIPOLAR_SHARE = 0.01
# A pair is solved by so many inliers, of which this share agrees.
SOLVED_INLIERS = 15
SOLVED_SHARE = 0.7


def agreeing(truth, points_1, points_2, size_2):
  """Returns which matches agree with the ground truth of a pair.

  Args:
    truth: dict with `type` "homography" (`H`), "pose" (`K0`, `K1`, `R`, `t`),
      "points" (`points`, rows of x1, y1, x2, y2) or "fundamental" (`F`).
    points_1: [N, 2] float, (x, y) pixels.
    points_2: [N, 2] float, (x, y) pixels.
    size_2: (width, height) of the second image.

  Returns:
    [N] bool: within 2 % of the longer side of where the homography sends a
    point, or within 1 % of it from its epipolar line.
  """
  side = max(size_2)
  if truth["type"] == "homography":
    homography = np.asarray(truth["H"], np.float64)
    mapped = _homogeneous(points_1) @ homography.T
    mapped = mapped[:, :2] / mapped[:, 2:]
    errors = np.hypot(*(mapped - points_2).T)
    return errors <= HOMOGRAPHY_SHARE * side
  best = np.zeros([len(points_1)], bool)
  for matrix in _fundamentals(truth):
    lines = _homogeneous(points_1) @ matrix.T
    distances = np.abs((lines * _homogeneous(points_2)).sum(1))
    distances = distances / np.maximum(np.hypot(*lines[:, :2].T), 1e-12)
    good = distances <= EPIPOLAR_SHARE * side
    best = good if good.sum() > best.sum() else best
  return best


def _fundamentals(truth):
  """Returns the fundamental matrices of a truth; three where 7 points leave it.

  Eight points and more are fitted by least squares (normalised 8-point).
  """
  if truth["type"] == "fundamental":
    return [np.asarray(truth["F"], np.float64)]
  if truth["type"] == "pose":
    rotation, shift = np.asarray(truth["R"]), np.ravel(truth["t"])
    x, y, z = shift
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    inverse_1 = np.linalg.inv(truth["K1"]).T
    return [inverse_1 @ cross @ rotation @ np.linalg.inv(truth["K0"])]
  points = np.asarray(truth["points"], np.float64)
  method = cv2.FM_8POINT if len(points) >= 8 else cv2.FM_7POINT
  matrix, _ = cv2.findFundamentalMat(points[:, :2], points[:, 2:], method)
  return list(matrix.reshape(-1, 3, 3))


def _homogeneous(points):
  return np.hstack([points, np.ones([len(points), 1])])


def is_solved(truth, points_1, points_2, size_2):
  """Returns whether these inliers solve a pair: enough, and most agree."""
  if len(points_1) < SOLVED_INLIERS:
    return False
  return agreeing(truth, points_1, points_2, size_2).mean() >= SOLVED_SHARE


def average_precision(positive, negative):
  """Returns how well scores tell positives from negatives.

  Args:
    positive: Scores of the positives.
    negative: Scores of the negatives.

  Returns:
    Average precision: the sum over thresholds of precision times the recall
    that is gained; equal scores share one threshold.
  """
  positive, negative = np.asarray(positive), np.asarray(negative)
  precision_sum = 0.0
  for score in np.unique(positive):
    true, false = (positive >= score).sum(), (negative >= score).sum()
    precision_sum += (positive == score).sum() * true / (true + false)
  return precision_sum / max(1, len(positive))


def transfer_error(model, truth, size_1, size_2, steps=16):
  """Returns how far a homography is from the true one, where both images are.

  Args:
    model: [2, 3] or [3, 3], from (x, y) pixels of image 1 to image 2, or None.
    truth: [3, 3], the true homography.
    size_1: (width, height) of image 1.
    size_2: (width, height) of image 2.
    steps: Points of a grid per side of image 1.

  Returns:
    Mean distance in pixels of image 2 over the points of the grid that the
    true homography sends into image 2; infinity without a model.
  """
  if model is None:
    return float("inf")
  sides = [np.linspace(0, length - 1, steps) for length in size_1]
  grid = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
  mapped = _homogeneous(grid) @ np.asarray(truth, np.float64).T
  grid, mapped = grid[mapped[:, 2] > 0], mapped[mapped[:, 2] > 0]
  mapped = mapped[:, :2] / mapped[:, 2:]
  seen = ((mapped >= 0) & (mapped <= np.subtract(size_2, 1))).all(axis=1)
  if not seen.any():
    return float("inf")
  distances = models.residuals(model, grid[seen], mapped[seen])
  return float(distances.mean())


def pose_error(essential, points_1, points_2, truth):
  """Returns how far the pose of an essential matrix is from the true one.

  Args:
    essential: [3, 3], or [3 n, 3] of n candidates, or None.
    points_1: [N, 2] float, (x, y) pixels of what agrees with it in image 1.
    points_2: [N, 2] float, the same in image 2.
    truth: dict with `K0`, `K1`, `R` and `t`: X_2 = R X_1 + t.

  Returns:
    Degrees: the larger of the angles of rotation and of the direction of the
    translation, whose sign an essential matrix leaves open (Sarlin et al.,
    SuperGlue, CVPR 2020). Of several candidates, that of the pose with most
    points before both cameras. Infinity without one.
  """
  if essential is None or len(points_1) < 5:
    return float("inf")
  ones = on_plane(points_1, truth["K0"]), on_plane(points_2, truth["K1"])
  best, found = 0, None
  for candidate in np.asarray(essential).reshape(-1, 3, 3):
    number, rotation, shift, _ = cv2.recoverPose(candidate, *ones, np.eye(3))
    if number > best:
      best, found = number, (rotation, shift)
  if found is None:
    return float("inf")
  rotation, shift = found
  turn = np.trace(rotation.T @ np.asarray(truth["R"], np.float64))
  turn = np.degrees(np.arccos(np.clip((turn - 1) / 2, -1, 1)))
  true_shift = np.ravel(truth["t"])
  cosine = shift.ravel() @ true_shift / np.linalg.norm(true_shift)
  angle = np.degrees(np.arccos(np.clip(abs(cosine), 0, 1)))
  return float(max(turn, angle))


def on_plane(points, camera):
  """Returns pixels (x, y) on the plane at distance 1 of a camera.

  Args:
    points: [N, 2] float, (x, y) pixels.
    camera: [3, 3], calibration.

  Returns:
    [N, 2] float64, (x, y).
  """
  rays = _homogeneous(points) @ np.linalg.inv(camera).T
  return np.ascontiguousarray(rays[:, :2] / rays[:, 2:])


def area_under_recall(errors, threshold):
  """Returns the area under the curve of recall over error, up to a threshold.

  Args:
    errors: [N] float; infinity for failures.
    threshold: Largest error.

  Returns:
    Float in [0, 1]: the area by the trapezoidal rule over the threshold, as
    the pose AUC of Sarlin et al. (SuperGlue, CVPR 2020) is computed.
  """
  errors = np.sort(np.asarray(errors, np.float64))
  number = int(np.searchsorted(errors, threshold))
  if not number:
    return 0.0
  recall = np.arange(number + 1) / len(errors)
  x = np.concatenate([[0.0], errors[:number], [threshold]])
  y = np.append(recall, recall[-1])
  return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2 / threshold)
