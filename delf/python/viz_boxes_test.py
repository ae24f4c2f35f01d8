import numpy as np
import pytest
from PIL import Image

from delf.python import errors, picture, viz_boxes


def _photo(height=200, width=300):
  return np.full([height, width, 3], 120, np.uint8)


def _read(path):
  with Image.open(path) as image:
    return np.asarray(image.convert("RGB"), np.int16)


def _places(path, score):
  """Returns rows and columns of the pixels in the colour of a score."""
  colour = np.array(picture.COLOURS(score)[:3]) * 255
  rows, columns = np.nonzero(np.abs(_read(path) - colour).max(axis=2) < 3)
  below = rows > 93  # The head line, with the colours, is above.
  return rows[below], columns[below]


def test_a_box_is_where_it_should_be(tmp_path):
  box = [0.25, 0.5, 0.75, 0.9]
  viz_boxes.draw_boxes(tmp_path / "a.png", _photo(), [box], [0.3])
  rows, columns = _places(tmp_path / "a.png", 0.3)
  height, width = _read(tmp_path / "a.png").shape[:2]
  # The photo lies between margins of 0.25 inches, and a head and foot of 0.62.
  top, left, size = 93, 37.5, (height - 186, width - 75)
  found = [
    (rows.min() - top) / size[0],
    (columns.min() - left) / size[1],
    (rows.max() - top) / size[0],
    (columns.max() - left) / size[1],
  ]
  np.testing.assert_allclose(found, box, atol=0.01)


def test_the_best_box_is_on_top(tmp_path):
  boxes = np.tile([0.2, 0.2, 0.8, 0.8], [2, 1])
  viz_boxes.draw_boxes(tmp_path / "a.png", _photo(), boxes, [0.1, 0.9])
  best, worst = (len(_places(tmp_path / "a.png", s)[0]) for s in (0.9, 0.1))
  # Of the other one the score alone is seen, in a corner of its own.
  assert best > worst > 100


def test_no_boxes(tmp_path):
  viz_boxes.draw_boxes(tmp_path / "a.jpg", _photo(), np.zeros([0, 4]), [])
  pixels = _read(tmp_path / "a.jpg")
  assert (np.ptp(pixels, axis=2) < 30).all()


def test_of_many_boxes_some_are_drawn(tmp_path):
  corners = np.random.default_rng(0).random([5000, 2, 2])
  boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
  scores = np.linspace(0, 1, len(boxes))
  most = viz_boxes.MAX_BOXES
  viz_boxes.draw_boxes(tmp_path / "all.png", _photo(), boxes, scores, "x")
  viz_boxes.draw_boxes(
    tmp_path / "best.png",
    _photo(),
    boxes[-most:],
    scores[-most:],
    "x",
    f"the {most} with the highest score",
  )
  np.testing.assert_array_equal(
    _read(tmp_path / "all.png"), _read(tmp_path / "best.png")
  )


def test_scores_above_one_have_colours(tmp_path):
  viz_boxes.draw_boxes(
    tmp_path / "a.png", _photo(), np.tile([0, 0, 1, 1], [2, 1]), [7.0, -2.0]
  )
  assert len(_places(tmp_path / "a.png", 1.0)[0])


def test_grey_and_tiny_photos(tmp_path):
  for shape in ((1, 1), (3, 500), (500, 3)):
    path = tmp_path / "a.png"
    viz_boxes.draw_boxes(path, np.zeros(shape, np.uint8), [[0, 0, 1, 1]], [1])
    assert min(_read(path).shape[:2]) > 100


@pytest.mark.parametrize(
  ("name", "scores", "words"),
  [("a.doc", [1.0], "picture name"), ("a.png", [1.0, 2.0], "each of 1 boxes")],
)
def test_what_cannot_be_drawn_leaves_no_file(tmp_path, name, scores, words):
  with pytest.raises(errors.InputError, match=words):
    viz_boxes.draw_boxes(tmp_path / name, _photo(), [[0, 0, 1, 1]], scores)
  assert not list(tmp_path.iterdir())
