"""The detector that comes with the package: small, described, and it finds."""

import json
import pathlib

import numpy as np
import pytest
from skimage import data

from delf.inference import detector, zoo
from delf.learning import detector_network

_MOST_BYTES = 4_000_000


@pytest.fixture(scope="module")
def folder():
  return pathlib.Path(zoo.resolve("delf-boxes"))


@pytest.fixture(scope="module")
def model():
  return detector.load("delf-boxes", device="cpu")


def test_is_small_enough_for_a_wheel(folder):
  sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
  assert 0 < sum(sizes) <= _MOST_BYTES


def test_says_how_it_was_made(folder):
  card = (folder / "MODEL_CARD.md").read_text()
  for words in ("Data", "Method", "Measurements", "Limits"):
    assert f"## {words}" in card
  height, width = json.loads((folder / "training.json").read_text())[
    "median_size"
  ]
  assert 0 < height < 1 and 0 < width < 1


def test_boxes_are_in_the_photo_best_first(model):
  found = model.detect(data.coffee()[None])[0]
  assert 0 < len(found.boxes) <= detector_network.MOST_BOXES
  assert (found.boxes >= 0).all() and (found.boxes <= 1).all()
  assert (found.boxes[:, :2] < found.boxes[:, 2:]).all()
  assert (np.diff(found.scores) <= 0).all()
  assert found.classes.dtype == np.int32 and set(found.classes) == {1}


def test_box_goes_where_the_thing_is(model):
  middles = []
  for start in (0, 270):
    photo = np.full([400, 600, 3], 150, np.uint8)
    photo[100:350, start : start + 300] = data.coffee()[50:300, 150:450]
    box = model.detect(photo[None])[0].boxes[0]
    middles.append((box[1] + box[3]) / 2)
  assert middles[1] > middles[0] + 0.05


def test_training_can_begin_with_it(folder, model):
  image = data.coffee()
  boxes, scores = detector_network.finder(detector_network.load(folder))(image)
  found = model.detect(image[None])[0]
  np.testing.assert_allclose(found.boxes, boxes, atol=1e-4)
  np.testing.assert_allclose(found.scores, scores, atol=1e-4)
