"""Metrics of matched image pairs, given the true map between the images.

The true map of a pair is a dict with `type` "homography" (`H`), "pose" (`K0`,
`K1`, `R`, `t`: X_2 = R X_1 + t), "points" (`points`, rows of x1, y1, x2, y2) or
"fundamental" (`F`). Points are [N, 2] float (x, y) in pixels, sizes are
(width, height).
"""

import cv2
import numpy as np

# Tolerances, as fractions of the longer side of the second image.
_HOMOGRAPHY_SHARE, _EPIPOLAR_SHARE = 0.02, 0.01
# Least inliers of a solved pair, and the least fraction that agrees.
_SOLVED_INLIERS, _SOLVED_SHARE = 15, 0.7

Size = tuple[int, int]


def agreeing(
  truth: dict, points_1: np.ndarray, points_2: np.ndarray, size_2: Size
) -> np.ndarray:
  """Return which matches agree with the true map, [N] bool.

  A point agrees within 2 % of the longer side from the image of its partner
  under the homography, or within 1 % from its partner's epipolar line.
  """
  side = max(size_2)
  if truth["type"] == "homography":
    mapped = project(points_1, np.asarray(truth["H"], np.float64))
    distances = np.hypot(*(mapped - points_2).T)
    return distances <= _HOMOGRAPHY_SHARE * side
  best = np.zeros([len(points_1)], bool)
  for matrix in _fundamental_matrices(truth):
    lines = homogeneous(points_1) @ matrix.T
    distances = np.abs((lines * homogeneous(points_2)).sum(1))
    distances = distances / np.maximum(np.hypot(*lines[:, :2].T), 1e-12)
    good = distances <= _EPIPOLAR_SHARE * side
    best = good if good.sum() > best.sum() else best
  return best


def is_solved(
  truth: dict, points_1: np.ndarray, points_2: np.ndarray, size_2: Size
) -> bool:
  """Return whether inliers solve a pair: 15 or more, of which 70 % agree."""
  if len(points_1) < _SOLVED_INLIERS:
    return False
  agree = agreeing(truth, points_1, points_2, size_2)
  return bool(agree.mean() >= _SOLVED_SHARE)


def average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
  """Return the average precision of scores of positives and negatives.

  Precision is weighted by the gain in recall; equal scores share a threshold.
  """
  positive, negative = np.asarray(positive), np.asarray(negative)
  total = 0.0
  for score in np.unique(positive):
    true, false = (positive >= score).sum(), (negative >= score).sum()
    total += (positive == score).sum() * true / (true + false)
  return total / max(1, len(positive))


def _fundamental_matrices(truth):
  """Return the fundamental matrices of a truth; 7 points have up to three."""
  if truth["type"] == "fundamental":
    return [np.asarray(truth["F"], np.float64)]
  if truth["type"] == "pose":
    x, y, z = np.ravel(truth["t"])
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    inverse_0, inverse_1 = map(np.linalg.inv, (truth["K0"], truth["K1"]))
    return [inverse_1.T @ cross @ np.asarray(truth["R"]) @ inverse_0]
  points = np.asarray(truth["points"], np.float64)
  method = cv2.FM_8POINT if len(points) >= 8 else cv2.FM_7POINT
  matrix, _ = cv2.findFundamentalMat(points[:, :2], points[:, 2:], method)
  return list(matrix.reshape(-1, 3, 3))


def homogeneous(points: np.ndarray) -> np.ndarray:
  """Return points [N, 2] followed by 1, [N, 3]."""
  return np.hstack([points, np.ones([len(points), 1])])


def project(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
  """Return points [N, 2] under a homography, [N, 2]."""
  mapped = homogeneous(points) @ matrix.T
  return mapped[:, :2] / mapped[:, 2:]
