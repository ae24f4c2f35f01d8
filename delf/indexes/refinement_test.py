import numpy as np
import pytest

from delf.base import errors
from delf.indexes import dense, ranking, refinement

_DESCRIPTORS = np.float32([[1, 0], [0.8, 0.6], [0.6, 0.8], [-1, 0], [0, 0]])


def _unit_query_expansion(vector):
  return np.asarray(vector) / np.linalg.norm(vector)


def _expanded(ids, number, alpha, query=(1, 0)):
  options = refinement.Expansion(number, alpha)
  return refinement.expand(
    np.float32([query]), np.array([ids]), _DESCRIPTORS, options
  )[0]


def test_alpha_weights_by_hand():
  # 1 * (1, 0), 0.8^2 * (0.8, 0.6) beside the query itself.
  expected = _unit_query_expansion([1 + 1 + 0.8**3, 0.64 * 0.6])
  np.testing.assert_allclose(_expanded([0, 1, 2], 2, 2.0), expected, atol=1e-6)


def test_average_by_hand():
  expected = _unit_query_expansion([1 + 1 + 0.8 + 0.6, 0.6 + 0.8])
  np.testing.assert_allclose(_expanded([0, 1, 2], 3, 0), expected, atol=1e-6)


def test_what_is_not_alike_or_not_there_adds_nothing():
  for alpha in (0, 3):
    found = _expanded([3, 4, -1, -1], 4, alpha)
    np.testing.assert_allclose(found, [1, 0], atol=1e-6)


def test_query_without_descriptor_stays_so():
  assert _expanded([0, 1], 2, 0, query=(0, 0)).tolist() == [0, 0]


def test_fewer_images_than_asked_for():
  expected = _unit_query_expansion([1.512 + 1, 0.384])
  np.testing.assert_allclose(_expanded([0, 1], 9, 2.0), expected, atol=1e-3)


def test_augmented_descriptors_are_means_without_themselves():
  found = refinement.augment(_DESCRIPTORS, refinement.Expansion(1, 1.0))
  assert found.dtype == np.float32
  near = 0.96 * _DESCRIPTORS[1] + _DESCRIPTORS[2]
  np.testing.assert_allclose(found[2], _unit_query_expansion(near), atol=1e-6)
  near = 0.8 * _DESCRIPTORS[1] + _DESCRIPTORS[0]
  np.testing.assert_allclose(found[0], _unit_query_expansion(near), atol=1e-6)
  np.testing.assert_allclose(found[3:], _DESCRIPTORS[3:], atol=1e-6)


def test_copies_of_an_image_count_as_its_nearest():
  same = np.repeat(np.float32([[0.6, 0.8], [1, 0]]), [5, 1], axis=0)
  found = refinement.augment(same, refinement.Expansion(2, 3.0))
  np.testing.assert_allclose(found[:5], same[:5], atol=1e-6)


def test_blocks_change_nothing(monkeypatch):
  random = np.random.default_rng(0).normal(size=(60, 6))
  descriptors = refinement.unit_length(random)
  whole = refinement.augment(descriptors)
  ids = dense.search(descriptors, [descriptors], 6).ids
  expected = refinement.expand(
    descriptors, ids[:, 1:], descriptors, refinement.DATABASE
  )
  monkeypatch.setattr(refinement, "_VALUES", 70)
  np.testing.assert_allclose(
    refinement.augment(descriptors.astype(np.float32)), whole, atol=1e-6
  )
  np.testing.assert_allclose(whole, expected, atol=1e-6)


@pytest.mark.parametrize(
  "changes", [{"number": 0}, {"number": 1.5}, {"number": True}]
)
def test_bad_number(changes):
  with pytest.raises(errors.InputError, match="number must be over 0"):
    refinement.Expansion(**changes)


@pytest.mark.parametrize("alpha", [-1, np.nan, np.inf, "a"])
def test_bad_alpha(alpha):
  with pytest.raises(errors.InputError, match="alpha must be at least 0"):
    refinement.Expansion(alpha=alpha)


_INF = np.inf


def _unit(number, dimension=8, seed=0):
  values = np.random.default_rng(seed).normal(size=(number, dimension))
  return refinement.unit_length(values)


