import numpy as np
import pytest

from delf.python import errors
from delf.python.retrieval import exact_search, query_expansion

_DESCRIPTORS = np.float32([[1, 0], [0.8, 0.6], [0.6, 0.8], [-1, 0], [0, 0]])


def _unit(vector):
  return np.asarray(vector) / np.linalg.norm(vector)


def _expanded(ids, number, alpha, query=(1, 0)):
  options = query_expansion.Expansion(number, alpha)
  return query_expansion.expand(
    np.float32([query]), np.array([ids]), _DESCRIPTORS, options
  )[0]


def test_alpha_weights_by_hand():
  # 1 * (1, 0), 0.8^2 * (0.8, 0.6) beside the query itself.
  expected = _unit([1 + 1 + 0.8**3, 0.64 * 0.6])
  np.testing.assert_allclose(_expanded([0, 1, 2], 2, 2.0), expected, atol=1e-6)


def test_average_by_hand():
  expected = _unit([1 + 1 + 0.8 + 0.6, 0.6 + 0.8])
  np.testing.assert_allclose(_expanded([0, 1, 2], 3, 0), expected, atol=1e-6)


def test_what_is_not_alike_or_not_there_adds_nothing():
  for alpha in (0, 3):
    found = _expanded([3, 4, -1, -1], 4, alpha)
    np.testing.assert_allclose(found, [1, 0], atol=1e-6)


def test_query_without_descriptor_stays_so():
  assert _expanded([0, 1], 2, 0, query=(0, 0)).tolist() == [0, 0]


def test_fewer_images_than_asked_for():
  expected = _unit([1.512 + 1, 0.384])
  np.testing.assert_allclose(_expanded([0, 1], 9, 2.0), expected, atol=1e-3)


def test_augmented_descriptors_are_means_without_themselves():
  found = query_expansion.augment(
    _DESCRIPTORS, query_expansion.Expansion(1, 1.0)
  )
  assert found.dtype == np.float32
  near = 0.96 * _DESCRIPTORS[1] + _DESCRIPTORS[2]
  np.testing.assert_allclose(found[2], _unit(near), atol=1e-6)
  near = 0.8 * _DESCRIPTORS[1] + _DESCRIPTORS[0]
  np.testing.assert_allclose(found[0], _unit(near), atol=1e-6)
  np.testing.assert_allclose(found[3:], _DESCRIPTORS[3:], atol=1e-6)


def test_copies_of_an_image_count_as_its_nearest():
  same = np.repeat(np.float32([[0.6, 0.8], [1, 0]]), [5, 1], axis=0)
  found = query_expansion.augment(same, query_expansion.Expansion(2, 3.0))
  np.testing.assert_allclose(found[:5], same[:5], atol=1e-6)


def test_blocks_change_nothing(monkeypatch):
  random = np.random.default_rng(0).normal(size=(60, 6))
  descriptors = query_expansion.unit_length(random)
  whole = query_expansion.augment(descriptors)
  ids = exact_search.search(descriptors, [descriptors], 6).ids
  expected = query_expansion.expand(
    descriptors, ids[:, 1:], descriptors, query_expansion.DATABASE
  )
  monkeypatch.setattr(query_expansion, "_VALUES", 70)
  np.testing.assert_allclose(
    query_expansion.augment(descriptors.astype(np.float32)), whole, atol=1e-6
  )
  np.testing.assert_allclose(whole, expected, atol=1e-6)


@pytest.mark.parametrize(
  "changes", [{"number": 0}, {"number": 1.5}, {"number": True}]
)
def test_bad_number(changes):
  with pytest.raises(errors.InputError, match="images over 0"):
    query_expansion.Expansion(**changes)


@pytest.mark.parametrize("alpha", [-1, np.nan, np.inf, "a"])
def test_bad_alpha(alpha):
  with pytest.raises(errors.InputError, match="alpha of at least 0"):
    query_expansion.Expansion(alpha=alpha)
