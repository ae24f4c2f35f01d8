import numpy as np
import pytest
from PIL import Image

from delf.base import errors
from delf.python.datasets import generic_dataset


@pytest.fixture
def folder(tmp_path):
  for number in range(5):
    image = Image.new("RGB", (40 + number, 30), (10 * number, 0, 0))
    image.save(tmp_path / f"{number}.png")
  return tmp_path


def _names():
  return [f"{number}.png" for number in range(5)]


@pytest.mark.parametrize("workers", [0, 3])
def test_images_come_in_order_and_by_index(folder, workers):
  images = generic_dataset.ImagesFromList(folder, _names(), workers=workers)
  assert len(images) == 5
  found = list(images)
  assert [image.shape for image in found] == [(30, 40 + i, 3) for i in range(5)]
  np.testing.assert_array_equal(found[3], images[3])
  # Red is the last of the network's channels, less its mean.
  np.testing.assert_allclose(found[3][0, 0, 2], 30 - 123.68, rtol=1e-6)
  assert len(list(images)) == 5


def test_size_box_and_loader_are_passed_on(folder):
  boxes = [None, (0, 0, 10, 20), None, None, None]
  images = generic_dataset.ImagesFromList(
    folder, _names(), imsize=20, bounding_boxes=boxes
  )
  assert images[0].shape == (15, 20, 3)
  assert max(images[1].shape) <= 20
  seen = generic_dataset.ImagesFromList(
    "", ["a"], 7, [(1, 2, 3, 4)], loader=lambda *arguments: arguments
  )
  assert seen[0] == ("a", 7, (1, 2, 3, 4))


def test_bad_images_name_their_file(folder):
  (folder / "bad.jpg").write_bytes(b"no photo")
  images = generic_dataset.ImagesFromList(folder, ["0.png", "bad.jpg", "no"])
  with pytest.raises(errors.InputError, match="bad.jpg"):
    list(images)
  with pytest.raises(FileNotFoundError, match="no"):
    images[2]
