import dataclasses

import numpy as np
import pytest
from scipy import spatial

from delf.base import errors
from delf.formats import features
from delf.matching import matcher


def _pair(share, noise=1.0, number=1000, dimension=32, seed=0):
  """Two sets of features, `share` of which show the same points."""
  random = np.random.default_rng(seed)
  size = (2, number, dimension)
  descriptors = random.normal(size=size).astype(np.float32)
  descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
  locations = random.uniform(0, 1000, (2, number, 2))
  true = int(share * number)
  descriptors[1, :true] = descriptors[0, :true]
  turn = np.array([[0.8, -0.4], [0.5, 0.9]])
  locations[1, :true] = locations[0, :true] @ turn + [90, 70]
  locations[1] += random.normal(0, noise, (number, 2))
  return [
    features.LocalFeatures(
      locations=locations[side],
      scales=np.ones([number]),
      descriptors=descriptors[side],
      attention=np.ones([number]),
    )
    for side in range(2)
  ]


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize(
  ("share", "noise", "recall"),
  [(0.3, 1, 0.99), (0.3, 5, 0.99), (0.1, 1, 0.99), (0.1, 5, 0.95)],
)
def test_true_inliers_are_found(mutual, share, noise, recall):
  found = matcher.match(*_pair(share, noise), mutual=mutual)
  true = int(share * 1000)
  agree = found.inliers[:, 0] == found.inliers[:, 1]
  assert np.count_nonzero(agree & (found.inliers[:, 0] < true)) >= recall * true
  assert found.is_match
  # Locations are (y, x), the model is (x, y).
  np.testing.assert_allclose(found.model[1, 1], 0.8, atol=0.05)
  np.testing.assert_allclose(found.model[0, 1], -0.4, atol=0.05)


@pytest.mark.parametrize("estimator", ["affine", "homography", "fundamental"])
@pytest.mark.parametrize("mutual", [False, True])
def test_noise_is_no_match(estimator, mutual):
  for seed in range(6):
    found = matcher.match(
      *_pair(0, seed=seed), estimator=estimator, mutual=mutual
    )
    assert found.score < found.min_inliers
    assert not found.is_match


def test_result_holds_together():
  found = matcher.match(*_pair(0.2), matcher.MatchOptions(ratio=0.9))
  assert found.putative.dtype == found.inliers.dtype == np.int32
  assert found.model.shape == (2, 3)
  assert found.model.dtype == np.float64
  assert found.score == len(found.residuals) == len(found.distances)
  assert (found.residuals <= found.residual_threshold).all()
  assert (found.strengths >= 0).all()
  assert (found.strengths <= 1).all()
  putative = set(map(tuple, found.putative.tolist()))
  assert set(map(tuple, found.inliers.tolist())) <= putative
  with pytest.raises(dataclasses.FrozenInstanceError):
    found.model = None


def test_same_seed_same_result():
  pair = _pair(0.02)
  first = matcher.match(*pair, seed=5)
  again = matcher.match(*pair, seed=5)
  np.testing.assert_array_equal(first.inliers, again.inliers)
  np.testing.assert_array_equal(first.model, again.model)


def test_the_user_may_set_what_makes_a_match():
  pair = _pair(0.3, number=100)
  assert matcher.match(*pair).is_match
  assert not matcher.match(*pair, min_inliers=31).is_match


@pytest.mark.parametrize("sides", [(0, 0), (0, 1), (1, 0)])
def test_without_features_nothing_matches(sides):
  some = (features.LocalFeatures.empty(), _pair(0.5, number=20)[0])
  found = matcher.match(*(some[side] for side in sides))
  assert found.putative.shape == found.inliers.shape == (0, 2)
  assert found.model is None
  assert found.score == 0
  assert not found.is_match


@pytest.mark.parametrize(
  ("field", "words"),
  [
    ("locations", "locations of image 2 must be finite"),
    ("descriptors", "finite"),
  ],
)
def test_nan_is_refused(field, words):
  one, two = _pair(0.5, number=30)
  values = getattr(two, field).copy()
  values[3, 1] = np.nan
  with pytest.raises(errors.InputError, match=words):
    matcher.match(one, dataclasses.replace(two, **{field: values}))


