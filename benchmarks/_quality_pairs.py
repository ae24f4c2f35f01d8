"""Matching of a set of pairs by one method, and what came of each."""

import dataclasses
import sys

import cv2
import numpy as np
import tqdm

from benchmarks import _quality_methods
from delf.evaluation import pair_metrics
from delf.matching import matcher

_POSE_PIXELS = 1.0


@dataclasses.dataclass(frozen=True)
class Found:
  """What a method found, an element per pair.

  Attributes:
    group: [P] str; "" for unrelated pairs.
    inliers: [P] int.
    called: [P] bool, whether it is called a match.
    solved: [P] bool, or None where no truth is known.
    error: [P] float of each true pair: of the homography as a share of the
      longer side, or of the pose in degrees; NaN where neither is known.
  """

  group: np.ndarray
  inliers: np.ndarray
  called: np.ndarray
  solved: np.ndarray | None
  error: np.ndarray

  def rows(self, group):
    """Returns the indices of the pairs of a group, or of all true ones."""
    if group == "all":
      return np.flatnonzero(self.group != "")
    return np.flatnonzero(self.group == group)


def measure(pairs, label, function, estimation):
  """Matches all pairs of a set by one method; returns rows for `as_found`."""
  found = _quality_methods.extract(pairs, function, label)
  sizes = {key: pairs.load(key).shape[1::-1] for key in found}
  rows = []
  for pair in tqdm.tqdm(
    pairs.true + pairs.unrelated,
    desc=f"{label} matching",
    file=sys.stderr,
    mininterval=5,
  ):
    true = not isinstance(pair, tuple)
    names = (pair.first, pair.second) if true else pair
    result, points = _match(found, sizes, names, estimation)
    row = ["", result.score, result.is_match, False, float("nan")]
    if true:
      row[0] = pair.group
      row[3:] = _judge(pair.truth, result, points, [sizes[n] for n in names])
    rows.append(row)
  return rows


def as_found(rows):
  """Returns the Found of the rows of `measure`."""
  group, inliers, called, solved, error = zip(*rows, strict=True)
  known = None if None in solved else np.array(solved, bool)
  return Found(
    np.array(group),
    np.array(inliers),
    np.array(called, bool),
    known,
    np.array(error, float),
  )


def _match(found, sizes, names, estimation):
  first, second = (found[name] for name in names)
  result = matcher.match(
    first,
    second,
    ratio=estimation.ratio,
    estimator=estimation.estimator,
    residual_threshold=estimation.share * max(sizes[names[1]]),
  )
  one = first.locations[result.inliers[:, 0], ::-1]
  two = second.locations[result.inliers[:, 1], ::-1]
  pairs = result.putative
  every = (
    first.locations[pairs[:, 0], ::-1],
    second.locations[pairs[:, 1], ::-1],
  )
  return result, (one, two, *every)


def _judge(truth, result, points, sizes):
  """Returns whether a true pair is solved, and the error of its map."""
  if truth is None:
    return None, float("nan")
  solved = bool(pair_metrics.is_solved(truth, *points[:2], sizes[1]))
  if truth["type"] == "homography" and result.model is not None:
    error = pair_metrics.transfer_error(result.model, truth["H"], *sizes)
    return solved, error / max(sizes[1])
  if truth["type"] == "homography":
    return solved, float("inf")
  if truth["type"] == "pose":
    return solved, _pose_error(truth, *points[2:])
  return solved, float("nan")


def _pose_error(truth, points_1, points_2, seed=0):
  """Returns the error in degrees of the pose that all matches of a pair give.

  The essential matrix comes from MAGSAC (Barath et al., CVPR 2020) on the
  matches by descriptor, with a fixed seed.
  """
  if len(points_1) < 6:
    return float("inf")
  cameras = np.float64(truth["K0"]), np.float64(truth["K1"])
  one, two = np.float64(points_1), np.float64(points_2)
  focal = np.mean([np.diag(camera)[:2] for camera in cameras])
  planes = [
    pair_metrics.on_plane(*each)
    for each in zip((one, two), cameras, strict=True)
  ]
  cv2.setRNGSeed(seed)
  matrix, mask = cv2.findEssentialMat(
    *planes,
    np.eye(3),
    method=cv2.USAC_MAGSAC,
    prob=0.99999,
    threshold=_POSE_PIXELS / focal,
    maxIters=10_000,
  )
  if mask is None:
    return float("inf")
  used = mask.ravel().astype(bool)
  return pair_metrics.pose_error(matrix, one[used], two[used], truth)
