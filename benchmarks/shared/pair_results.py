"""Results of matching a set of pairs: figures, intervals, tables."""

import dataclasses
import sys

import cv2
import numpy as np
import tqdm

from benchmarks.shared import methods, pair_errors
from delf.evaluation import pair_metrics
from delf.matching import matcher

# Shares of a view's side, and degrees.
TRANSFER = (0.01, 0.02, 0.05)
POSE = (5, 10, 20)
POSE_GROUPS = ("lund_door", "imc_reichstag")
_SAMPLES = 400
_POSE_PIXELS = 1.0  # Residual of an inlier of an essential matrix.


@dataclasses.dataclass(frozen=True)
class Found:
  """Results of a method, an element per pair.

  Attributes:
    group: [P] str; "" for unrelated pairs.
    inliers: [P] int.
    called: [P] bool, whether the pair is called a match.
    solved: [P] bool, or None if no truth is known.
    error: [P] float of each true pair: of the homography as a share of the
      longer side, or of the pose in degrees; NaN if neither is known.
  """

  group: np.ndarray
  inliers: np.ndarray
  called: np.ndarray
  solved: np.ndarray | None
  error: np.ndarray

  def rows(self, group):
    """Return the indices of the pairs of a group, or of all true ones."""
    if group == "all":
      return np.flatnonzero(self.group != "")
    return np.flatnonzero(self.group == group)


def measure(pairs, label, function, estimation):
  """Match all pairs of a set by one method; return rows for `as_found`."""
  found = methods.extract(pairs, function, label)
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
  """Return the Found of the rows of `measure`."""
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
  """Return whether a true pair is solved, and the error of its map."""
  if truth is None:
    return None, float("nan")
  solved = bool(pair_metrics.is_solved(truth, *points[:2], sizes[1]))
  if truth["type"] == "homography" and result.model is not None:
    error = pair_errors.transfer_error(result.model, truth["H"], *sizes)
    return solved, error / max(sizes[1])
  if truth["type"] == "homography":
    return solved, float("inf")
  if truth["type"] == "pose":
    return solved, _pose_error(truth, *points[2:])
  return solved, float("nan")


