import csv

import numpy as np
from PIL import Image
from skimage import data

from delf.embedded import samples
from delf.python.datasets.revisited_op import dataset


def test_photos_are_written_without_a_download(tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError("a download")

  # What scikit-image downloads comes by pooch, which asks urllib3 or urllib.
  monkeypatch.setattr("socket.socket.connect", refuse)
  photos = samples.sample_photos(tmp_path / "new")
  assert [path.name for path in photos] == [
    "motorcycle_left.jpg",
    "motorcycle_right.jpg",
    "coffee.jpg",
  ]
  assert sorted(photos) == sorted((tmp_path / "new").iterdir())
  sizes = []
  for path in photos:
    with Image.open(path) as image:
      sizes.append(image.size)
  assert sizes == [(741, 500), (741, 500), (600, 400)]


def test_photos_are_those_of_scikit_image(tmp_path):
  photos = samples.sample_photos(tmp_path)
  left, right, _ = data.stereo_motorcycle()
  for path, pixels in zip(photos, [left, right, data.coffee()], strict=True):
    with Image.open(path) as image:
      written = np.asarray(image).astype(int)
    assert np.abs(written - pixels).mean() < 4
  assert np.abs(left.astype(int) - right).mean() > 20


def test_ground_truth_is_of_the_photos_that_are_there(tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError("a download")

  monkeypatch.setattr("socket.socket.connect", refuse)
  images, path = samples.write_dataset(tmp_path / "new")
  queries, index, truth = dataset.ReadDatasetFile(str(path))
  assert queries == ["motorcycle_left", "coffee"]
  stems = {image.stem for image in images.iterdir()}
  assert stems == {*queries, *index}
  assert len(index) == 11
  for query, labels in zip(queries, truth, strict=True):
    first = query.split("_")[0]
    meant = [index[int(i)] for key in ("easy", "hard") for i in labels[key]]
    assert sorted(meant) == sorted(n for n in index if n.startswith(first))
    with Image.open(images / f"{query}.jpg") as image:
      left, upper, right, lower = labels["bbx"]
      assert 0 <= left < right <= image.width
      assert 0 <= upper < lower <= image.height


def test_photos_lie_as_the_tables_say(tmp_path):
  found = samples.write_landmarks(tmp_path, photos=3)
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
    samples.write_landmarks(tmp_path / name, photos=1) for name in "ab"
  )
  names = [p.relative_to(one.train) for p in one.train.glob("*/*/*/*.jpg")]
  assert len(names) == 4
  for name in names:
    assert (one.train / name).read_bytes() == (two.train / name).read_bytes()
