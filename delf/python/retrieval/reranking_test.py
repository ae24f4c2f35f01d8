import json

import numpy as np
import pytest

from delf.python import errors
from delf.python.retrieval import reranking


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
  found = reranking.rerank(ids, scores, verify)
  assert found.ids.tolist() == [[2, 0, 1, 5, 3, 4]]
  assert found.inliers.tolist() == [[9, 5, 5, 5, 0, 0]]
  assert found.scores.tolist() == [[0.1, 0.9, 0.7, 0.7, 0.8, 0.2]]


def test_first_that_are_not_junk_are_verified():
  verify, asked = _table(np.arange(12).reshape([2, 6]) + 1)
  ids = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]
  scores = np.arange(12.0)[::-1].reshape([2, 6])
  found = reranking.rerank(ids, scores, verify, [[1], []], most=2)
  assert asked == [(0, 0), (0, 2), (1, 5), (1, 4)]
  # Junk 1 stands among those of no inliers by its score.
  assert found.ids.tolist() == [[2, 0, 1, 3, 4, 5], [5, 4, 3, 2, 1, 0]]


def test_verified_without_inliers_stand_among_the_others_by_score():
  verify, _ = _table([[0, 0, 3, 7]])
  found = reranking.rerank(
    [[0, 1, 2, 3]], [[4.0, 3.0, 2.0, 1.0]], verify, [[0]], most=2
  )
  assert found.ids.tolist() == [[2, 0, 1, 3]]


def test_padding_stays_at_the_end_and_is_not_verified():
  verify, asked = _table([[1, 2, 3]])
  found = reranking.rerank(
    [[1, 0, -1, -1]], [[0.5, -0.5, -np.inf, -np.inf]], verify
  )
  assert found.ids.tolist() == [[1, 0, -1, -1]]
  assert sorted(asked) == [(0, 0), (0, 1)]


def test_pairs_of_two_protocols_are_listed_once():
  ids = np.array([[3, 1, 2], [0, 2, 3]])
  medium = reranking.shortlist(ids, [[3], []], most=2)
  hard = reranking.shortlist(ids, [[], [0]], most=2)
  assert reranking.pairs(ids, medium, hard).tolist() == [
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
  assert reranking.rerank(empty, empty, verify).ids.shape == (2, 0)
  found = reranking.rerank([[0]], [[1.0]], verify, most=0)
  assert found.ids.tolist() == [[0]]
  assert asked == []


@pytest.mark.parametrize(
  ("ids", "scores", "options", "word"),
  [
    ([0, 1], [1, 0], {}, "Q, k"),
    ([[0, 1]], [[1.0]], {}, "scores"),
    ([[0, 1]], [[1.0, np.nan]], {}, "NaN"),
    ([[0, 1]], [[1.0, 0.0]], {"junk": []}, "junk of 1"),
    ([[0, 1]], [[1.0, 0.0]], {"most": -1}, "at least 0"),
  ],
)
def test_bad_input_is_named(ids, scores, options, word):
  with pytest.raises(errors.InputError, match=word):
    reranking.rerank(ids, scores, _table([[0, 0]])[0], **options)


def test_order_of_the_original(goldens):
  recorded = json.loads((goldens / "match_meta.json").read_text())["rerank"]
  ranks, scores = recorded["input_ranks"], np.array(recorded["scores"])
  for junk, expected in recorded["junk_to_output_ranks_seed012"].items():
    # Its inlier counts order the six images as without junk.
    order = recorded["junk_to_output_ranks_seed012"]["[]"][0]
    inliers = np.zeros([1, 6], int)
    inliers[0, order[:5]] = [5, 4, 3, 2, 1]
    found = reranking.rerank(
      [ranks], scores[[ranks]], _table(inliers)[0], [json.loads(junk)]
    )
    assert [found.ids[0].tolist()] * 3 == expected
