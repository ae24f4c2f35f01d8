import numpy as np
import pytest

from delf.python import errors
from delf.python.retrieval import ranking


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
  with pytest.raises(errors.InputError, match="over 0"):
    ranking.top_k([[1.0]], k)
