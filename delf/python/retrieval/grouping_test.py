import numpy as np
import pytest

from delf.python.retrieval import grouping, ranking

_GROUP = np.array([0, 0, 1, 2, 2])


def _found(scores, k=None):
  return ranking.top_k(np.array(scores), k)


def test_a_group_has_the_place_of_its_best_part():
  found = grouping.by_best(_found([[1, 5, 3, 2, 4]]), _GROUP, 3)
  assert found.ids.tolist() == [[0, 2, 1]]
  assert found.parts.tolist() == [[1, 4, 2]]
  assert found.scores.tolist() == [[5, 4, 3]]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_it_is_the_ranking_of_the_largest_scores(k):
  scores = np.random.default_rng(3).random([7, 40]).astype(np.float32)
  group = np.random.default_rng(4).integers(0, 9, 40)
  group[:9] = np.arange(9)
  best = np.stack([scores[:, group == g].max(axis=1) for g in range(9)], axis=1)
  wanted = ranking.top_k(best, k)
  found = grouping.by_best(_found(scores), group, k)
  np.testing.assert_array_equal(found.ids, wanted.ids)
  np.testing.assert_array_equal(found.scores, wanted.scores)
  rows = np.arange(7)[:, None]
  np.testing.assert_array_equal(scores[rows, found.parts], found.scores)


def test_some_parts_may_not_count():
  kept = np.array([True, False, True, True, False])
  found = grouping.by_best(_found([[1, 5, 3, 2, 4]]), _GROUP, 4, kept)
  assert found.ids.tolist() == [[1, 2, 0, -1]]
  assert found.parts.tolist() == [[2, 3, 0, -1]]
  assert found.scores[0, 3] == -np.inf


def test_padding_stays_and_parts_are_found_in_another_order():
  found = grouping.by_best(_found([[1.0, 2.0]], k=4), _GROUP, 2)
  assert found.ids.tolist() == [[0, -1]]
  assert found.parts_of(np.array([[-1, 1, 0]])).tolist() == [[-1, -1, 1]]