def test_locations_must_fit_descriptors():
  with pytest.raises(
    errors.InputError, match="its descriptors need \\[4, 2\\]"
  ):
    matcher.match_arrays(
      np.ones([3, 2]), np.ones([4, 8]), np.ones([4, 2]), np.ones([4, 8])
    )


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"min_inliers": 0}, "min_inliers must be .* over 0, not 0"),
    ({"min_inliers": -3}, "min_inliers must be .* over 0, not -3"),
    ({"min_inliers": 9.5}, "min_inliers must be a whole .* not 9.5"),
    (
      {"residual_threshold": "a"},
      "residual_threshold must be over 0 .*not 'a'",
    ),
    ({"residual_threshold": 0.0}, "residual_threshold must be over 0"),
    ({"residual_threshold": np.inf}, "residual_threshold must be over 0"),
    ({"estimator": "rigid"}, "estimator must be one of affine"),
    ({"seed": "x"}, "seed must be a whole number"),
    ({"seed": 1.5}, "seed must be a whole number"),
    ({"seed": None}, "seed must be a whole number"),
    ({"ratio": "a"}, "ratio must be over 0"),
    ({"ratio": 0}, "ratio must be over 0"),
    ({"max_distance": "a"}, "max_distance must be over 0"),
    ({"max_distance": 0}, "max_distance must be over 0"),
    ({"max_distance": np.nan}, "max_distance must be over 0"),
  ],
)
def test_bad_options_are_named(options, words):
  with pytest.raises(errors.InputError, match=words):
    matcher.MatchOptions(**options)
  with pytest.raises(errors.InputError, match=words):
    matcher.match(*_pair(0.5, number=20), **options)


def test_descriptors_must_be_there():
  with pytest.raises(errors.InputError, match="descriptors of image 2"):
    matcher.match_arrays(
      np.ones([4, 2]), np.ones([4, 8]), np.ones([4, 2]), None
    )


@pytest.mark.parametrize("size", [0.1, 12])
def test_photos_of_very_different_sizes_match(size):
  one, two = _pair(0.3, noise=0.1)
  two = dataclasses.replace(two, locations=size * two.locations)
  found = matcher.match(one, two)
  assert found.is_match
  assert found.score >= 290


@pytest.mark.parametrize("estimator", ["affine", "homography"])
@pytest.mark.parametrize("swap", [False, True])
def test_a_detail_of_a_large_photo_matches_at_its_own_scale(estimator, swap):
  # What does not match lies all over the large photo.
  random = np.random.default_rng(0)
  detail, photo = _pair(0.3, number=500)
  small = random.uniform(0, 300, (500, 2))
  large = random.uniform(0, 4000, (500, 2))
  large[:150] = small[:150] + 1000 + random.normal(0, 0.5, (150, 2))
  pair = [
    dataclasses.replace(detail, locations=small),
    dataclasses.replace(photo, locations=large),
  ]
  found = matcher.match(*pair[:: -1 if swap else 1], estimator=estimator)
  assert found.is_match
  assert found.score >= 145


_CASES = [
  "n1000_d128_inl5",
  "n1000_d128_inl10",
  "n1000_d128_inl30",
  "n1000_d128_inl50",
  "n1000_d128_inl100",
  "n300_d40_inl10",
  "n300_d40_inl50",
]


@pytest.mark.parametrize("case", _CASES)
def test_same_putatives_as_the_original(goldens, case):
  with np.load(goldens / f"match_{case}.npz") as file:
    golden = dict(file)
  found = matcher.nearest(
    golden["query_descriptors"], golden["index_descriptors"], max_distance=0.9
  )
  nearest = np.full(
    len(golden["query_descriptors"]), len(golden["index_locations"])
  )
  nearest[found.pairs[:, 0]] = found.pairs[:, 1]
  np.testing.assert_array_equal(nearest, golden["putative_index"])
  np.testing.assert_allclose(
    found.distances, golden["putative_dist"][found.pairs[:, 0]], atol=1e-6
  )


@pytest.fixture
def descriptors():
  random = np.random.default_rng(0)
  return random.normal(size=(90, 8)), random.normal(size=(70, 8))


def _reference(first, second, count=2):
  return spatial.cKDTree(second).query(first, k=count)


def test_ratio_keeps_what_a_tree_says(descriptors):
  first, second = descriptors
  distances, indices = _reference(first, second)
  keep = distances[:, 0] < 0.8 * distances[:, 1]
  found = matcher.nearest(first, second, ratio=0.8)
  assert 0 < keep.sum() < len(first)
  np.testing.assert_array_equal(found.pairs[:, 0], np.flatnonzero(keep))
  np.testing.assert_array_equal(found.pairs[:, 1], indices[keep, 0])


