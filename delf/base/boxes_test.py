import numpy as np
import pytest

from delf.base import boxes, errors


def _random(number, seed=0):
  generator = np.random.default_rng(seed)
  corners = generator.random([number, 2, 2])
  return np.concatenate([corners.min(1), corners.max(1)], 1)


def test_areas_of_reversed_boxes_are_zero():
  found = boxes.areas([[0, 0, 0.5, 0.5], [0.5, 0, 0, 1], [0.5, 0.5, 0.2, 0.2]])
  np.testing.assert_array_equal(found, [0.25, 0, 0])


def test_overlaps():
  first = [[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]
  second = [[0, 0, 0.5, 1], [0.5, 0.5, 1, 1], [0.5, 0.5, 0.5, 0.5]]
  np.testing.assert_allclose(
    boxes.iou(first, second), [[0.5, 0.25, 0], [0.5, 0, 0], [0, 0, 0]]
  )
  assert boxes.iou(np.zeros([0, 4]), second).shape == (0, 3)


def test_overlaps_do_not_depend_on_the_unit():
  first, second = _random(20), _random(30, seed=1)
  pixels = (boxes.to_pixels(each, 480, 640) for each in (first, second))
  np.testing.assert_allclose(boxes.iou(*pixels), boxes.iou(first, second))


def _suppressed_one_by_one(found, scores, most_overlap):
  kept = []
  for index in np.argsort(-scores, kind="stable"):
    overlaps = boxes.iou(found[index], found[kept])
    if not (overlaps > most_overlap).any():
      kept.append(index)
  return kept


# More than are compared at once, too.
@pytest.mark.parametrize("number", [0, 1, 50, 700])
@pytest.mark.parametrize("most_overlap", [0.0, 0.3, 0.9, 1.0])
def test_suppression_keeps_what_a_loop_over_boxes_keeps(number, most_overlap):
  found = _random(number)
  # Rounded, so that some are equal.
  scores = np.round(np.random.default_rng(2).random(number), 2)
  kept = boxes.suppress(found, scores, most_overlap)
  expected = _suppressed_one_by_one(found, scores, most_overlap)
  np.testing.assert_array_equal(kept, expected)
  np.testing.assert_array_equal(
    boxes.suppress(found, scores, most_overlap, most=3), expected[:3]
  )


def test_boxes_of_two_classes_may_overlap():
  found, scores = np.repeat([[0, 0, 1, 1]], 3, axis=0), np.array([1, 3, 2.0])
  kept = boxes.suppress(found, scores, 0.5, classes=[0, 0, 1])
  np.testing.assert_array_equal(kept, [1, 2])


def test_suppression_of_ten_thousand():
  found = _random(10_000)
  kept = boxes.suppress(found, np.linspace(1, 0, len(found)), 0.5)
  assert kept[0] == 0 and 0 < len(kept) < len(found)
  overlaps = boxes.iou(found[kept], found[kept])
  assert (overlaps - np.eye(len(kept))).max() <= 0.5


@pytest.mark.parametrize("most_overlap", [-0.1, 1.1, float("nan")])
def test_suppression_refuses_other_overlaps(most_overlap):
  with pytest.raises(
    errors.InputError, match=r"in \[0, 1\], not (-0.1|1.1|nan)"
  ):
    boxes.suppress([[0, 0, 1, 1]], [1.0], most_overlap)


def test_suppression_refuses_scores_that_are_none():
  with pytest.raises(errors.InputError, match="NaN"):
    boxes.suppress([[0, 0, 1, 1]], [np.nan])


def test_pixels():
  found = _random(5).astype(np.float32)
  pixels = boxes.to_pixels(found, 480, 640)
  np.testing.assert_allclose(pixels / [480, 640, 480, 640], found, 1e-6)
  np.testing.assert_array_equal(
    boxes.to_pixels([[0, 0, 1, 1]], 480, 640), [[0, 0, 480, 640]]
  )


def test_crops_hold_every_pixel_that_is_touched():
  found = boxes.to_crops([[0.101, 0.1, 0.5, 0.599], [0, 0, 1, 1]], 100, 10)
  np.testing.assert_array_equal(found, [[10, 1, 50, 6], [0, 0, 100, 10]])
  assert found.dtype == np.int64


def test_clipping():
  found = boxes.clip([[-0.5, 0.2, 0.5, 1.5], [1.2, 0, 1.4, 1]])
  np.testing.assert_allclose(found, [[0, 0.2, 0.5, 1], [1, 0, 1, 1]])
  assert boxes.areas(found)[1] == 0


def test_checking_keeps_good_boxes_and_evens_out_rounding():
  found = boxes.check([[0, 0, 1 + 1e-7, 1], [0.25, 0.5, 0.5, 0.75]])
  np.testing.assert_array_equal(found, [[0, 0, 1, 1], [0.25, 0.5, 0.5, 0.75]])
  assert boxes.check([]).shape == (0, 4)


@pytest.mark.parametrize(
  ("box", "words"),
  [
    ((0.1, 0.1, 1.2, 0.5), "box 0.1, 0.1, 1.2, 0.5 .* inside the image"),
    ((-0.2, 0, 1, 1), "not inside the image"),
    ((0.5, 0.1, 0.5, 0.9), "no area"),
    ((0.5, 0.9, 0.7, 0.1), "no area"),
    ((0.1, float("nan"), 0.5, 0.5), "nan"),
    ((0, 0, float("inf"), 1), "inf"),
    ((12, 30, 400, 300), "out of range"),
  ],
)
def test_bad_boxes_are_one_line(box, words):
  with pytest.raises(errors.InputError, match=words) as error:
    boxes.check([(0, 0, 1, 1), box], "a.csv")
  text = str(error.value)
  assert text.startswith("a.csv: the box ") and "\n" not in text
  assert " (number 2 of 2) " in text
  assert "boxes are ymin, xmin, ymax, xmax in [0, 1]" in text


@pytest.mark.parametrize("shape", [(4,), (2, 5), (1, 1, 4)])
def test_other_shapes_are_refused(shape):
  with pytest.raises(errors.InputError, match=r"shape \[N, 4\]"):
    boxes.check(np.ones(shape))


def test_what_can_be_no_box_is_dropped_and_the_rest_kept_in_order():
  found = boxes.make_detections(
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
    found = boxes.make_detections(np.zeros(shape), [], [])
    assert found.boxes.shape == (0, 4) and len(found) == 0
    assert len(found.at_least(0.5)) == len(found.apart(0.5)) == 0


def test_a_score_at_the_threshold_counts():
  scores = np.float32([0.1, 0.7, 0.69])
  found = boxes.make_detections(
    np.tile([0, 0, 1, 1], [3, 1]), scores, [1, 1, 1]
  )
  np.testing.assert_array_equal(found.at_least(0.7).scores, scores[1:2])
  np.testing.assert_array_equal(found.at_least(0).scores, scores)


def test_apart_keeps_the_order():
  whole, part = [0, 0, 1, 1], [0, 0, 0.2, 0.2]
  found = boxes.make_detections(
    [part, whole, whole], [0.1, 0.5, 0.9], [1, 1, 1]
  )
  np.testing.assert_allclose(found.apart(0.5).scores, [0.1, 0.9])


@pytest.mark.parametrize(
  ("box", "score", "kind", "words"),
  [
    ([0, 0, np.nan, 1], 0.5, 1, "box 0, 0, nan, 1 is not finite"),
    ([0, 0, 480, 640], 0.5, 1, "box 0, 0, 480, 640 .* not pixels"),
    ([0, 0, 1, 1], np.nan, 1, "score nan is not finite"),
    ([0, 0, 1, 1], 0.5, 1.5, "class 1.5 is not a whole"),
    ([0, 0, 1, 1], 0.5, np.nan, "class nan is not a whole"),
  ],
)
def test_what_is_no_detection_is_one_line(box, score, kind, words):
  with pytest.raises(errors.InputError, match=words) as error:
    boxes.make_detections([box], [score], [kind], "model")
  assert str(error.value).startswith("model: ")


def test_numbers_of_boxes_and_scores_must_agree():
  with pytest.raises(
    errors.InputError, match="each of 2 boxes needs a score and a class"
  ):
    boxes.make_detections(np.ones([2, 4]), [1, 1, 1], [1, 1])
