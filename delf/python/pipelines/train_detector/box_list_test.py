"""Reading boxes of photos from CSV files."""

import numpy as np
import PIL.Image
import pytest

from delf.python import errors
from delf.python.pipelines.train_detector import box_list


@pytest.fixture
def photos(tmp_path):
  folder = tmp_path / "photos"
  (folder / "sub").mkdir(parents=True)
  for i in range(11):
    path = folder / ("sub" if i > 5 else "") / f"p{i}.png"
    PIL.Image.new("RGB", (8, 8)).save(path)
  return folder


def _write(folder, head, row, number=11):
  path = folder.parent / "boxes.csv"
  lines = [head, *(row.format(i=i) for i in range(number))]
  path.write_text("\n".join(lines))
  return path


@pytest.mark.parametrize(
  ("head", "row"),
  [
    ("image_id,box", "p{i},0.1 0.2 0.5 0.75"),
    ("image_id,box", 'p{i},"0.1, 0.2, 0.5, 0.75"'),
    ("image_id,box", "p{i}.png,[0.1 0.2 0.5 0.75]"),
    ("image_id,ymin,xmin,ymax,xmax", "p{i},0.1,0.2,0.5,0.75"),
    ("xmin,xmax,ymin,ymax,ID", "0.2,0.75,0.1,0.5,p{i}"),
  ],
)
def test_forms_of_the_file(photos, head, row):
  found = box_list.read(_write(photos, head, row), [photos])
  assert len(found.paths) == 11 and found.missing == ()
  for boxes in found.boxes:
    np.testing.assert_allclose(boxes, [[0.1, 0.2, 0.5, 0.75]])


def test_several_boxes_and_other_photos(photos):
  path = _write(photos, "image_id,box", "p{i},0 0 1 0.5", 10)
  path.write_text(
    f"{path.read_text()}\np3,0 0.5 1 1\nsub/p7,0 0 1 1\ngone,0 0 1 1"
  )
  found = box_list.read(path, [photos])
  assert not any(str(p).endswith("p10.png") for p in found.paths)
  at = [str(p).endswith("p3.png") for p in found.paths].index(True)
  np.testing.assert_allclose(found.boxes[at], [[0, 0, 1, 0.5], [0, 0.5, 1, 1]])
  assert found.missing == ("p7", "gone")


def test_files_of_google_landmark_boxes(tmp_path):
  # Photos lie in folders of the first characters of their ids.
  folder, head = tmp_path / "train", "image_id,box\r\n"
  ids = [f"{i:x}0c{i:013x}" for i in range(12)]
  for each in ids:
    path = folder / each[0] / each[1] / each[2] / f"{each}.jpg"
    path.parent.mkdir(parents=True)
    PIL.Image.new("RGB", (8, 8)).save(path)
  rows = [f"{each},0.142028 0.20579711 0.800726 1.0\r\n" for each in ids]
  path = tmp_path / "both.csv"
  parts = (head, *rows[:6], head, *rows[6:])
  path.write_bytes(b"\xef\xbb\xbf" + "".join(parts).encode())
  found = box_list.read(path, [folder])
  assert [p.split("/")[-1] for p in found.paths] == [f"{i}.jpg" for i in ids]
  assert found.missing == ()
  for boxes in found.boxes:
    np.testing.assert_allclose(boxes, [[0.142028, 0.20579711, 0.800726, 1]])


@pytest.mark.parametrize(
  ("head", "row", "words"),
  [
    ("a,b", "p{i},0 0 1 1", "image_id,box"),
    ("image_id,box", "p{i},0 0 1", "line 2"),
    ("image_id,box", "p{i},0 0 1 x", "four numbers"),
    ("image_id,box", "p{i}", "line 2"),
    ("image_id,box", "p{i},0 0 1 nan", "line 2"),
    ("image_id,box", "p{i},0 0 400 300", "not pixels"),
    ("image_id,box", "p{i},0.5 0 0.5 1", "some area"),
    ("image_id,box", "p{i},0 0 1 1.2", "inside the image"),
    ("image_id,box", "q{i},0 0 1 1", "at least 10"),
  ],
)
def test_other_files_are_refused(photos, head, row, words):
  with pytest.raises(errors.InputError, match=words) as caught:
    box_list.read(_write(photos, head, row), [photos])
  assert "boxes.csv" in str(caught.value)


def test_missing_file_is_said(photos):
  with pytest.raises(FileNotFoundError, match="no.csv"):
    box_list.read(photos.parent / "no.csv", [photos])


def test_empty_file_is_refused(photos):
  path = photos.parent / "boxes.csv"
  path.write_text("")
  with pytest.raises(errors.InputError, match="image_id,box"):
    box_list.read(path, [photos])
