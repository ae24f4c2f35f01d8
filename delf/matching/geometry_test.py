from concurrent import futures

import cv2
import numpy as np
import pytest

from delf.base import errors
from delf.matching import geometry, matcher


def _points(number=500, side=1000.0, seed=0):
  return np.random.default_rng(seed).uniform(0, side, (number, 2))


def _needed(points, estimator, threshold, fewest=0, model=None):
  arguments = (points, points, model, estimator, threshold, fewest)
  return geometry.needed_inliers(*arguments)


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
  threshold = matcher.DEFAULT_THRESHOLDS[estimator]
  found = geometry.estimate(one, two, estimator, threshold, seed=seed)
  needed = geometry.needed_inliers(
    one, two, found.model, estimator, threshold, matcher.MIN_INLIERS
  )
  return found.inliers.sum(), needed


@pytest.mark.parametrize("estimator", geometry.ESTIMATORS)
@pytest.mark.parametrize("kind", _NOISE)
def test_noise_is_under_what_is_needed(estimator, kind):
  first, second = _NOISE[kind]
  for seed in range(3):
    one = first(300, seed=2 * seed)
    two = second(300, seed=2 * seed + 1)
    score, needed = _estimate(one, two, estimator, seed)
    assert score < needed


@pytest.mark.parametrize("estimator", geometry.ESTIMATORS)
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


@pytest.mark.parametrize("estimator", geometry.ESTIMATORS)
def test_more_chance_needs_more_inliers(estimator):
  base = _needed(_points(), estimator, 10.0)
  assert _needed(_points(), estimator, 20.0) > base
  assert _needed(_points(side=400), estimator, 10.0) > base
  assert _needed(_points(2000), estimator, 10.0) > base
  assert base > geometry.SAMPLE_SIZES[estimator]


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


_AFFINE = np.array([[0.9, -0.5, 40.0], [0.3, 1.1, -20.0]])
_HOMOGRAPHY = np.array([[0.9, -0.2, 60], [0.1, 1.0, -30], [2e-4, 1e-4, 1.0]])


def _scene(model, inliers, outliers=70, noise=0.0, seed=0):
  random = np.random.default_rng(seed)
  one = random.uniform(0, 800, (inliers + outliers, 2))
  two = random.uniform(0, 800, one.shape)
  mapped = one[:inliers] @ model[:, :2].T + model[:, 2]
  if len(model) == 3:
    mapped = mapped[:, :2] / mapped[:, 2:]
  two[:inliers] = mapped + random.normal(0, noise, (inliers, 2))
  return one, two


def _stereo(inliers, outliers, seed=0):
  random = np.random.default_rng(seed)
  points = random.uniform([-2, -2, 4], [2, 2, 9], (inliers, 3))
  turned = points @ cv2.Rodrigues(np.array([0.05, 0.2, -0.1]))[0].T
  turned += [0.8, 0.1, 0.2]
  camera = np.array([[700.0, 0, 400], [0, 700, 300], [0, 0, 1]])
  views = [view @ camera.T for view in (points, turned)]
  noise = random.uniform(0, 800, (2, outliers, 2))
  return [
    np.concatenate([view[:, :2] / view[:, 2:], some])
    for view, some in zip(views, noise, strict=True)
  ]


@pytest.mark.parametrize(
  ("estimator", "truth"),
  [("affine", _AFFINE), ("homography", _HOMOGRAPHY)],
)
def test_finds_the_map_among_outliers(estimator, truth):
  one, two = _scene(truth, 50, outliers=150, noise=0.5)
  found = geometry.estimate(one, two, estimator, 3.0)
  assert found.inliers[:50].all()
  assert found.inliers[50:].sum() <= 3
  np.testing.assert_allclose(
    geometry.residuals(found.model, one, two), found.residuals, rtol=1e-4
  )
  exact = geometry.estimate(*_scene(truth, 50), estimator, 3.0)
  np.testing.assert_allclose(exact.model, truth, rtol=1e-3, atol=1e-6)


def test_finds_the_epipolar_geometry_among_outliers():
  one, two = _stereo(80, 60)
  found = geometry.estimate(one, two, "fundamental", 1.0)
  assert found.inliers[:80].mean() > 0.95
  ends = np.hstack([two, np.ones([140, 1])])
  starts = np.hstack([one, np.ones([140, 1])])
  algebraic = np.einsum("ij,jk,ik->i", ends, found.model, starts)[:80]
  assert np.abs(algebraic).max() < 1e-2 * np.linalg.norm(found.model) * 800
  np.testing.assert_allclose(
    geometry.residuals(found.model, one, two, "fundamental")[:80], 0, atol=0.5
  )


