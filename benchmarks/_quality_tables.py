"""Figures of what was found in pairs, how sure they are, and their tables."""

import dataclasses

import numpy as np

from delf.evaluation import pair_metrics

# Shares of a view's side, and degrees.
TRANSFER = (0.01, 0.02, 0.05)
POSE = (5, 10, 20)
POSE_GROUPS = ("lund_door", "imc_reichstag")
_SAMPLES = 400


@dataclasses.dataclass(frozen=True)
class Value:
  """A figure, and what it was in resamples of the pairs.

  Attributes:
    value: Float.
    samples: [S] float.
  """

  value: float
  samples: np.ndarray

  def interval(self):
    """Returns the ends of the middle 95 % of the resamples."""
    return tuple(np.percentile(self.samples, [2.5, 97.5]))

  def minus(self, other):
    """Returns the Value of the difference; same pairs, same resamples."""
    return Value(self.value - other.value, self.samples - other.samples)


def summary(found, group, seed=0):
  """Returns {figure: Value} of a group of pairs, or of "all".

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
      area = pair_metrics.area_under_recall
      samples = np.array([area(error[d], limit) for d in drawn])
      result[f"AUC {limit:g}"] = Value(area(error, limit), samples)
  return result


def _counts(drawn, number):
  """Returns how often each is drawn, [S, number] float, of indices [S, N]."""
  offsets = np.arange(len(drawn))[:, None] * number
  counts = np.bincount((drawn + offsets).ravel(), minlength=drawn.size)
  return counts[: len(drawn) * number].reshape(len(drawn), number) * 1.0


def _precisions(positive, negative, weights, other_weights):
  """Returns the average precision [S] of weighted pairs, [S, N] and [S, M]."""
  scores = np.unique(positive)
  true = weights @ (positive[:, None] >= scores)
  false = other_weights @ (negative[:, None] >= scores)
  gained = weights @ (positive[:, None] == scores)
  ratio = true / np.maximum(true + false, 1)
  return (gained * ratio).sum(1) / weights.sum(1)


def print_table(name, by_method):
  """Prints a table of a set.

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
  """Prints figures with 95 % intervals, {method: {group: {figure: Value}}}."""
  wide = max(map(len, by_method)) + 1
  for group in next(iter(by_method.values())):
    for method, groups in by_method.items():
      line = f"{group:16}{method:{wide}}"
      for figure, value in groups[group].items():
        line += f" {figure} {_interval(value)}"
      print(line)


def print_differences(by_method, base, name):
  """Prints what methods have more than a base of a name, with 95 % intervals.

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
