import json

import numpy as np
import pytest

from delf.base import errors
from delf.indexes import ranking

_GROUP = np.array([0, 0, 1, 2, 2])


def _found(scores, k=None):
  return ranking.top_k(np.array(scores), k)


def test_a_group_has_the_place_of_its_best_part():
  found = ranking.by_best(_found([[1, 5, 3, 2, 4]]), _GROUP, 3)
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
  found = ranking.by_best(_found(scores), group, k)
  np.testing.assert_array_equal(found.ids, wanted.ids)
  np.testing.assert_array_equal(found.scores, wanted.scores)
  rows = np.arange(7)[:, None]
  np.testing.assert_array_equal(scores[rows, found.parts], found.scores)


def test_some_parts_may_not_count():
  kept = np.array([True, False, True, True, False])
  found = ranking.by_best(_found([[1, 5, 3, 2, 4]]), _GROUP, 4, kept)
  assert found.ids.tolist() == [[1, 2, 0, -1]]
  assert found.parts.tolist() == [[2, 3, 0, -1]]
  assert found.scores[0, 3] == -np.inf


def test_padding_stays_and_parts_are_found_in_another_order():
  found = ranking.by_best(_found([[1.0, 2.0]], k=4), _GROUP, 2)
  assert found.ids.tolist() == [[0, -1]]
  assert found.parts_of(np.array([[-1, 1, 0]])).tolist() == [[-1, -1, 1]]


@pytest.mark.parametrize("k", [1, 2, 7, 50, 99, 100])
def test_as_a_stable_sort(k):
  random = np.random.default_rng(1)
  # Few values, so that there are ties everywhere, also at the k-th.
  scores = random.integers(0, 6, (20, 100)).astype(np.float32)
  found = ranking.top_k(scores, k)
  expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
  assert np.array_equal(found.ids, expected)
  assert np.array_equal(found.scores, np.take_along_axis(scores, expected, 1))
  assert (found.ids.dtype, found.scores.dtype) == (np.int32, np.float32)
  assert len(found) == 20


def test_fewer_images_than_asked_for():
  found = ranking.top_k([[1, 3], [2, 2]], 4)
  assert found.ids.tolist() == [[1, 0, -1, -1], [0, 1, -1, -1]]
  assert found.scores[0].tolist() == [3, 1, -np.inf, -np.inf]


def test_all():
  assert ranking.top_k([[1, 3, 2]]).ids.tolist() == [[1, 2, 0]]
  assert ranking.top_k(np.zeros([2, 0])).ids.tolist() == [[-1], [-1]]
  assert ranking.top_k(np.zeros([0, 5]), 3).ids.shape == (0, 3)


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", True])
def test_number_that_is_none(k):
  with pytest.raises(errors.InputError, match=f"over 0, not {k!r}"):
    ranking.top_k([[1.0]], k)


_INF = np.inf


def _ranking(ids, scores):
  return ranking.Ranking(np.int32(ids), np.float32(scores))


_GLOBAL = _ranking([[0, 1, 2]], [[0.9, 0.5, 0.1]])
_LOCAL = _ranking([[1, 3, 0]], [[20, 10, 0]])


def test_convex_by_hand():
  # Global: 0 has 1, 1 has 0.5, 2 has 0; local: 1 has 1, 3 has 0.5, 0 has 0.
  found = ranking.fuse([_GLOBAL, _LOCAL], [1, 3])
  assert found.ids.tolist() == [[1, 3, 0]]
  np.testing.assert_allclose(found.scores, [[0.875, 0.375, 0.25]])
  assert (found.ids.dtype, found.scores.dtype) == (np.int32, np.float32)


def test_ranks_by_hand():
  found = ranking.fuse([_GLOBAL, _LOCAL], k=5, method=ranking.RANKS, constant=1)
  # 1: 1/3 + 1/2, 0: 1/2 + 1/4, 3: 1/3, 2: 1/4; halved.
  assert found.ids.tolist() == [[1, 0, 3, 2, -1]]
  expected = [[5 / 12, 3 / 8, 1 / 6, 1 / 8, -_INF]]
  np.testing.assert_allclose(found.scores, expected, atol=1e-6)


