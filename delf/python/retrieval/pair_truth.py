"""Whether matches agree with what is known, and how well scores tell."""

import cv2
import numpy as np

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
