import numpy as np
import pytest

from delf.evaluation import pair_metrics


def test_average_precision_of_known_rankings():
  assert pair_metrics.average_precision([5, 4], [3, 2]) == 1.0
  # Ranked: true, false, true.
  assert pair_metrics.average_precision([5, 3], [4]) == pytest.approx(
    (1 + 2 / 3) / 2
  )
  # Equal scores share one threshold.
  assert pair_metrics.average_precision([1, 1], [1, 1]) == 0.5


def test_homography_agreement_is_two_percent_of_the_longer_side():
  truth = {"type": "homography", "H": np.diag([2.0, 2.0, 1.0])}
  one = np.array([[10.0, 10.0]] * 3)
  two = np.array([[20.0, 20.0], [39.9, 20.0], [40.1, 20.0]])
  good = pair_metrics.agreeing(truth, one, two, (1000, 500))
  assert good.tolist() == [True, True, False]


@pytest.mark.parametrize("kind", ["pose", "points"])
def test_epipolar_agreement_is_one_percent_of_the_longer_side(kind):
  random = np.random.default_rng(0)
  camera = np.array([[800.0, 0, 500], [0, 800, 250], [0, 0, 1]])
  space = random.uniform([-2, -1, 4], [2, 1, 9], (40, 3))
  shift = np.array([1.0, 0, 0])
  one, two = (x @ camera.T for x in (space, space + shift))
  one, two = one[:, :2] / one[:, 2:], two[:, :2] / two[:, 2:]
  truth = {
    "type": kind,
    "K0": camera,
    "K1": camera,
    "R": np.eye(3),
    "t": shift,
    "points": np.hstack([one, two])[:12],
  }
  # Moved along x alone: epipolar lines are rows.
  for offset, expected in ((0.0, True), (9.8, True), (10.2, False)):
    good = pair_metrics.agreeing(truth, one, two + [33, offset], (1000, 500))
    assert good.all() == expected and good.any() == expected


def test_solved_needs_enough_inliers_that_agree():
  truth = {"type": "homography", "H": np.eye(3)}
  points = np.random.default_rng(0).uniform(0, 500, (20, 2))
  off = points.copy()
  off[:6] += 50
  assert pair_metrics.is_solved(truth, points, off, (1000, 500))
  assert not pair_metrics.is_solved(
    truth, points[:14], points[:14], (1000, 500)
  )
  off[:7] += 50
  assert not pair_metrics.is_solved(truth, points, off, (1000, 500))