def _on_circle(*degrees):
  angles = np.radians(degrees)
  return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _search(queries, descriptors, k, empty=()):
  return dense.search(queries, [descriptors], k, empty)


@pytest.mark.parametrize("name", refinement.METHODS)
def test_every_method_ranks_the_same_images(name):
  descriptors, queries = _unit(50), _unit(4, seed=1)
  found = _search(queries, descriptors, 60)
  refined = refinement.refine(name, queries, found, descriptors)
  assert refined.ids.shape == found.ids.shape
  np.testing.assert_array_equal(
    np.sort(refined.ids, axis=1), np.sort(found.ids, axis=1)
  )
  assert np.all(refined.ids[:, 50:] == -1)
  assert np.all(refined.scores[:, :-1] >= refined.scores[:, 1:])
  assert refined.scores.dtype == np.float32


@pytest.mark.parametrize("name", refinement.METHODS)
def test_images_and_queries_without_descriptor(name):
  descriptors, queries = _unit(9), _unit(2, seed=1)
  descriptors[3], queries[0] = 0, 0
  found = _search(queries, descriptors, 9, empty=[3])
  found.scores[0] = -_INF
  refined = refinement.refine(name, queries, found, descriptors, [3])
  assert refined.ids[0].tolist() == found.ids[0].tolist()
  assert np.all(refined.scores[0] == -_INF)
  assert (refined.ids[1, -1], refined.scores[1, -1]) == (3, -_INF)


