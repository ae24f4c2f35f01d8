import json
import logging
import os

import numpy as np
import PIL.Image
import pytest

from delf.base import errors
from delf.extraction import engine
from delf.python import utils


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
  part, factor = engine.Crop(box).cut(image)
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
  assert engine.Crop(box, scale_limits=True).cut(image)[1] == factor


def test_a_box_that_reaches_out_is_filled_as_by_pillow(image, caplog):
  box = (-3, 30, 20, 45)
  with caplog.at_level(logging.WARNING, logger="absl"):
    part, _ = engine.Crop(box).cut(np.asarray(image))
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
    engine.Crop(box).cut(image)


@pytest.mark.parametrize("box", [(1, 2, 3), (1, 2, 3, float("nan"))])
def test_boxes_that_are_none(box):
  with pytest.raises(errors.InputError, match="x_min"):
    engine.Crop(box)


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
  part, factor = engine.Crop(box, scale_limits=True).cut(utils.RgbLoader(path))
  np.testing.assert_array_equal(part, np.asarray(expected))
  assert factor == max(expected.size) / longest


def _truth(folder):
  return json.loads((folder / "gnd.json").read_text())


@pytest.fixture
def folder(tmp_path):
  for name in ("b.jpg", "a.png", "deep/a.png"):
    path = tmp_path / "photos" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (4, 4)).save(path)
  return tmp_path / "photos"


def test_names_with_two_extensions(tmp_path):
  for name in ("a.jpg", "a.png", "a.jpg.png"):
    (tmp_path / name).write_bytes(b"")
  images, names = engine.find([str(tmp_path)])
  assert sorted(names) == ["a.jpg", "a.jpg.png", "a.png"]
  assert len(set(zip(images, names, strict=True))) == 3


def test_an_image_that_is_found_twice_is_done_once(tmp_path):
  (tmp_path / "x").mkdir()
  (tmp_path / "x" / "a.jpg").write_bytes(b"")
  images, names = engine.find([str(tmp_path), str(tmp_path / "x")])
  assert (len(images), names) == (1, [os.path.join("x", "a")])


def test_images_of_a_folder_keep_their_sub_folder(folder):
  images, names = engine.find([str(folder)])
  assert names == ["a", "b", "deep/a"]
  assert images[2] == str(folder / "deep" / "a.png")


def test_images_of_patterns_and_lists_go_by_base_name(folder, tmp_path):
  images, names = engine.find([str(folder / "*.jpg")])
  assert names == ["b"]
  listed = tmp_path / "list.txt"
  listed.write_text(f"{folder}/deep/a.png\n{folder}/b.jpg\n")
  images, names = engine.find([str(listed)])
  assert sorted(names) == ["a", "b"]
  assert len(images) == 2


@pytest.mark.parametrize(
  ("sources", "expected"),
  [
    (["photos"], {"a.png": "a.png", "a.jpg": "a.jpg", "deep/a.png": "deep/a"}),
    (["photos/*.jpg"], {"a.jpg": "a", "b.jpg": "b"}),
    (
      ["photos/**/a.*"],
      {"a.png": "a.png", "a.jpg": "a.jpg", "deep/a.png": "deep/a"},
    ),
    (["photos/b.jpg", "other"], {"b.jpg": "b", "../other/c.jpg": "c"}),
    (
      ["photos/deep", "other", "photos/a.jpg"],
      {
        "deep/a.png": "photos/deep/a",
        "a.jpg": "photos/a",
        "../other/c.jpg": "c",
      },
    ),
  ],
)
def test_equal_names_are_told_apart(
  folder, monkeypatch, tmp_path, sources, expected
):
  PIL.Image.new("RGB", (4, 4)).save(folder / "a.jpg")
  (tmp_path / "other").mkdir()
  PIL.Image.new("RGB", (4, 4)).save(tmp_path / "other" / "c.jpg")
  monkeypatch.chdir(tmp_path)
  found = dict(zip(*engine.find(sources), strict=True))
  found = {
    os.path.relpath(path, "photos"): name for path, name in found.items()
  }
  for path, name in expected.items():
    assert found[path] == name
  assert len(set(found.values())) == len(found)


def test_equal_names_of_remote_images_are_told_apart(tmp_path):
  listed = tmp_path / "list.txt"
  listed.write_text(
    "gs://bucket/x/a.jpg\ngs://bucket/y/a.jpg\ngs://bucket/b.png"
  )
  assert engine.find([str(listed)])[1] == ["b", "x/a", "y/a"]
