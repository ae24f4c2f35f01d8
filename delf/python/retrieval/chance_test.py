import numpy as np
import pytest

from delf.python.retrieval import chance, models


def _points(number=500, side=1000.0):
  return np.random.default_rng(0).uniform(0, side, (number, 2))


@pytest.mark.parametrize("estimator", models.ESTIMATORS)
def test_more_chance_needs_more_inliers(estimator):
  base = chance.needed_inliers(_points(), estimator, 10.0, 0)
  assert chance.needed_inliers(_points(), estimator, 20.0, 0) > base
  assert chance.needed_inliers(_points(side=400), estimator, 10.0, 0) > base
  assert chance.needed_inliers(_points(2000), estimator, 10.0, 0) > base
  assert base > models.SAMPLE_SIZES[estimator]


def test_crowded_points_need_more_than_spread_ones():
  crowded = _points()
  crowded[:400] = 500 + crowded[:400] * 0.05
  spread = chance.needed_inliers(_points(), "affine", 10.0, 0)
  assert chance.needed_inliers(crowded, "affine", 10.0, 0) > 3 * spread


def test_never_under_the_given_number():
  assert chance.needed_inliers(_points(50), "affine", 1.0, 25) == 25


@pytest.mark.parametrize("number", [0, 1, 3])
def test_too_few_to_tell_are_never_enough(number):
  assert chance.needed_inliers(_points(number), "affine", 5.0, 0) > number


def test_one_spot_is_never_enough():
  assert chance.needed_inliers(np.ones([30, 2]), "affine", 5.0, 0) == 31


def test_against_the_formula_by_hand():
  # 4 points of a square of side 99 and 1 px: p = pi / 100^2. With 4 pairs and
  # samples of 3: (4 - 3) * C(4, 4) * C(4, 3) * p = 0.00126 < 0.01.
  square = np.array([[0.0, 0], [99, 0], [0, 99], [99, 99]])
  assert chance.needed_inliers(square, "affine", 1.0, 0) == 4
  # At 4 px p is 16 times that: 0.02.
  assert chance.needed_inliers(square, "affine", 4.0, 0) == 5