@pytest.mark.parametrize("method", ranking.METHODS)
def test_one_ranking_stays_as_it_is(method):
  found = ranking.fuse([_GLOBAL], method=method)
  assert found.ids.tolist() == _GLOBAL.ids.tolist()
  found = ranking.fuse([_LOCAL, _GLOBAL], [0, 1], k=3, method=method)
  assert found.ids.tolist() == _GLOBAL.ids.tolist()


def test_missing_images_and_scores_add_nothing():
  short = _ranking([[2, -1, 1]], [[5, -_INF, -_INF]])
  found = ranking.fuse([_GLOBAL, short], k=4)
  # Of 2: the least of one, and the only one of the other.
  assert found.ids.tolist() == [[0, 2, 1, -1]]
  np.testing.assert_allclose(found.scores, [[0.5, 0.5, 0.25, -_INF]])


def test_a_query_of_which_one_ranking_knows_nothing():
  none = _ranking([[0, 1, 2]], np.full([1, 3], -_INF))
  assert ranking.fuse([_GLOBAL, none]).ids.tolist() == [[0, 1, 2]]
  empty = _ranking(np.zeros([1, 0]), np.zeros([1, 0]))
  assert ranking.fuse([_GLOBAL, empty]).ids.tolist() == [[0, 1, 2]]


def test_no_queries():
  none = _ranking(np.zeros([0, 3]), np.zeros([0, 3]))
  assert ranking.fuse([none, none]).ids.shape == (0, 3)


def test_rows_stay_apart():
  random = np.random.default_rng(0)
  one, two = (ranking.top_k(random.normal(size=(6, 30)), k) for k in (20, 30))
  together = ranking.fuse([one, two], [1, 2])
  for i in range(6):
    rows = [_ranking(r.ids[i : i + 1], r.scores[i : i + 1]) for r in (one, two)]
    alone = ranking.fuse(rows, [1, 2])
    assert alone.ids.tolist() == together.ids[i : i + 1].tolist()


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (([],), "rankings to fuse"),
    (
      ([_GLOBAL, _ranking([[1], [2]], [[1], [1]])],),
      r"same queries, .* \[1, 2\]",
    ),
    (([_GLOBAL], [1, 2]), "1 weights of at least 0"),
    (([_GLOBAL], [-1]), "1 weights of at least 0"),
    (([_GLOBAL], [np.nan]), "1 weights of at least 0"),
    (([_GLOBAL], ["a"]), "1 weights of at least 0"),
    (([_GLOBAL], [0]), "over 0, but all are 0"),
    (([_GLOBAL], None, -1), "images must be over 0, not -1"),
    (([_GLOBAL], None, 0), "images must be over 0, not 0"),
  ],
)
def test_bad_input(arguments, words):
  with pytest.raises(errors.InputError, match=words):
    ranking.fuse(*arguments)


def test_bad_options():
  with pytest.raises(errors.InputError, match="convex, ranks, not 'sum'"):
    ranking.fuse([_GLOBAL], method="sum")
  with pytest.raises(
    errors.InputError, match="constant must be at least 0, not -1"
  ):
    ranking.fuse([_GLOBAL], constant=-1)


def _table(inliers):
  """Returns a `verify` that looks pairs up, and the list of what was asked."""
  asked = []

  def verify(queries, images):
    asked.extend(zip(queries.tolist(), images.tolist(), strict=True))
    return np.asarray(inliers)[queries, images]

  return verify, asked


