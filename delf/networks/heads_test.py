"""Tests of keypoints inside cells."""

import numpy as np
import pytest

from delf.networks import heads


@pytest.mark.parametrize("position", [0, 27, 63])
def test_sure_keypoint_is_at_its_position(position):
  logits = np.zeros([1, 1, 1, heads.PIXELS], np.float32)
  logits[..., position] = 50
  found = np.array(heads.offsets(logits))[0, 0, 0]
  np.testing.assert_allclose(found, heads.POSITIONS[position], atol=1e-4)


def test_keypoint_between_two_pixels():
  logits = np.full([1, heads.PIXELS], -50, np.float32)
  logits[0, [9, 10]] = 0  # Row 1, columns 1 and 2.
  logits[0, 60] = -0.5  # Far off: says nothing about the best one.
  found = np.array(heads.offsets(logits))[0]
  np.testing.assert_allclose(found, [-3, -2.5], atol=1e-4)


def test_interpolation_is_linear_and_stays_inside():
  y, x = np.mgrid[:4, :5].astype(np.float32)
  cells = np.stack([y, x, 2 * y - x], -1)[None]
  points = np.array([[[1.25, 3.5], [0, 0], [3, 4], [-2, 7], [9, -1]]])
  found = np.array(heads.interpolate(cells, points.astype(np.float32)))
  inside = np.clip(points[0], 0, [3, 4])
  expected = np.stack(
    [inside[:, 0], inside[:, 1], 2 * inside[:, 0] - inside[:, 1]], -1
  )
  np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_map_of_one_cell():
  cells = np.ones([1, 1, 1, 2], np.float32)
  moves = np.full([1, 1, 1, 2], 3.0, np.float32)
  found = np.array(heads.sample(cells, moves))
  np.testing.assert_allclose(found, cells)


def test_what_is_no_number_gives_none_and_no_error():
  logits = np.zeros([1, 2, 3, heads.PIXELS], np.float32)
  logits[0, 0, 1] = np.nan
  logits[0, 1, 2] = np.inf
  cells = np.ones([1, 2, 3, 4], np.float32)
  found = np.array(heads.sample(cells, heads.offsets(logits)))
  none = np.zeros([1, 2, 3], bool)
  none[0, [0, 1], [1, 2]] = True
  np.testing.assert_array_equal(np.isnan(found).all(-1), none)
  np.testing.assert_array_equal(np.isnan(found).any(-1), none)
