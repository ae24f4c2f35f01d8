import numpy as np
import pytest

from delf.python.retrieval import chance, matching, models, robust


def _points(number=500, side=1000.0, seed=0):
  return np.random.default_rng(seed).uniform(0, side, (number, 2))


def _needed(points, estimator, threshold, fewest=0, model=None):
  arguments = (points, points, model, estimator, threshold, fewest)
  return chance.needed_inliers(*arguments)


def _clusters(number, seed):
  random = np.random.default_rng(seed)
  centres = random.uniform(0, 1000, (5, 2))
  chosen = centres[random.integers(5, size=number)]
  return chosen + random.normal(0, 20, (number, 2))


def _hubs(number, seed):
  """As one-way matches end: many in few places."""
  random = np.random.default_rng(seed)
  places = random.uniform(0, 1000, (number // 20, 2))
  return places[(random.uniform(size=number) ** 3 * len(places)).astype(int)]


_NOISE = {
  "equal": (_points, _points),
  "small second": (_points, lambda n, seed: _points(n, 150, seed)),
  "small first": (lambda n, seed: _points(n, 60, seed), _points),
  "clusters": (_clusters, _clusters),
  "clustered second": (_points, _clusters),
  "hubs": (_points, _hubs),
}


def _estimate(one, two, estimator, seed):
  """Returns the number of inliers, and that which is needed."""
  threshold = matching.DEFAULT_THRESHOLDS[estimator]
  found = robust.estimate(one, two, estimator, threshold, seed=seed)
  needed = chance.needed_inliers(
    one, two, found.model, estimator, threshold, matching.MIN_INLIERS
  )
  return found.inliers.sum(), needed


@pytest.mark.parametrize("estimator", models.ESTIMATORS)
@pytest.mark.parametrize("kind", _NOISE)
def test_noise_is_under_what_is_needed(estimator, kind):
  first, second = _NOISE[kind]
  for seed in range(3):
    one = first(300, seed=2 * seed)
    two = second(300, seed=2 * seed + 1)
    score, needed = _estimate(one, two, estimator, seed)
    assert score < needed


@pytest.mark.parametrize("estimator", models.ESTIMATORS)
@pytest.mark.parametrize("share", [0.3, 0.1])
def test_true_matches_are_over_it(estimator, share):
  for seed in range(2):
    one, two = _points(1000, seed=seed), _points(1000, seed=seed + 9)
    true = int(1000 * share)
    turn = np.array([[0.8, 0.5], [-0.4, 0.9]])
    two[:true] = one[:true] @ turn + 70
    two += np.random.default_rng(seed).normal(0, 1, two.shape)
    score, needed = _estimate(one, two, estimator, seed)
    assert score >= max(needed, 0.9 * true)


@pytest.mark.parametrize("estimator", models.ESTIMATORS)
def test_more_chance_needs_more_inliers(estimator):
  base = _needed(_points(), estimator, 10.0)
  assert _needed(_points(), estimator, 20.0) > base
  assert _needed(_points(side=400), estimator, 10.0) > base
  assert _needed(_points(2000), estimator, 10.0) > base
  assert base > models.SAMPLE_SIZES[estimator]


def test_crowded_points_need_more_than_spread_ones():
  crowded = _points()
  crowded[:400] = 500 + crowded[:400] * 0.05
  spread = _needed(_points(), "affine", 10.0)
  assert _needed(crowded, "affine", 10.0) > 3 * spread


def test_a_map_that_much_agrees_with_needs_more():
  # Sends all to the middle: of wrong pairs 0.04 pi agree with it, not 0.01 pi.
  middle = np.array([[0.0, 0, 500], [0, 0, 500]])
  half = _points()
  half[::2] = 250 + half[::2] / 2
  base = _needed(half, "affine", 100.0)
  assert _needed(half, "affine", 100.0, model=middle) > base


def test_never_under_the_given_number():
  assert _needed(_points(50), "affine", 1.0, 25) == 25


@pytest.mark.parametrize("number", [0, 1, 3])
def test_too_few_to_tell_are_never_enough(number):
  assert _needed(_points(number), "affine", 5.0) > number


def test_one_spot_is_never_enough():
  assert _needed(np.ones([30, 2]), "affine", 5.0) == 31


def test_against_the_formula_by_hand():
  # 4 points of a square of side 99, and 0.02 px: p = pi 0.02^2 / 100^2. With 4
  # pairs and samples of 3: (4 - 3) * C(4, 4) * C(4, 3) * p = 5.0e-7 < 1e-6.
  square = np.array([[0.0, 0], [99, 0], [0, 99], [99, 99]])
  assert _needed(square, "affine", 0.02) == 4
  # At 0.04 px p is 4 times that: 2.0e-6.
  assert _needed(square, "affine", 0.04) == 5


def test_a_sample_of_seven_points_leaves_three_maps():
  # 8 points: 3 * 1 * C(8, 8) * C(8, 7) * p = 24 p, with p = 2 t sqrt(2) / 100.
  square = np.array([[0.0, 0], [99, 0], [0, 99], [99, 99]] * 2)
  limit = 1e-6 / 24 * 100 / np.sqrt(8)
  assert _needed(square, "fundamental", 0.99 * limit) == 8
  assert _needed(square, "fundamental", 1.01 * limit) == 9
