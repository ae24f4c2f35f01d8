"""The list of drawn boxes."""

import numpy as np
import pytest

from delf.base import errors
from delf.learning import view_pairs
from tools import train_boxes


def _photos(number):
  image = np.zeros([100, 200, 3], np.uint8)
  return [view_pairs.Photo(f"{i}", image, 0, i) for i in range(number)]


def test_drawn_boxes_are_found_by_the_name_of_the_photo(tmp_path):
  path = tmp_path / "drawn.csv"
  of = [train_boxes.key(str(i)) for i in range(3)]
  path.write_text(
    "photo,kind,ymin,xmin,ymax,xmax\n"
    f"{of[2]},whole,0.1,0.2,0.9,0.8\n{of[0]},none,,,,\n"
    f"{of[2]},other,0.1,0.2,0.3,0.4\n"
  )
  found = train_boxes.drawn(_photos(3), path)
  assert [each.pool for each in found] == [0, 2]
  assert found[0].boxes.shape == (0, 4)
  wanted = [[0.1, 0.2, 0.9, 0.8], [0.1, 0.2, 0.3, 0.4]]
  np.testing.assert_allclose(found[1].boxes, wanted)


def test_other_photos_have_none():
  with pytest.raises(
    errors.InputError, match="none of 3 photos has drawn boxes"
  ):
    train_boxes.drawn(_photos(3))


def test_boxes_that_come_with_the_library_are_boxes():
  lines = train_boxes.DRAWN.read_text().splitlines()[1:]
  rows = [line.split(",") for line in lines]
  assert {row[1] for row in rows} == {"whole", "part", "other", "none"}
  boxes = np.float64([row[2:] for row in rows if row[1] != "none"])
  assert len(boxes) > 3000
  assert (boxes >= 0).all() and (boxes <= 1).all()
  assert (boxes[:, 2:] - boxes[:, :2] >= 0.01).all()
