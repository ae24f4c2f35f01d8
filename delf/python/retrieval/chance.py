"""How many inliers chance alone explains."""

import numpy as np
from scipy import spatial, special

from delf.python.retrieval import models

# Points that stand for all where the chance of an agreement is measured.
_CHANCE_POINTS = 500
_FALSE_ALARMS = 0.01


def needed_inliers(points_2, estimator, threshold, fewest):
  """Returns how many inliers chance alone does not explain.

  The a contrario test of Moisan and Stival (IJCV 2004): with n pairs, samples
  of s, and a chance p that a pair agrees with a wrong map, k inliers are to be
  expected (n - s) C(n, k) C(k, s) p^(k - s) times among all maps. The least k
  is taken that is expected under 0.01 times.

  Args:
    points_2: [P, 2] float, (x, y) pixels of the putative matches in image 2.
    estimator: One of ESTIMATORS.
    threshold: Largest residual of an inlier, in pixels.
    fewest: Never fewer than this.

  Returns:
    int. P + 1 (never reached) where any number could be chance.
  """
  number, sample = len(points_2), models.SAMPLE_SIZES[estimator]
  if number <= sample:
    return max(fewest, number + 1)
  counts = np.arange(sample + 1, number + 1)
  chance = _chance(np.asarray(points_2, np.float64), estimator, threshold)
  alarms = (
    np.log(number - sample)
    + _log_choose(number, counts)
    + _log_choose(counts, sample)
    + (counts - sample) * np.log(chance)
  )
  # Monotone from the right: what counts is that more inliers stay convincing.
  convincing = np.flipud(
    np.logical_and.accumulate(np.flipud(alarms < np.log(_FALSE_ALARMS)))
  )
  least = counts[convincing.argmax()] if convincing.any() else number + 1
  return int(max(fewest, least))


def _chance(points, estimator, threshold):
  """Returns the chance that a point agrees with a wrong map."""
  sides = np.ptp(points, axis=0) + 1
  if estimator == models.FUNDAMENTAL:
    return min(1.0, 2 * threshold * np.hypot(*sides) / sides.prod())
  # How crowded points are where points are, not only over the whole area.
  tree = spatial.cKDTree(points[:: -(-len(points) // _CHANCE_POINTS)])
  near = tree.count_neighbors(tree, threshold) - tree.n
  crowded = near / max(1, tree.n * (tree.n - 1))
  return min(1.0, max(crowded, np.pi * threshold**2 / sides.prod()))


def _log_choose(number, chosen):
  return (
    special.gammaln(np.add(number, 1))
    - special.gammaln(np.add(chosen, 1))
    - special.gammaln(np.subtract(number, chosen) + 1)
  )
