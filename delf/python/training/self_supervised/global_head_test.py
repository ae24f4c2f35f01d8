"""Tests of the whitening of global descriptors."""

import numpy as np

from delf.python.training.self_supervised import global_head


def test_whitening_ignores_what_differs_in_one_place():
  # Two values tell places apart; six, a hundred times as large, change with
  # the light. Whitening finds the two.
  random = np.random.default_rng(0)
  groups = np.repeat(np.arange(60), 2)
  mixing = np.linalg.qr(random.normal(size=(8, 8)))[0]
  place = random.normal(size=(60, 2))[groups]
  light = 100 * random.normal(size=(120, 6))
  rows = np.hstack([place, light]) @ mixing + 5
  plain, number = global_head.recall(rows - rows.mean(0), groups)
  assert number == 120
  global_head_kernel, bias = global_head.whitening(
    rows[::2], rows[1::2], rows, 2, shrinkage=1e-9
  )
  white = rows @ global_head_kernel + bias
  assert plain < 0.2 * number
  assert global_head.recall(white, groups)[0] > 0.9 * number
  np.testing.assert_allclose(white.mean(0), 0, atol=1e-3)


def test_recall_counts_nearest_photos_of_the_group():
  rows = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0.0]])
  assert global_head.recall(rows, np.array([0, 0, 1, 1, 2])) == (4, 4)
  assert global_head.recall(rows, np.array([0, 1, 0, 1, 2])) == (0, 4)
