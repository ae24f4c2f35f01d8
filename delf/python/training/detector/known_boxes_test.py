"""Boxes that are known without labels."""

import numpy as np
import pytest

from delf.python import boxes as arithmetic
from delf.python.training.detector import known_boxes
from delf.python.training.self_supervised import photos, real_pairs


def _photos(number):
  image = np.zeros([100, 200, 3], np.uint8)
  return [photos.Photo(f"{i}", image, 0, 0) for i in range(number)]


def _points(rng, box):
  """Returns 200 points (x, y) in pixels in a box of a photo of 100 x 200."""
  ymin, xmin, ymax, xmax = box
  xs, ys = rng.uniform(xmin, xmax, 200), rng.uniform(ymin, ymax, 200)
  return np.stack([200 * xs, 100 * ys], 1).astype(np.float32)


def _pair(rng, one, two, first=0, second=1):
  points = np.hstack([_points(rng, one), _points(rng, two)])
  return real_pairs.Pair(first, second, points)


def test_box_of_points_leaves_out_the_odd_one():
  rng = np.random.default_rng(0)
  points = _points(rng, [0.2, 0.3, 0.8, 0.6])
  points[0] = 199, 99
  found = known_boxes.of_points(points, (100, 200))
  np.testing.assert_allclose(found, [0.2, 0.3, 0.8, 0.6], atol=0.05)


def test_what_both_photos_have_in_the_middle_is_known():
  rng = np.random.default_rng(0)
  boxes = [0.2, 0.3, 0.8, 0.6], [0.25, 0.3, 0.75, 0.7], [0.2, 0.3, 0.6, 0.6]
  pairs = [
    _pair(rng, boxes[0], boxes[1]),
    _pair(rng, boxes[0], boxes[1], 0, 2),
    _pair(rng, boxes[2], boxes[1], 0, 3),
  ]
  found = known_boxes.of_pairs(_photos(4), pairs)
  assert sorted(found) == [0, 1, 2, 3]
  # Of several pairs the median.
  np.testing.assert_allclose(found[0], boxes[0], atol=0.05)


@pytest.mark.parametrize(
  ("one", "two"),
  [
    ([0, 0.5, 1, 1], [0, 0, 1, 0.5]),  # A stitching pair: opposite sides.
    ([0.45, 0.45, 0.5, 0.5], [0.45, 0.45, 0.5, 0.5]),  # A detail.
    ([0, 0, 1, 1], [0, 0, 1, 1]),  # All of it.
  ],
)
def test_pairs_that_say_nothing_are_left_out(one, two):
  pair = _pair(np.random.default_rng(0), one, two)
  assert known_boxes.of_pairs(_photos(2), [pair]) == {}


def test_attention_box_is_where_attention_is():
  attention = np.zeros([32, 32], np.float32)
  attention[8:24, 16:28] = 1
  found = known_boxes.of_attention(attention)
  wanted = [[0.25, 0.5, 0.75, 0.875]]
  assert arithmetic.iou(found[None], wanted)[0, 0] > 0.6


def test_no_attention_has_no_box():
  assert known_boxes.of_attention(np.zeros([32, 32], np.float32)) is None
