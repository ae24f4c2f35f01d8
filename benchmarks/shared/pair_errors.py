"""Errors of the maps between matched image pairs, given the true ones."""

import cv2
import numpy as np

from delf.evaluation import pair_metrics
from delf.matching import geometry


def transfer_error(
  model: np.ndarray | None,
  truth: np.ndarray,
  size_1: pair_metrics.Size,
  size_2: pair_metrics.Size,
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
  grid = grid[pair_metrics.homogeneous(grid) @ truth[2] > 0]
  mapped = pair_metrics.project(grid, truth)
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
  return np.ascontiguousarray(
    pair_metrics.project(points, np.linalg.inv(camera))
  )


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