@pytest.mark.parametrize("block", [matcher._BLOCK, 70 * 7])
def test_mutual_keeps_what_two_trees_say(descriptors, block, monkeypatch):
  monkeypatch.setattr(matcher, "_BLOCK", block)
  first, second = descriptors
  there = _reference(first, second, 1)[1]
  back = _reference(second, first, 1)[1]
  keep = np.flatnonzero(back[there] == np.arange(len(first)))
  found = matcher.nearest(first, second, mutual=True)
  np.testing.assert_array_equal(found.pairs, np.stack([keep, there[keep]], 1))


def test_blocks_do_not_change_the_result(descriptors, monkeypatch):
  whole = matcher.nearest(*descriptors, ratio=0.9, mutual=True)
  monkeypatch.setattr(matcher, "_BLOCK", 1)
  rows = matcher.nearest(*descriptors, ratio=0.9, mutual=True)
  np.testing.assert_array_equal(whole.pairs, rows.pairs)


def test_mutual_is_one_to_one_where_descriptors_repeat():
  same = np.ones([5, 3])
  found = matcher.nearest(same, same, mutual=True)
  assert found.pairs.tolist() == [[0, 0]]


def test_far_from_the_origin_distances_stay_exact():
  random = np.random.default_rng(1)
  first = 1000 + random.normal(size=(20, 4)) * 0.1
  found = matcher.nearest(first, first)
  np.testing.assert_array_equal(found.pairs[:, 0], found.pairs[:, 1])
  np.testing.assert_array_equal(found.distances, 0)


def test_one_to_one_keeps_the_nearest_of_both():
  pairs = np.array([[0, 4], [1, 4], [2, 5], [3, 4]], np.int32)
  found = matcher.Putatives(pairs, np.float32([0.3, 0.1, 0.5, 0.2]))
  assert found.one_to_one().tolist() == [False, True, True, False]


@pytest.mark.parametrize("shape", [(0, 8), (0, 0), (0,)])
@pytest.mark.parametrize("swap", [False, True])
def test_nothing_to_match_gives_nothing(descriptors, shape, swap):
  sides = [np.zeros(shape), descriptors[0]]
  found = matcher.nearest(*(sides[::-1] if swap else sides), mutual=True)
  assert found.pairs.shape == (0, 2)
  assert found.distances.shape == (0,)


def test_ratio_with_a_single_candidate_keeps_it():
  assert len(matcher.nearest(np.eye(2), np.eye(2)[:1], ratio=0.5).pairs) == 2


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      {"first": np.full([3, 8], np.nan)},
      "descriptors 1 must be finite: NaN",
    ),
    ({"second": np.full([3, 8], 1e300)}, "descriptors 2 must be finite"),
    ({"second": np.ones([3, 7])}, "extract both with one model"),
    ({"second": np.full([3, 8], 1e25)}, "over 1e\\+15 in 3 of 3"),
    ({"first": None}, "array of numbers"),
    ({"first": np.ones([8])}, "shape \\[N, D\\]"),
    ({"first": np.array([["a"] * 8])}, "array of numbers"),
  ],
)
def test_bad_descriptors_are_named(descriptors, changes, words):
  both = {"first": descriptors[0], "second": descriptors[1]} | changes
  with pytest.raises(errors.InputError, match=words):
    matcher.nearest(**both)


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("options", [{"ratio": 0.95}, {"mutual": True}, {}])
def test_prepared_descriptors_give_the_same(offset, options):
  random = np.random.default_rng(3)
  sides = random.normal(size=(2, 50, 6)) + offset
  expected = matcher.nearest(*sides, **options)
  found = matcher.nearest(*map(matcher.prepare_descriptors, sides), **options)
  assert found.pairs.tolist() == expected.pairs.tolist()
  assert found.distances.tolist() == expected.distances.tolist()
  # By distances of all pairs, in float64.
  exact = np.linalg.norm(sides[0][:, None] - sides[1], axis=2)
  nearest = exact.argmin(axis=1)
  assert (found.pairs[:, 1] == nearest[found.pairs[:, 0]]).all()


def test_no_descriptors_can_be_prepared():
  none = matcher.prepare_descriptors(np.zeros([0, 6]))
  assert len(none) == 0
  some = matcher.prepare_descriptors(np.ones([3, 6]))
  assert len(matcher.nearest(some, none).pairs) == 0
  assert len(matcher.nearest(none, some).pairs) == 0


def test_what_is_prepared_is_named_where_it_is_wrong():
  with pytest.raises(errors.InputError, match="of the query"):
    matcher.prepare_descriptors(
      np.full([2, 3], np.nan), "descriptors of the query"
    )