def test_sorts_by_inliers_then_score_then_index():
  verify, _ = _table([[5, 5, 9, 0, 0, 5]])
  ids = [[0, 3, 5, 1, 4, 2]]
  scores = [[0.9, 0.8, 0.7, 0.7, 0.2, 0.1]]
  found = ranking.rerank(ids, scores, verify)
  assert found.ids.tolist() == [[2, 0, 1, 5, 3, 4]]
  assert found.inliers.tolist() == [[9, 5, 5, 5, 0, 0]]
  assert found.scores.tolist() == [[0.1, 0.9, 0.7, 0.7, 0.8, 0.2]]


def test_first_that_are_not_junk_are_verified():
  verify, asked = _table(np.arange(12).reshape([2, 6]) + 1)
  ids = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]
  scores = np.arange(12.0)[::-1].reshape([2, 6])
  found = ranking.rerank(ids, scores, verify, [[1], []], most=2)
  assert asked == [(0, 0), (0, 2), (1, 5), (1, 4)]
  # Junk 1 stands among those of no inliers by its score.
  assert found.ids.tolist() == [[2, 0, 1, 3, 4, 5], [5, 4, 3, 2, 1, 0]]


def test_verified_without_inliers_stand_among_the_others_by_score():
  verify, _ = _table([[0, 0, 3, 7]])
  found = ranking.rerank(
    [[0, 1, 2, 3]], [[4.0, 3.0, 2.0, 1.0]], verify, [[0]], most=2
  )
  assert found.ids.tolist() == [[2, 0, 1, 3]]


def test_padding_stays_at_the_end_and_is_not_verified():
  verify, asked = _table([[1, 2, 3]])
  found = ranking.rerank(
    [[1, 0, -1, -1]], [[0.5, -0.5, -np.inf, -np.inf]], verify
  )
  assert found.ids.tolist() == [[1, 0, -1, -1]]
  assert sorted(asked) == [(0, 0), (0, 1)]


def test_pairs_of_two_protocols_are_listed_once():
  ids = np.array([[3, 1, 2], [0, 2, 3]])
  medium = ranking.shortlist(ids, [[3], []], most=2)
  hard = ranking.shortlist(ids, [[], [0]], most=2)
  assert ranking.pairs(ids, medium, hard).tolist() == [
    [0, 1],
    [0, 2],
    [0, 3],
    [1, 0],
    [1, 2],
    [1, 3],
  ]


def test_no_images_and_none_to_verify():
  verify, asked = _table(np.zeros([1, 1]))
  empty = np.zeros([2, 0], int)
  assert ranking.rerank(empty, empty, verify).ids.shape == (2, 0)
  found = ranking.rerank([[0]], [[1.0]], verify, most=0)
  assert found.ids.tolist() == [[0]]
  assert asked == []


@pytest.mark.parametrize(
  ("ids", "scores", "options", "word"),
  [
    ([0, 1], [1, 0], {}, "Q, k"),
    ([[0, 1]], [[1.0]], {}, "scores"),
    ([[0, 1]], [[1.0, np.nan]], {}, "NaN"),
    (
      [[0, 1]],
      [[1.0, 0.0]],
      {"junk": []},
      "junk has 0 queries, not 1",
    ),
    ([[0, 1]], [[1.0, 0.0]], {"most": -1}, "at least 0"),
  ],
)
def test_bad_input_is_named(ids, scores, options, word):
  with pytest.raises(errors.InputError, match=word):
    ranking.rerank(ids, scores, _table([[0, 0]])[0], **options)


def test_order_of_the_original(goldens):
  recorded = json.loads((goldens / "match_meta.json").read_text())["rerank"]
  ranks, scores = recorded["input_ranks"], np.array(recorded["scores"])
  for junk, expected in recorded["junk_to_output_ranks_seed012"].items():
    # Its inlier counts order the six images as without junk.
    order = recorded["junk_to_output_ranks_seed012"]["[]"][0]
    inliers = np.zeros([1, 6], int)
    inliers[0, order[:5]] = [5, 4, 3, 2, 1]
    found = ranking.rerank(
      [ranks], scores[[ranks]], _table(inliers)[0], [json.loads(junk)]
    )
    assert [found.ids[0].tolist()] * 3 == expected