@pytest.mark.parametrize("name", refinement.METHODS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_few_images(name, number):
  descriptors, queries = _unit(number), _unit(2, seed=1)
  found = _search(queries, descriptors, 3)
  refined = refinement.refine(name, queries, found, descriptors)
  assert np.all(np.sort(refined.ids) == np.sort(found.ids))


def test_query_expansion_searches_anew():
  # The second is nearest to the first, which draws the query over.
  descriptors = _on_circle(20, 50, -35)
  queries = _on_circle(0)
  found = _search(queries, descriptors, 3)
  assert found.ids.tolist() == [[0, 2, 1]]
  refined = refinement.Expansion(1, 0.0)(queries, found, descriptors)
  assert refined.ids.tolist() == [[0, 1, 2]]
  expected = np.cos(np.radians([10, 40, 45]))
  np.testing.assert_allclose(refined.scores[0], expected, atol=1e-6)


def test_superglobal_by_hand():
  descriptors = _on_circle(10, 30, 100)
  queries = _on_circle(0)
  found = _search(queries, descriptors, 3)
  method = refinement.SuperGlobal(neighbours=1, beta=0.5, least=0)
  refined = method(queries, found, descriptors)
  near = 0.5 * np.cos(np.radians([20, 20, 70]))
  nearest = descriptors[[1, 0, 1]]
  better = (descriptors + near[:, None] * nearest) / (1 + near[:, None])
  first = better @ queries[0]
  expanded = np.maximum(queries[0], better[0])
  expected = (first + descriptors @ expanded) / 2
  assert refined.ids.tolist() == [[0, 1, 2]]
  np.testing.assert_allclose(refined.scores[0], expected, atol=1e-6)


def test_superglobal_expands_by_what_is_nearly_best():
  descriptors, queries = _on_circle(0, 60, 90), _on_circle(0)
  found = _search(queries, descriptors, 3)
  strict = refinement.SuperGlobal(beta=0.0)(queries, found, descriptors)
  # Nothing but the query itself, which the first image is.
  np.testing.assert_allclose(strict.scores, [[1, 0.5, 0]], atol=1e-6)


def test_diffusion_by_hand():
  descriptors, queries = _on_circle(10, 30, -60), _on_circle(0)
  found = _search(queries, descriptors, 3)
  method = refinement.Diffusion(
    neighbours=1, query_neighbours=1, gamma=1.0, alpha=0.5
  )
  refined = method(queries, found, descriptors)
  # Images 0 and 1 are each other's nearest, so S joins them with 1:
  # f0 = y + f1 / 2 and f1 = f0 / 2.
  y = np.cos(np.radians(10))
  assert refined.ids.tolist() == [[0, 1, 2]]
  np.testing.assert_allclose(
    refined.scores[0], [4 * y / 3, 2 * y / 3, 0], atol=1e-6
  )


def test_diffusion_follows_a_chain():
  # A chain leads to 80 degrees in small steps; -50 is nearer, but alone.
  descriptors = _on_circle(5, 20, 35, 50, 65, 80, -50)
  queries = _on_circle(0)
  found = _search(queries, descriptors, 7)
  assert found.ids[0].tolist().index(6) == 4
  refined = refinement.Diffusion(neighbours=2, query_neighbours=1)(
    queries, found, descriptors
  )
  assert refined.ids.tolist() == [[0, 1, 2, 3, 4, 5, 6]]


def test_images_after_the_first_stay_below_and_in_order():
  descriptors, queries = _unit(30), _unit(3, seed=1)
  found = _search(queries, descriptors, 30)
  for method in (refinement.SuperGlobal(depth=7), refinement.Diffusion(7)):
    refined = method(queries, found, descriptors)
    np.testing.assert_array_equal(refined.ids[:, 7:], found.ids[:, 7:])
    np.testing.assert_array_equal(
      np.sort(refined.ids[:, :7]), np.sort(found.ids[:, :7])
    )
    assert np.all(np.diff(refined.scores) <= 0)
    differences = np.diff(found.scores[:, 7:]), np.diff(refined.scores[:, 7:])
    np.testing.assert_allclose(*differences, atol=1e-5)


def test_what_was_given_stays():
  descriptors, queries = _unit(20), _unit(2, seed=1)
  found = _search(queries, descriptors, 20)
  before = [array.copy() for array in (descriptors, found.ids, found.scores)]
  for name in refinement.METHODS:
    refinement.refine(name, queries, found, descriptors)
  for one, two in zip(
    before, (descriptors, *vars(found).values()), strict=True
  ):
    np.testing.assert_array_equal(one, two)


def test_bad_input():
  descriptors, queries = _unit(20), _unit(2, seed=1)
  found = _search(queries, descriptors, 20)
  with pytest.raises(errors.InputError, match="did you mean diffusion"):
    refinement.refine("difusion", queries, found, descriptors)
  with pytest.raises(
    errors.InputError, match=r"queries must have shape \[2, 8\], not \[1, 8\]"
  ):
    refinement.refine("diffusion", queries[:1], found, descriptors)
  for name in refinement.METHODS:
    with pytest.raises(
      errors.InputError, match="id 1[0-9], but there are 10 images"
    ):
      refinement.refine(name, queries, found, descriptors[:10])
    with pytest.raises(errors.InputError, match="queries must be finite"):
      refinement.refine(name, queries * np.nan, found, descriptors)


@pytest.mark.parametrize(
  ("method", "options", "words"),
  [
    (refinement.SuperGlobal, {"depth": 0}, "depth must be over 0"),
    (
      refinement.SuperGlobal,
      {"neighbours": -3},
      "neighbours must be over 0, not -3",
    ),
    (refinement.SuperGlobal, {"beta": np.nan}, "beta must be at least 0"),
    (refinement.SuperGlobal, {"least": 2}, "least must be 0 to 1, not 2"),
    (refinement.Diffusion, {"depth": 2.0}, "depth must be over 0"),
    (
      refinement.Diffusion,
      {"query_neighbours": 0},
      "query_neighbours must be over 0",
    ),
    (refinement.Diffusion, {"gamma": 0}, "gamma must be over 0"),
    (
      refinement.Diffusion,
      {"alpha": 1.0},
      r"alpha must be in \[0, 1\), not 1.0",
    ),
  ],
)
def test_bad_options(method, options, words):
  with pytest.raises(errors.InputError, match=words):
    method(**options)


@pytest.mark.parametrize("name", refinement.METHODS)
def test_rankings_of_no_images(name):
  queries = _unit(2)
  found = ranking.Ranking(np.zeros([2, 0], np.int32), np.zeros([2, 0]))
  assert refinement.refine(name, queries, found, _unit(5)).ids.shape == (2, 0)
