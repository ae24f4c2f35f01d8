"""Recall, precision and average precision of boxes."""

import numpy as np

from delf.learning import detector_scores

_A, _B = [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]
_WIDE = [0, 0, 0.5, 1]


def _found(boxes, scores):
  return np.float32(boxes).reshape([-1, 4]), np.float32(scores)


def test_boxes_that_are_the_same_are_all_found():
  found = [_found([_A, _B], [0.9, 0.8])]
  scores = detector_scores.score(found, [np.float32([_B, _A])])
  assert (scores.recall, scores.precision) == (1, 1)
  assert (scores.average_precision, scores.mean_overlap) == (1, 1)


def test_a_known_box_is_found_once():
  found = [_found([_A, _A], [0.9, 0.8])]
  scores = detector_scores.score(found, [np.float32([_A, _B])])
  assert (scores.recall, scores.precision) == (0.5, 0.5)


def test_half_an_overlap_counts_and_less_does_not():
  known = [np.float32([_A])]
  assert detector_scores.score([_found([_WIDE], [1])], known).recall == 1
  more = [_found([[0, 0, 0.51, 1]], [1])]
  assert detector_scores.score(more, known).recall == 0


def test_average_precision_is_of_the_ranking_over_photos():
  known = [np.float32([_A]), np.float32([_A])]
  # Right, wrong, right: 1 and 2/3.
  found = [_found([_A, _B], [0.9, 0.8]), _found([_A], [0.7])]
  scores = detector_scores.score(found, known)
  np.testing.assert_allclose(scores.average_precision, (1 + 2 / 3) / 2)


def test_threshold_and_most_leave_boxes_out():
  found = [_found([_B, _A], [0.9, 0.2])]
  known = [np.float32([_A])]
  assert detector_scores.score(found, known).recall == 1
  assert detector_scores.score(found, known, threshold=0.5).recall == 0
  assert detector_scores.score(found, known, most=1).precision == 0


def test_nothing_found_has_no_precision():
  scores = detector_scores.score([_found([], [])], [np.float32([_A])])
  assert (scores.recall, scores.precision, scores.average_precision) == (0,) * 3
  assert scores.known == 1 and scores.mean_overlap == 0


def test_median_box_is_in_the_middle():
  size = detector_scores.median_size(
    [np.float32([_A, _WIDE]), np.float32([_A])]
  )
  (boxes, _), _ = detector_scores.middle_box(2, size)
  np.testing.assert_allclose(boxes, [[0.25, 0.25, 0.75, 0.75]])
