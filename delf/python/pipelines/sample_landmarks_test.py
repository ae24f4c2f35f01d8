import csv

from PIL import Image

from delf.python.pipelines import sample_landmarks


def test_photos_lie_as_the_tables_say(tmp_path):
  found = sample_landmarks.write(tmp_path, photos=3)
  with open(found.train / "train.csv") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 12
  assert len({row["landmark_id"] for row in rows}) == 4
  photos = {path.stem: path for path in found.train.glob("*/*/*/*.jpg")}
  assert set(photos) == {row["id"] for row in rows}
  for name, path in photos.items():
    assert path.parent == found.train / name[0] / name[1] / name[2]
    with Image.open(path) as photo:
      assert min(photo.size) >= 90 and max(photo.size) <= 240
  with open(found.train / "train_clean.csv") as file:
    clean = {row["landmark_id"]: row["images"] for row in csv.DictReader(file)}
  for row in rows:
    assert row["id"] in clean[row["landmark_id"]].split()
  assert len(found.list_path.read_text().split()) == 2


def test_photos_are_the_same_each_time(tmp_path):
  one, two = (
    sample_landmarks.write(tmp_path / name, photos=1) for name in "ab"
  )
  names = [p.relative_to(one.train) for p in one.train.glob("*/*/*/*.jpg")]
  assert len(names) == 4
  for name in names:
    assert (one.train / name).read_bytes() == (two.train / name).read_bytes()
