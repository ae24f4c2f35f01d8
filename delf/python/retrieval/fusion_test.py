import numpy as np
import pytest

from delf.python import errors
from delf.python.retrieval import fusion, ranking

_INF = np.inf


def _ranking(ids, scores):
  return ranking.Ranking(np.int32(ids), np.float32(scores))


_GLOBAL = _ranking([[0, 1, 2]], [[0.9, 0.5, 0.1]])
_LOCAL = _ranking([[1, 3, 0]], [[20, 10, 0]])


def test_convex_by_hand():
  # Global: 0 has 1, 1 has 0.5, 2 has 0; local: 1 has 1, 3 has 0.5, 0 has 0.
  found = fusion.fuse([_GLOBAL, _LOCAL], [1, 3])
  assert found.ids.tolist() == [[1, 3, 0]]
  np.testing.assert_allclose(found.scores, [[0.875, 0.375, 0.25]])
  assert (found.ids.dtype, found.scores.dtype) == (np.int32, np.float32)


def test_ranks_by_hand():
  options = fusion.FusionOptions(fusion.RANKS, constant=1)
  found = fusion.fuse([_GLOBAL, _LOCAL], k=5, options=options)
  # 1: 1/3 + 1/2, 0: 1/2 + 1/4, 3: 1/3, 2: 1/4; halved.
  assert found.ids.tolist() == [[1, 0, 3, 2, -1]]
  expected = [[5 / 12, 3 / 8, 1 / 6, 1 / 8, -_INF]]
  np.testing.assert_allclose(found.scores, expected, atol=1e-6)


@pytest.mark.parametrize("method", fusion.METHODS)
def test_one_ranking_stays_as_it_is(method):
  options = fusion.FusionOptions(method)
  found = fusion.fuse([_GLOBAL], options=options)
  assert found.ids.tolist() == _GLOBAL.ids.tolist()
  found = fusion.fuse([_LOCAL, _GLOBAL], [0, 1], k=3, options=options)
  assert found.ids.tolist() == _GLOBAL.ids.tolist()


def test_missing_images_and_scores_add_nothing():
  short = _ranking([[2, -1, 1]], [[5, -_INF, -_INF]])
  found = fusion.fuse([_GLOBAL, short], k=4)
  # Of 2: the least of one, and the only one of the other.
  assert found.ids.tolist() == [[0, 2, 1, -1]]
  np.testing.assert_allclose(found.scores, [[0.5, 0.5, 0.25, -_INF]])


def test_a_query_of_which_one_ranking_knows_nothing():
  none = _ranking([[0, 1, 2]], np.full([1, 3], -_INF))
  assert fusion.fuse([_GLOBAL, none]).ids.tolist() == [[0, 1, 2]]
  empty = _ranking(np.zeros([1, 0]), np.zeros([1, 0]))
  assert fusion.fuse([_GLOBAL, empty]).ids.tolist() == [[0, 1, 2]]


def test_no_queries():
  none = _ranking(np.zeros([0, 3]), np.zeros([0, 3]))
  assert fusion.fuse([none, none]).ids.shape == (0, 3)


def test_rows_stay_apart():
  random = np.random.default_rng(0)
  one, two = (ranking.top_k(random.normal(size=(6, 30)), k) for k in (20, 30))
  together = fusion.fuse([one, two], [1, 2])
  for i in range(6):
    rows = [_ranking(r.ids[i : i + 1], r.scores[i : i + 1]) for r in (one, two)]
    alone = fusion.fuse(rows, [1, 2])
    assert alone.ids.tolist() == together.ids[i : i + 1].tolist()


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (([],), "rankings to fuse"),
    (
      ([_GLOBAL, _ranking([[1], [2]], [[1], [1]])],),
      r"same queries, .* \[1, 2",
    ),
    (([_GLOBAL], [1, 2]), "1 weights"),
    (([_GLOBAL], [-1]), "1 weights of at least 0"),
    (([_GLOBAL], [np.nan]), "1 weights"),
    (([_GLOBAL], ["a"]), "1 weights"),
    (([_GLOBAL], [0]), "a weight over 0"),
    (([_GLOBAL], None, -1), "images over 0"),
    (([_GLOBAL], None, 0), "images over 0"),
  ],
)
def test_bad_input(arguments, words):
  with pytest.raises(errors.InputError, match=words):
    fusion.fuse(*arguments)


def test_bad_options():
  with pytest.raises(errors.InputError, match="convex, ranks"):
    fusion.FusionOptions("sum")
  with pytest.raises(errors.InputError, match="constant"):
    fusion.FusionOptions(constant=-1)
