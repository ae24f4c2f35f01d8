"""Metrics of matched image pairs, given the true map between the images.

The true map of a pair is a dict with `type` "homography" (`H`), "pose" (`K0`,
`K1`, `R`, `t`: X_2 = R X_1 + t), "points" (`points`, rows of x1, y1, x2, y2) or
"fundamental" (`F`). Points are [N, 2] float (x, y) in pixels, sizes are
(width, height).
"""

import cv2
import numpy as np

from delf.matching import geometry

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
    mapped = _project(points_1, np.asarray(truth["H"], np.float64))
    distances = np.hypot(*(mapped - points_2).T)
    return distances <= _HOMOGRAPHY_SHARE * side
  best = np.zeros([len(points_1)], bool)
  for matrix in _fundamental_matrices(truth):
    lines = _homogeneous(points_1) @ matrix.T
    distances = np.abs((lines * _homogeneous(points_2)).sum(1))
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


def transfer_error(
  model: np.ndarray | None,
  truth: np.ndarray,
  size_1: Size,
  size_2: Size,
  steps: int = 16,
) -> float:
  """Return the mean distance of a homography from the true one, in pixels.

  It is measured on a grid of `steps` points per side of image 1, where image 2
  overlaps; without overlap or a `model`, [2, 3] or [3, 3], it is infinite.
  """
  if model is None:
    return float("inf")
  truth = np.asarray(truth, np.float64)
  sides = [np.linspace(0, length - 1, steps) for length in size_1]
  grid = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
  grid = grid[_homogeneous(grid) @ truth[2] > 0]
  mapped = _project(grid, truth)
  seen = ((mapped >= 0) & (mapped <= np.subtract(size_2, 1))).all(axis=1)
  if not seen.any():
    return float("inf")
  distances = geometry.residuals(model, grid[seen], mapped[seen])
  return float(distances.mean())


def pose_error(
  essential: np.ndarray | None,
  points_1: np.ndarray,
  points_2: np.ndarray,
  truth: dict,
) -> float:
  """Return the error of the pose of an essential matrix, in degrees.

  It is the larger of the angular errors of rotation and of translation, whose
  sign an essential matrix leaves open (Sarlin et al., SuperGlue, CVPR 2020);
  infinity without a pose. Points are inliers. `essential` is [3 n, 3]: of n
  candidates the one with most points in front of both cameras is used.
  """
  if essential is None or len(points_1) < 5:
    return float("inf")
  rays = on_plane(points_1, truth["K0"]), on_plane(points_2, truth["K1"])
  most, pose = 0, None
  for candidate in np.asarray(essential).reshape(-1, 3, 3):
    number, *candidate_pose, _ = cv2.recoverPose(candidate, *rays, np.eye(3))
    if number > most:
      most, pose = number, candidate_pose
  if pose is None:
    return float("inf")
  rotation, translation = pose
  cosine = (np.trace(rotation.T @ np.asarray(truth["R"], np.float64)) - 1) / 2
  rotation_error = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
  direction = np.ravel(truth["t"])
  cosine = translation.ravel() @ direction / np.linalg.norm(direction)
  translation_error = np.degrees(np.arccos(np.clip(abs(cosine), 0, 1)))
  return float(max(rotation_error, translation_error))


def on_plane(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
  """Return pixels in normalised camera coordinates, [N, 2] float64."""
  return np.ascontiguousarray(_project(points, np.linalg.inv(camera)))


def area_under_recall(errors: np.ndarray, threshold: float) -> float:
  """Return the area under the recall curve up to an error, in [0, 1].

  As the pose AUC of Sarlin et al. (SuperGlue, CVPR 2020) it uses the
  trapezoidal rule. Pairs that failed have infinite errors.
  """
  errors = np.sort(np.asarray(errors, np.float64))
  number = int(np.searchsorted(errors, threshold))
  if not number:
    return 0.0
  recall = np.arange(number + 1) / len(errors)
  x = np.concatenate([[0.0], errors[:number], [threshold]])
  y = np.append(recall, recall[-1])
  return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2 / threshold)


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


def _homogeneous(points):
  return np.hstack([points, np.ones([len(points), 1])])


def _project(points, matrix):
  mapped = _homogeneous(points) @ matrix.T
  return mapped[:, :2] / mapped[:, 2:]
