"""Which cells answer for which boxes, and what the losses reward."""

import numpy as np
import pytest

from delf.python.training.detector import losses, network

_CELLS = network.centres()
_BOXES = np.float32([[[0.2, 0.2, 0.8, 0.8], [0.4, 0.4, 0.6, 0.6], [0] * 4]])


def test_cells_answer_for_a_box_of_either_size():
  answers, spared, wanted = losses.assign(_CELLS, _BOXES)
  large = network.SIZES * np.argmin(np.abs(_CELLS - 0.5).sum(1))
  for i in range(network.SIZES):
    assert answers[0, large + i] == 1
    np.testing.assert_array_equal(wanted[0, large + i], _BOXES[0, i])
  corner = network.SIZES * np.argmin(np.abs(_CELLS - 0.05).sum(1))
  assert not np.any(answers[0, corner : corner + network.SIZES])
  assert not np.any(spared[0, corner : corner + network.SIZES])
  assert not np.any((np.array(answers) > 0) & (np.array(spared) > 0))


def test_smallest_box_of_a_size_has_the_cell():
  boxes = np.float32([[[0.3, 0.3, 0.6, 0.6], [0.4, 0.4, 0.5, 0.5]]])
  _, _, wanted = losses.assign(_CELLS, boxes)
  cell = np.argmin(np.abs(_CELLS - 0.45).sum(1))
  np.testing.assert_array_equal(
    wanted[0, network.SIZES * cell + 1], boxes[0, 1]
  )


def test_no_boxes_have_no_answers():
  answers, spared, _ = losses.assign(_CELLS, np.zeros([1, 2, 4], np.float32))
  assert not np.any(answers) and not np.any(spared)


def test_overlap_and_generalised_overlap():
  one = np.float32([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]])
  two = np.float32([[0, 0, 0.5, 1], [0.5, 0.5, 1, 1]])
  overlap, general = losses.overlaps(one, two)
  np.testing.assert_allclose(overlap, [0.5, 0])
  np.testing.assert_allclose(general, [0.5, -0.5])


def _loss(logits, found):
  weights = np.ones(1, np.float32)
  return losses.loss(logits, found, _CELLS, _BOXES, weights)


def test_right_boxes_and_scores_cost_less():
  answers, _, wanted = (np.array(x) for x in losses.assign(_CELLS, _BOXES))
  right = np.where(answers > 0, 8, -8).astype(np.float32)
  good, fit, overlap = _loss(right, wanted)
  np.testing.assert_allclose([fit, overlap], [0, 1], atol=1e-5)
  wrong, _, _ = _loss(-right, wanted)
  assert good < 0.01 < wrong
  _, shifted, less = _loss(right, np.clip(wanted + 0.1, 0, 1))
  assert shifted > 0.2 and less < 0.8


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_photos_count_by_their_weight(weight):
  boxes = np.concatenate([_BOXES, _BOXES])
  _, _, wanted = (np.array(x) for x in losses.assign(_CELLS, boxes))
  found = np.stack([wanted[0], np.clip(wanted[1] + 0.1, 0, 1)])
  logits = np.zeros(found.shape[:2], np.float32)
  weights = np.float32([1, weight])
  _, fit, _ = losses.loss(logits, found, _CELLS, boxes, weights)
  _, alone, _ = losses.loss(
    logits[1:], found[1:], _CELLS, boxes[1:], np.ones(1, np.float32)
  )
  np.testing.assert_allclose(fit, alone * weight / (1 + weight), rtol=1e-4)
