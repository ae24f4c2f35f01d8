"""How many inliers chance alone explains."""

import numpy as np
from scipy import spatial, special

from delf.python.retrieval import models

# Points that stand for all where their crowding is measured.
_CROWD_POINTS = 500
# Wrong pairs that the chance of a found map is measured on.
_WRONG_PAIRS = 20_000
# Matches of neighbours are alike, and the test takes them for independent: with
# 0.01 it called 55 of 300 unrelated small photos a match by an affine map, with
# this 16, and 179 of 186 related ones in place of 180 (held out of training).
_FALSE_ALARMS = 1e-6


def needed_inliers(points_1, points_2, model, estimator, threshold, fewest):
  """Returns how many inliers of a map chance alone does not explain.

  The a contrario test of Moisan and Stival (IJCV 2004): with n pairs,
  samples of s that leave up to m maps each, and a chance p that a wrong pair
  agrees, k inliers are to be expected m (n - s) C(n, k) C(k, s) p^(k - s) times
  among all maps. The least k is taken that is expected under 1e-6 times. p is
  measured on the map that was found, and never less than for points that lie
  evenly: where images differ in size, or points crowd, a map may have more.

  Args:
    points_1: [P, 2] float, (x, y) pixels of the putative matches in image 1.
    points_2: [P, 2] float, (x, y) pixels of the same in image 2.
    model: The map that was found, or None.
    estimator: One of models.ESTIMATORS.
    threshold: Largest residual of an inlier, in pixels.
    fewest: Never fewer than this.

  Returns:
    int. P + 1 (never reached) where any number could be chance.
  """
  number, sample = len(points_2), models.SAMPLE_SIZES[estimator]
  if number <= sample:
    return max(fewest, number + 1)
  counts = np.arange(sample + 1, number + 1)
  chance = _uniform_chance(points_2, estimator, threshold)
  if model is not None:
    wrong = _wrong_chance(points_1, points_2, model, estimator, threshold)
    chance = max(chance, wrong)
  alarms = (
    np.log(models.MAPS_OF_SAMPLE[estimator] * (number - sample))
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


def _uniform_chance(points, estimator, threshold):
  """Returns the chance that a point agrees with any map, before it is known."""
  sides = np.ptp(points, axis=0) + 1
  if estimator == models.FUNDAMENTAL:
    return min(1.0, 2 * threshold * np.hypot(*sides) / sides.prod())
  # How crowded points are where points are, not only over the whole area.
  tree = spatial.cKDTree(points[:: -(-len(points) // _CROWD_POINTS)])
  near = tree.count_neighbors(tree, threshold) - tree.n
  crowded = near / max(1, tree.n * (tree.n - 1))
  return min(1.0, max(crowded, np.pi * threshold**2 / sides.prod()))


def _wrong_chance(points_1, points_2, model, estimator, threshold):
  """Returns the share of wrong pairs that agree with a map.

  Each point 1 is paired with other points 2: all of them, or as many as make
  about 20,000 pairs, at random but always the same.
  """
  number = len(points_1)
  order = np.random.default_rng(0).permutation(number)
  shifts = np.arange(1, np.clip(_WRONG_PAIRS // number, 1, number - 1) + 1)
  others = order[(np.arange(number) + shifts[:, None]) % number]
  distances = models.distances(
    model, points_1[order], points_2[others], estimator
  )
  return np.mean(distances <= threshold)


def _log_choose(number, chosen):
  return (
    special.gammaln(np.add(number, 1))
    - special.gammaln(np.add(chosen, 1))
    - special.gammaln(np.subtract(number, chosen) + 1)
  )
