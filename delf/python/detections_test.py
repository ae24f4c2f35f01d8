import numpy as np
import pytest

from delf.python import detections, errors


def test_what_can_be_no_box_is_dropped_and_the_rest_kept_in_order():
  found = detections.of_model(
    [
      [0.5, 0.5, 0.9, 0.9],
      [0, 0, 0, 0],
      [-0.1, 0.2, 0.5, 1.1],
      [1.1, 0, 1.3, 1],
      [0.6, 0.1, 0.2, 0.9],
    ],
    [0.2, 0, 0.9, 0.8, 0.7],
    [1.0, 0, 2, 3, 4],
  )
  np.testing.assert_allclose(
    found.boxes, [[0.5, 0.5, 0.9, 0.9], [0, 0.2, 0.5, 1]]
  )
  np.testing.assert_allclose(found.scores, [0.2, 0.9])
  np.testing.assert_array_equal(found.classes, [1, 2])


def test_nothing_found():
  for shape in ((0, 4), (0,)):
    found = detections.of_model(np.zeros(shape), [], [])
    assert found.boxes.shape == (0, 4) and len(found) == 0
    assert len(found.at_least(0.5)) == len(found.apart(0.5)) == 0


def test_a_score_at_the_threshold_counts():
  scores = np.float32([0.1, 0.7, 0.69])
  found = detections.of_model(np.tile([0, 0, 1, 1], [3, 1]), scores, [1, 1, 1])
  np.testing.assert_array_equal(found.at_least(0.7).scores, scores[1:2])
  np.testing.assert_array_equal(found.at_least(0).scores, scores)


def test_apart_keeps_the_order():
  whole, part = [0, 0, 1, 1], [0, 0, 0.2, 0.2]
  found = detections.of_model([part, whole, whole], [0.1, 0.5, 0.9], [1, 1, 1])
  np.testing.assert_allclose(found.apart(0.5).scores, [0.1, 0.9])


@pytest.mark.parametrize(
  ("box", "score", "kind", "words"),
  [
    ([0, 0, np.nan, 1], 0.5, 1, r"\[0, 1\], received 0, 0, nan, 1"),
    ([0, 0, 480, 640], 0.5, 1, "not pixels"),
    ([0, 0, 1, 1], np.nan, 1, "scores that are numbers, received nan"),
    ([0, 0, 1, 1], 0.5, 1.5, "whole numbers as classes, received 1.5"),
    ([0, 0, 1, 1], 0.5, np.nan, "whole numbers as classes, received nan"),
  ],
)
def test_what_is_no_detection_is_one_line(box, score, kind, words):
  with pytest.raises(errors.InputError, match=words) as error:
    detections.of_model([box], [score], [kind], "model")
  assert str(error.value).startswith("model: ")


def test_numbers_of_boxes_and_scores_must_agree():
  with pytest.raises(errors.InputError, match="each of 2 boxes"):
    detections.of_model(np.ones([2, 4]), [1, 1, 1], [1, 1])
