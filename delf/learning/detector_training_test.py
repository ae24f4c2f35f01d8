"""Views of photos with boxes."""

import numpy as np
import pytest

from delf.base import boxes as arithmetic
from delf.learning import detector_training

_NO_PARTS = np.zeros([0, 4], np.float32)
_BOX = np.float32([[0.3, 0.2, 0.7, 0.6]])


def _photo():
  """A photo that is bright in its box alone."""
  image = np.full([120, 160, 3], 20, np.uint8)
  image[36:84, 32:96] = 220
  return image


def _bright(view):
  """Returns the box around what is bright, [1, 4] in [0, 1]."""
  bright = view.mean(-1) > (view.max() / 2 + view.min() / 2)
  rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
  low, high = [rows[0], columns[0]], [rows[-1] + 1, columns[-1] + 1]
  return np.float32([[*low, *high]]) / view.shape[0]


@pytest.mark.parametrize("seed", range(20))
def test_window_keeps_the_box_on_the_thing(seed, monkeypatch):
  # What is around the photo would be bright too.
  monkeypatch.setattr(
    detector_training,
    "background",
    lambda _, __, side: np.zeros([side, side, 3], np.uint8),
  )
  rng = np.random.default_rng(seed)
  view, found = detector_training.window(rng, _photo(), _BOX, 192)
  assert view.shape == (192, 192, 3) and view.dtype == np.uint8
  assert arithmetic.iou(found, _bright(view))[0, 0] > 0.9


def test_boxes_in_a_frame():
  boxes = np.float32([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.4, 0, 0.6, 1]])
  found = detector_training.inside(boxes, np.float32([0.4, 0, 1, 1]))
  # A fifth of the first is seen, the others wholly.
  np.testing.assert_allclose(
    found, [[1 / 6, 0.5, 1, 1], [0, 0, 1 / 3, 1]], atol=1e-6
  )
  around = detector_training.inside(boxes[:1], np.float32([-1, -1, 1, 1]))
  np.testing.assert_allclose(around, [[0.5, 0.5, 0.75, 0.75]])


def test_mirrored_box_is_on_the_other_side():
  view, found = detector_training.mirrored(_photo(), _BOX)
  np.testing.assert_allclose(found, [[0.3, 0.4, 0.7, 0.8]], atol=1e-6)
  assert view[60, 140].mean() < 100 < view[60, 100].mean()


@pytest.mark.parametrize("seed", range(20))
def test_pasted_thing_lies_in_its_box(seed):
  rng = np.random.default_rng(seed)
  thing = np.full([50, 40, 3], 255, np.uint8)
  behind = np.zeros([60, 60, 3], np.uint8)
  image = detector_training.background(np.random.default_rng(seed), behind, 96)
  view, found = detector_training.pasted(rng, [(thing, _NO_PARTS)], behind, 96)
  assert view.shape == image.shape and found.shape == (1, 4)
  assert (found >= 0).all() and (found <= 1).all()
  if not image.any():  # Not a plain background, which may be bright.
    assert arithmetic.iou(found, _bright(view))[0, 0] > 0.8


def test_parts_of_a_pasted_thing_have_boxes():
  thing = np.full([50, 40, 3], 255, np.uint8)
  parts = np.float32([[0.5, 0.25, 1, 0.5]])
  view, found = detector_training.pasted(
    np.random.default_rng(3),
    [(thing, parts)],
    np.zeros([60, 60, 3], np.uint8),
    96,
  )
  assert view.shape == (96, 96, 3) and len(found) == 2
  whole, part = found
  sizes = (whole[2:] - whole[:2]) * np.float32([0.5, 0.25])
  np.testing.assert_allclose(part[2:] - part[:2], sizes, atol=1e-6)
  np.testing.assert_allclose(part[2], whole[2], atol=1e-6)


def test_hidden_thing_has_no_box():
  thing = np.full([50, 50, 3], 255, np.uint8)
  numbers = set()
  for seed in range(30):
    rng = np.random.default_rng(seed)
    _, found = detector_training.pasted(
      rng, [(thing, _NO_PARTS)] * 3, thing, 64
    )
    shared = arithmetic.iou(found, found) - np.eye(len(found))
    assert shared.max() < 0.8
    numbers.add(len(found))
  assert numbers == {1, 2, 3}


_A, _B = [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]
_WIDE = [0, 0, 0.5, 1]


def _found(boxes, scores):
  return np.float32(boxes).reshape([-1, 4]), np.float32(scores)


def test_boxes_that_are_the_same_are_all_found():
  found = [_found([_A, _B], [0.9, 0.8])]
  scores = detector_training.score(found, [np.float32([_B, _A])])
  assert (scores.recall, scores.precision) == (1, 1)
  assert (scores.average_precision, scores.mean_overlap) == (1, 1)


def test_a_known_box_is_found_once():
  found = [_found([_A, _A], [0.9, 0.8])]
  scores = detector_training.score(found, [np.float32([_A, _B])])
  assert (scores.recall, scores.precision) == (0.5, 0.5)


def test_half_an_overlap_counts_and_less_does_not():
  known = [np.float32([_A])]
  assert detector_training.score([_found([_WIDE], [1])], known).recall == 1
  more = [_found([[0, 0, 0.51, 1]], [1])]
  assert detector_training.score(more, known).recall == 0


def test_average_precision_is_of_the_ranking_over_photos():
  known = [np.float32([_A]), np.float32([_A])]
  # Right, wrong, right: 1 and 2/3.
  found = [_found([_A, _B], [0.9, 0.8]), _found([_A], [0.7])]
  scores = detector_training.score(found, known)
  np.testing.assert_allclose(scores.average_precision, (1 + 2 / 3) / 2)


def test_threshold_and_most_leave_boxes_out():
  found = [_found([_B, _A], [0.9, 0.2])]
  known = [np.float32([_A])]
  assert detector_training.score(found, known).recall == 1
  assert detector_training.score(found, known, threshold=0.5).recall == 0
  assert detector_training.score(found, known, most=1).precision == 0


def test_nothing_found_has_no_precision():
  scores = detector_training.score([_found([], [])], [np.float32([_A])])
  assert (scores.recall, scores.precision, scores.average_precision) == (0,) * 3
  assert scores.known == 1 and scores.mean_overlap == 0


def test_median_box_is_in_the_middle():
  size = detector_training.median_size(
    [np.float32([_A, _WIDE]), np.float32([_A])]
  )
  (boxes, _), _ = detector_training.middle_box(2, size)
  np.testing.assert_allclose(boxes, [[0.25, 0.25, 0.75, 0.75]])
