"""Metrics of a search, by the protocols of its ground truth."""

import dataclasses

import cv2
import numpy as np

from delf.base import errors
from delf.evaluation import revisited
from delf.matching import geometry
from delf.python.datasets.revisited_op import dataset


def mean_curve(rankings, positives, junk=None, levels=101):
  """Returns the mean precision at levels of recall.

  Of each query it is the interpolated precision: the highest at that recall or
  a higher one, and 0 at recalls that its ranking does not reach (Manning et
  al., Introduction to Information Retrieval, 2008, section 8.4). The area under
  it is near mAP, not equal to it.

  Args:
    rankings: [k] int arrays, one for each query: ids of the images, best
      first. A negative id stands for none.
    positives: int arrays, one for each query: ids that are right.
    junk: int arrays, one for each query: ids that count as not there; or None.
    levels: Number of recalls, from 0 to 1.

  Returns:
    (recalls [levels] float64, precisions [levels] float64), in [0, 1]; mean of
    the queries that have a positive, NaN where none has.

  Raises:
    InputError: If the lists differ in length or an image is ranked twice.
  """
  junk = [()] * len(rankings) if junk is None else junk
  if not len(rankings) == len(positives) == len(junk):
    raise errors.InputError(
      f"positives and junk of {len(rankings)} queries",
      f"{len(positives)} and {len(junk)}",
    )
  recalls = np.linspace(0, 1, levels)
  rows = [
    _interpolated(np.asarray(ids), right, left_out, recalls)
    for ids, right, left_out in zip(rankings, positives, junk, strict=True)
    if len(right)
  ]
  if not rows:
    return recalls, np.full([levels], np.nan)
  return recalls, np.mean(rows, axis=0)


def _interpolated(ids, positives, junk, recalls):
  """Returns the interpolated precision of one query at `recalls`."""
  positives = np.unique(np.asarray(positives, np.int64))
  ids, junk = ids.astype(np.int64), np.asarray(junk, np.int64)
  ranks = revisited.positive_ranks(ids, positives, junk)
  precisions = np.arange(1, len(ranks) + 1) / (ranks + 1)
  # From each positive on the highest precision; 0 past the last one.
  best = np.append(np.maximum.accumulate(precisions[::-1])[::-1], 0.0)
  needed = np.maximum(np.ceil(recalls * len(positives) - 1e-9), 1)
  return best[np.minimum(needed.astype(int) - 1, len(ranks))]


# Where precision and recall are measured: those of the papers.
RANKS = (1, 5, 10)


@dataclasses.dataclass(frozen=True)
class ProtocolMetrics:
  """Metrics of Q queries under one protocol; all in [0, 1].

  Attributes:
    mean_average_precision: float, NaN where no query has positives.
    mean_precisions: [R] float64, mean precision at each rank.
    mean_recalls: [R] float64.
    average_precisions: [Q] float64, NaN for a query without positives.
    precisions: [Q, R] float64.
    recalls: [Q, R] float64.
    curve_recalls: [101] float64, levels of recall.
    curve_precisions: [101] float64, mean interpolated precision there.
    left_out: Names of the queries without positives.
  """

  mean_average_precision: float
  mean_precisions: np.ndarray
  mean_recalls: np.ndarray
  average_precisions: np.ndarray
  precisions: np.ndarray
  recalls: np.ndarray
  curve_recalls: np.ndarray
  curve_precisions: np.ndarray
  left_out: tuple


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Metrics of a search.

  Attributes:
    dataset: Name of the data set.
    query_names: tuple of Q str.
    num_images: Size of the collection.
    distractors: How many of these the data set does not list.
    depth: How many images of each ranking were given; positives beyond count
      as never found.
    ranks: [R] int, where precision and recall are measured.
    protocols: dict by protocol of ProtocolMetrics.
  """

  dataset: str
  query_names: tuple
  num_images: int
  distractors: int
  depth: int
  ranks: tuple
  protocols: dict


def evaluate(ids, truth, ranks=RANKS):
  """Measures a search.

  Args:
    ids: [Q, k] int, places of images in the collection, best first, -1 for
      none; or dict by protocol of such arrays, where rankings differ by
      protocol, as after re-ranking without the junk of each.
    truth: ground_truth.GroundTruth of the collection.
    ranks: Where precision and recall are measured; those beyond the size of
      the collection are left out.

  Returns:
    Evaluation; of a dict, with its protocols only.

  Raises:
    InputError: If a ranking has other queries, images that are not in the
      collection, one twice, or fewer images than the ranks ask for; or if a
      protocol is not one of the ground truth's.
  """
  protocols = truth.protocols()
  if not isinstance(ids, dict):
    ids = dict.fromkeys(protocols, ids)
  number = len(truth.index_names)
  ranks = tuple(int(rank) for rank in ranks if rank <= number)
  found = {}
  for protocol, ranking in ids.items():
    if protocol not in protocols:
      raise errors.InputError(
        f"a protocol of {', '.join(protocols)}", str(protocol)
      )
    ranking = _checked(ranking, number)
    found[protocol] = _measure(ranking, protocols[protocol], ranks, truth)
  return Evaluation(
    dataset=truth.dataset,
    query_names=truth.query_names,
    num_images=number,
    distractors=truth.distractors,
    depth=min((np.shape(r)[1] for r in ids.values()), default=0),
    ranks=ranks,
    protocols=found,
  )


def save(evaluation, path):
  """Writes the metrics file of the original, whole or not at all.

  Args:
    evaluation: Evaluation.
    path: Path of the text file.
  """
  by_protocol = evaluation.protocols.items()
  dataset.SaveMetricsFile(
    {name: found.mean_average_precision for name, found in by_protocol},
    {name: found.mean_precisions for name, found in by_protocol},
    {name: found.mean_recalls for name, found in by_protocol},
    evaluation.ranks,
    path,
  )


def _checked(ids, number):
  ids = np.asarray(ids)
  if ids.ndim == 2 and ids.size and ids.max() >= number:
    raise errors.InputError(
      f"rankings of a collection of {number} images", f"image {ids.max()}"
    )
  return ids


def _measure(ids, truth, ranks, names):
  mean, precisions, recalls, *by_query = dataset.ComputeMetrics(
    ids, truth, ranks
  )
  curve = mean_curve(
    ids, [entry["ok"] for entry in truth], [entry["junk"] for entry in truth]
  )
  without = np.flatnonzero(np.isnan(by_query[0]))
  return ProtocolMetrics(
    mean,
    precisions,
    recalls,
    *by_query,
    *curve,
    left_out=tuple(names.query_names[i] for i in without),
  )


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
  distances = geometry.residuals(model, grid[seen], mapped[seen])
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