def _pose_error(truth, points_1, points_2, seed=0):
  """Return the error in degrees of the pose that all matches of a pair give.

  The essential matrix comes from MAGSAC (Barath et al., CVPR 2020) on the
  matches by descriptor, with a fixed seed.
  """
  if len(points_1) < 6:
    return float("inf")
  cameras = np.float64(truth["K0"]), np.float64(truth["K1"])
  one, two = np.float64(points_1), np.float64(points_2)
  focal = np.mean([np.diag(camera)[:2] for camera in cameras])
  planes = [
    pair_errors.on_plane(*each)
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
  return pair_errors.pose_error(matrix, one[used], two[used], truth)


@dataclasses.dataclass(frozen=True)
class Value:
  """A figure and its values for resamples of the pairs.

  Attributes:
    value: Float.
    samples: [S] float.
  """

  value: float
  samples: np.ndarray

  def interval(self):
    """Return the ends of the middle 95 % of the resamples."""
    return tuple(np.percentile(self.samples, [2.5, 97.5]))

  def minus(self, other):
    """Return the Value of the difference; same pairs, same resamples."""
    return Value(self.value - other.value, self.samples - other.samples)


def summary(found, group, seed=0):
  """Return {figure: Value} of a group of pairs, or of "all".

  The figures: "AP" of true against all unrelated pairs, "solved" (a share),
  "inliers" (median), and "AUC a", ... where errors are known. Pairs of a group
  are drawn alike for every method, so that differences are of the same pairs.
  """
  rng = np.random.default_rng(seed)
  rows, others = found.rows(group), np.flatnonzero(found.group == "")
  drawn = rng.integers(len(rows), size=[_SAMPLES, len(rows)])
  weights = [_counts(drawn, len(rows))]
  other = rng.integers(len(others), size=[_SAMPLES, len(others)])
  weights.append(_counts(other, len(others)))
  inliers, negative = found.inliers[rows], found.inliers[others]
  result = {
    "AP": Value(
      pair_metrics.average_precision(inliers, negative),
      _precisions(inliers, negative, *weights),
    ),
    "inliers": Value(
      float(np.median(inliers)), np.median(inliers[drawn], axis=1)
    ),
  }
  if found.solved is not None:
    solved = found.solved[rows]
    result["solved"] = Value(solved.mean(), solved[drawn].mean(1))
  error = found.error[rows]
  if not np.isnan(error).any():
    limits = POSE if group in POSE_GROUPS else TRANSFER
    for limit in limits:
      area = pair_errors.area_under_recall
      samples = np.array([area(error[d], limit) for d in drawn])
      result[f"AUC {limit:g}"] = Value(area(error, limit), samples)
  return result


def _counts(drawn, number):
  """Return how often each is drawn, [S, number] float, of indices [S, N]."""
  offsets = np.arange(len(drawn))[:, None] * number
  counts = np.bincount((drawn + offsets).ravel(), minlength=drawn.size)
  return counts[: len(drawn) * number].reshape(len(drawn), number) * 1.0


def _precisions(positive, negative, weights, other_weights):
  """Return the average precision [S] of weighted pairs, [S, N] and [S, M]."""
  scores = np.unique(positive)
  true = weights @ (positive[:, None] >= scores)
  false = other_weights @ (negative[:, None] >= scores)
  gained = weights @ (positive[:, None] == scores)
  ratio = true / np.maximum(true + false, 1)
  return (gained * ratio).sum(1) / weights.sum(1)


def print_table(name, by_method):
  """Print a table of a set.

  Args:
    name: Of the set.
    by_method: {method: {group: {figure: Value}}}.
  """
  methods = list(by_method)
  wide = max(map(len, methods)) + 1
  print(
    f"\n{name}: AP and solved with 95 % intervals, median inliers, AUC of the"
    f" error\n(pose: at {POSE} degrees; homography: at {TRANSFER} of the side)"
  )
  for group in by_method[methods[0]]:
    for method in methods:
      row = by_method[method][group]
      line = f"{group:16}{method:{wide}}"
      for figure in ("AP", "solved"):
        line += f" {figure} {_interval(row[figure])} " if figure in row else ""
      line += f" inliers {row['inliers'].value:5.0f}"
      areas = [v for k, v in row.items() if k.startswith("AUC")]
      line += "  AUC" + "".join(f" {100 * v.value:5.1f}" for v in areas)
      print(line if areas else line.removesuffix("  AUC"))


def print_means(by_method):
  """Print figures with 95 % intervals, {method: {group: {figure: Value}}}."""
  wide = max(map(len, by_method)) + 1
  for group in next(iter(by_method.values())):
    for method, groups in by_method.items():
      line = f"{group:16}{method:{wide}}"
      for figure, value in groups[group].items():
        line += f" {figure} {_interval(value)}"
      print(line)


def print_differences(by_method, base, name):
  """Print differences of methods from a base, with 95 % intervals.

  Args:
    by_method: {method: {group: {figure: Value}}}.
    base: {group: {figure: Value}}.
    name: Of the base.
  """
  for method, groups in by_method.items():
    print(f"\n{method} minus {name} (* where 0 is outside the interval)")
    for group, row in groups.items():
      line = f"{group:16}"
      for figure, value in row.items():
        if figure == "inliers":
          continue
        difference = value.minus(base[group][figure])
        low, high = difference.interval()
        star = "*" if low > 0 or high < 0 else " "
        line += f" {figure} {difference.value:+.3f}"
        line += f" [{low:+.3f} {high:+.3f}]{star}"
      print(line)


def _interval(value):
  low, high = value.interval()
  return f"{value.value:.3f} [{low:.3f} {high:.3f}]"