def test_homography_counts_no_point_beyond_the_horizon():
  one = np.array([[10.0, 10.0], [900.0, 10.0]])
  model = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 500, 0, 1]])
  beyond = geometry.residuals(model, one, one)
  assert np.isfinite(beyond[0])
  assert np.isinf(beyond[1])


def test_far_from_the_origin():
  one, two = _scene(_AFFINE, 60, outliers=60, noise=0.5)
  near = geometry.estimate(one, two, "affine", 3.0)
  far = geometry.estimate(one + 1e6, two - 1e6, "affine", 3.0)
  np.testing.assert_array_equal(near.inliers, far.inliers)
  np.testing.assert_allclose(
    geometry.residuals(far.model, one + 1e6, two - 1e6),
    near.residuals,
    atol=0.01,
  )


def test_one_seed_one_result_in_many_threads():
  scenes = [_scene(_AFFINE, 9, outliers=80, seed=seed) for seed in range(8)]

  def estimate(index):
    return geometry.estimate(*scenes[index % 8], "affine", 8.0, seed=index % 8)

  alone = [estimate(index) for index in range(8)]
  with futures.ThreadPoolExecutor(8) as pool:
    together = list(pool.map(estimate, range(64)))
  for index, found in enumerate(together):
    np.testing.assert_array_equal(found.inliers, alone[index % 8].inliers)
    np.testing.assert_array_equal(found.residuals, alone[index % 8].residuals)


def test_global_random_numbers_are_left_alone():
  def draw():
    return cv2.randu(np.zeros(4, np.float32), 0, 1).copy()

  cv2.setRNGSeed(7)
  expected = draw()
  cv2.setRNGSeed(7)
  np.random.seed(3)
  state = np.random.get_state()[1].copy()
  geometry.estimate(*_scene(_AFFINE, 20), "affine", 5.0, seed=99)
  np.testing.assert_array_equal(draw(), expected)
  np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_pairs_left_out_are_counted_all_the_same():
  one, two = _scene(_AFFINE, 40, outliers=40, noise=0.5)
  use = np.ones([80], bool)
  use[:10] = False
  assert geometry.estimate(one, two, "affine", 4.0, use=use).inliers[:40].all()


@pytest.mark.parametrize("estimator", ["affine", "homography"])
def test_everything_onto_one_spot_is_no_map(estimator):
  random = np.random.default_rng(0)
  one = random.uniform(0, 800, (60, 2))
  two = 100 + random.normal(0, 2, (60, 2))
  found = geometry.estimate(one, two, estimator, 5.0)
  assert found.model is None
  assert not found.inliers.any()


@pytest.mark.parametrize("estimator", ["affine", "homography"])
@pytest.mark.parametrize("size", [0.05, 0.1, 12])
def test_images_may_be_of_any_sizes(estimator, size):
  one, two = _scene(np.array([[0.9, -0.5, 40], [0.3, 1.1, -20]]), 60)
  found = geometry.estimate(one, size * two, estimator, 3.0 * min(size, 1))
  assert found.inliers[:60].all()
  back = geometry.estimate(size * two, one, estimator, 3.0)
  assert back.inliers[:60].all()


@pytest.mark.parametrize("estimator", ["affine", "homography"])
def test_a_crowd_does_not_hide_the_map(estimator):
  for seed in range(3):
    one, two = _scene(_AFFINE, 90, outliers=510, noise=1.0, seed=seed)
    crowd = np.random.default_rng(seed).normal(0, 4, (255, 2))
    two[90:345] = [650, 100] + crowd
    found = geometry.estimate(one, two, estimator, 10.0, seed=seed)
    assert found.inliers[:90].all()


def test_one_location_is_no_map():
  same = np.full([10, 2], 5.0)
  assert geometry.estimate(same, same, "affine", 10.0).model is None


def test_points_on_a_line_agree_with_a_similarity():
  line = np.arange(10.0)[:, None] * [20, 40]
  found = geometry.estimate(line, line + 3, "affine", 10.0)
  assert found.inliers.all()


@pytest.mark.parametrize(
  ("estimator", "number"),
  [("affine", 3), ("homography", 4), ("fundamental", 8), ("affine", 0)],
)
def test_as_few_pairs_as_one_sample_say_nothing(estimator, number):
  one = np.random.default_rng(0).uniform(0, 99, (number, 2))
  found = geometry.estimate(one, one, estimator, 10.0)
  assert found.model is None
  assert found.inliers.shape == found.residuals.shape == (number,)


def test_four_pairs_decide_an_affine_map():
  one = np.random.default_rng(0).uniform(0, 99, (4, 2))
  assert geometry.estimate(one, one + 1, "affine", 10.0).inliers.sum() == 4


def test_locations_that_are_not_finite_are_named():
  with pytest.raises(errors.InputError, match="locations 1"):
    geometry.estimate(np.full([5, 2], np.nan), np.ones([5, 2]), "affine", 3.0)
