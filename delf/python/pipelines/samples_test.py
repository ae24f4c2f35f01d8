import numpy as np
from PIL import Image
from skimage import data

from delf.python.pipelines import samples


def test_photos_are_written_without_a_download(tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError("a download")

  # What scikit-image downloads comes by pooch, which asks urllib3 or urllib.
  monkeypatch.setattr("socket.socket.connect", refuse)
  photos = samples.write_sample_photos(tmp_path / "new")
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
  photos = samples.write_sample_photos(tmp_path)
  left, right, _ = data.stereo_motorcycle()
  for path, pixels in zip(photos, [left, right, data.coffee()], strict=True):
    with Image.open(path) as image:
      written = np.asarray(image).astype(int)
    assert np.abs(written - pixels).mean() < 4
  assert np.abs(left.astype(int) - right).mean() > 20
