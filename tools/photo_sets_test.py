"""Reading and splitting of photo sets."""

import numpy as np
import pytest

from delf.base import errors
from delf.learning import view_pairs
from tools import photo_sets


def test_photos_of_one_pool_stay_on_one_side():
  image = np.zeros([8, 8, 3], np.uint8)
  everything = [view_pairs.Photo(str(i), image, i, i // 3) for i in range(90)]
  training, held_out = photo_sets.split(everything)
  assert len(training) + len(held_out) == 90 and held_out
  assert not {p.pool for p in training} & {p.pool for p in held_out}


def test_photo_that_does_not_decode_is_named(tmp_path):
  (tmp_path / "images").mkdir()
  (tmp_path / "images" / "a.jpg").write_bytes(b"no image")
  (tmp_path / "train.csv").write_text("id,url,landmark_id\na,a.jpg,0\n")
  with pytest.raises(errors.InputError, match="a.jpg"):
    photo_sets.load([tmp_path])


@pytest.mark.parametrize(
  "name, content, words",
  [
    ("train.csv", b"id,landmark_id\na,0\n", "column url is missing in row 1"),
    (
      "train.csv",
      b"id,url,landmark_id\na,a.jpg\n",
      "column landmark_id is missing",
    ),
    ("train.csv", b"\xff\xfe", "not a CSV file"),
    ("groups.json", b"{", "group must have a landmark_id"),
    (
      "groups.json",
      b'{"groups": {"a": {"pool": 1}}}',
      "each group must have a landmark_id",
    ),
  ],
)
def test_lists_of_photos_that_are_bad_are_named(tmp_path, name, content, words):
  (tmp_path / "train.csv").write_text("id,url,landmark_id\n")
  (tmp_path / name).write_bytes(content)
  with pytest.raises(errors.InputError, match=f"{name}: .*{words}"):
    photo_sets.load([tmp_path])
