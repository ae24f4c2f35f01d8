import json
import logging

import numpy as np
import PIL.Image
import pytest

from delf.python import errors, utils
from delf.python.pipelines import cropping


@pytest.fixture
def image():
  pixels = np.random.default_rng(2).integers(0, 256, [40, 60, 3], np.uint8)
  return PIL.Image.fromarray(pixels)


@pytest.mark.parametrize(
  ("box", "pixels"),
  [
    ((5, 7, 25, 17), (5, 7, 25, 17)),
    # Half to even, as Python rounds.
    ((4.5, 7.5, 25.4, 17.51), (4, 8, 25, 18)),
    ((0, 0, 60, 40), (0, 0, 60, 40)),
  ],
)
def test_crop_is_that_of_the_rounded_box(image, box, pixels):
  part, factor = cropping.Crop(box).cut(image)
  left, upper, right, lower = pixels
  expected = np.asarray(image)[upper:lower, left:right]
  np.testing.assert_array_equal(part, expected)
  np.testing.assert_array_equal(part, np.asarray(image.crop(pixels)))
  assert factor == 1


@pytest.mark.parametrize(
  ("box", "factor"),
  [
    ((0, 0, 60, 40), 1.0),
    ((0, 0, 30, 10), 30 / 60),
    ((10, 5, 22, 38), 33 / 60),  # Upright, of a photo that is not.
  ],
)
def test_limits_shrink_as_the_longer_side(image, box, factor):
  assert cropping.Crop(box, scale_limits=True).cut(image)[1] == factor


def test_a_box_that_reaches_out_is_filled_as_by_pillow(image, caplog):
  box = (-3, 30, 20, 45)
  with caplog.at_level(logging.WARNING, logger="absl"):
    part, _ = cropping.Crop(box).cut(np.asarray(image))
  np.testing.assert_array_equal(part, np.asarray(image.crop(box)))
  assert "black" in caplog.text


@pytest.mark.parametrize(
  "box",
  [
    (5, 5, 5, 20),  # Empty.
    (20, 5, 10, 20),  # The wrong way round.
    (60, 0, 80, 20),  # Beside the image.
    (-20, 0, 0, 20),
    (0, 0, 1e9, 1e9),  # Would fill the memory.
    (0, 0, 121, 20),
  ],
)
def test_boxes_that_cannot_be(image, box):
  with pytest.raises(errors.InputError, match="in an image of 60 x 40 pixels"):
    cropping.Crop(box).cut(image)


@pytest.mark.parametrize("box", [(1, 2, 3), (1, 2, 3, float("nan"))])
def test_boxes_that_are_none(box):
  with pytest.raises(errors.InputError, match="x_min"):
    cropping.Crop(box)


@pytest.mark.parametrize(
  ("name", "box"),
  [
    ("queries/all_souls_000013", None),  # The box of the ground truth.
    ("index", (101.4, 33.5, 399.5, 300.2)),
  ],
)
def test_real_photos(shared_data, name, box):
  folder = shared_data / "mini_roxford5k"
  truth = _truth(folder)
  if box is None:
    name, box = "all_souls_000013", truth["gnd"][0]["bbx"]
    assert truth["qimlist"][0] == name
  else:
    name = truth["imlist"][0]
  path = folder / "jpg" / f"{name}.jpg"
  with PIL.Image.open(path) as photo:
    expected = photo.convert("RGB").crop(tuple(round(x) for x in box))
    longest = max(photo.size)
  part, factor = cropping.Crop(box, scale_limits=True).cut(
    utils.RgbLoader(path)
  )
  np.testing.assert_array_equal(part, np.asarray(expected))
  assert factor == max(expected.size) / longest


def _truth(folder):
  return json.loads((folder / "gnd.json").read_text())
