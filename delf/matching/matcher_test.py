import dataclasses

import numpy as np
import pytest

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
  [("locations", "finite locations of image 2"), ("descriptors", "finite")],
)
def test_nan_is_refused(field, words):
  one, two = _pair(0.5, number=30)
  values = getattr(two, field).copy()
  values[3, 1] = np.nan
  with pytest.raises(errors.InputError, match=words):
    matcher.match(one, dataclasses.replace(two, **{field: values}))


def test_locations_must_fit_descriptors():
  with pytest.raises(errors.InputError, match="locations of shape \\[4, 2\\]"):
    matcher.match_arrays(
      np.ones([3, 2]), np.ones([4, 8]), np.ones([4, 2]), np.ones([4, 8])
    )


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"min_inliers": 0}, "over 0 as min_inliers, received 0"),
    ({"min_inliers": -3}, "over 0 as min_inliers, received -3"),
    ({"min_inliers": 9.5}, "over 0 as min_inliers, received 9.5"),
    ({"residual_threshold": "a"}, "residual threshold over 0"),
    ({"seed": "x"}, "whole number as seed"),
    ({"ratio": "a"}, "ratio over 0"),
  ],
)
def test_bad_options_are_named(options, words):
  with pytest.raises(errors.InputError, match=words):
    matcher.match(*_pair(0.5, number=20), **options)


def test_descriptors_must_be_there():
  with pytest.raises(errors.InputError, match="descriptors 2"):
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
