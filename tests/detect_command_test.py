"""Boxes of many images: `delf detect`, `extract_boxes.py`, their files."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf.base import errors
from delf.cli import main, scripts
from delf.extraction import detect
from delf.python import box_io
from delf.python.examples import detector, extract_boxes
from tests.stand_ins import tiny_detector

_BOX = [0.25, 0.5, 0.75, 0.75]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  return tiny_detector.save_function(tmp_path_factory.mktemp("m") / "tiny")


@pytest.fixture
def photos(tmp_path):
  """A folder of three photos, of two sizes, each with a bright box."""
  folder = tmp_path / "photos"
  (folder / "more").mkdir(parents=True)
  for name, (height, width) in {
    "a": (40, 80),
    "b": (80, 40),
    "more/c": (40, 80),
  }.items():
    image = np.zeros([height, width, 3], np.uint8)
    sides = np.array([height, width, height, width])
    top, left, bottom, right = np.int64(_BOX * sides)
    image[top:bottom, left:right] = 255
    Image.fromarray(image).save(folder / f"{name}.png")
  return folder


def _detect(*words):
  return main.main(["detect", *map(str, words)])


def test_boxes_and_pictures_of_a_folder(photos, model, tmp_path, capsys):
  out, pictures = tmp_path / "boxes", tmp_path / "pictures"
  words = ("--out", out, "--pictures", pictures, "--detector", model)
  assert _detect(photos, *words, "--threshold", 0.1, "--batch", 2) == 0
  assert "3 boxes; 3 searched for boxes, 0 already" in capsys.readouterr().out
  for name in ("a", "b", "more/c"):
    boxes, scores, classes = box_io.ReadFromFile(out / f"{name}.boxes")
    np.testing.assert_allclose(boxes, [_BOX])
    np.testing.assert_allclose(scores, [0.125])
    assert classes == [1]
    with Image.open(pictures / f"{name}_viz.jpg") as picture:
      assert min(picture.size) > 500


def test_without_a_folder_boxes_are_printed_in_pixels(photos, model, capsys):
  assert _detect(photos / "a.png", "--detector", model, "--threshold", 0) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines == [f"{photos}/a.png: 1 box", "  0.125  40,10,60,30"]
  words = ("--detector", model, "--threshold", 0.2, "--json")
  assert _detect(photos / "a.png", *words) == 0
  document = json.loads(capsys.readouterr().out)
  assert document["images"] == [{"path": f"{photos}/a.png", "boxes": []}]
  assert document["out"] is None and len(document["done"]) == 1


def test_pixels_are_of_the_photo_that_is_turned(photos, model, capsys):
  exif = Image.Exif()
  exif[0x0112] = 6  # To be turned by 90 degrees to the right.
  with Image.open(photos / "a.png") as image:
    image.save(photos / "a.jpg", exif=exif, quality=100)
  words = (photos / "a.jpg", "--detector", model, "--threshold", 0.1)
  assert _detect(*words, "--rotate") == 0
  assert capsys.readouterr().out.splitlines()[1] == "  0.125  10,40,30,60"


def _contents(folder):
  return {
    path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_what_is_missing_is_done_and_the_rest_left(photos, model, tmp_path):
  out, pictures = tmp_path / "boxes", tmp_path / "pictures"
  options = {"names": ["a", "b"], "threshold": 0.1}
  images = [photos / "a.png", photos / "b.png"]
  detect.detect_to_files(images, model, out, pictures, **options)
  before = _contents(out)
  report = detect.detect_to_files(images, model, out, pictures, **options)
  assert len(report.skipped) == 2 and report.device == ""
  assert _contents(out) == before
  # Cut, gone, without its picture, of another photo.
  whole = (out / "a.boxes").read_bytes()
  with Image.open(photos / "b.png") as image:
    other = image.resize((60, 60))
  for damage in (
    lambda: (out / "a.boxes").write_bytes(whole[:-1]),
    lambda: (out / "a.boxes").unlink(),
    lambda: (pictures / "a_viz.jpg").unlink(),
    lambda: other.save(photos / "a.png"),
  ):
    damage()
    report = detect.detect_to_files(images, model, out, pictures, **options)
    assert report.done == (str(photos / "a.png"),)
    assert report.skipped == (str(photos / "b.png"),)
    assert (out / "a.boxes").exists() and (pictures / "a_viz.jpg").exists()


def test_other_settings_are_refused_until_all_are_done_again(
  photos, model, tmp_path, capsys
):
  words = (photos, "--out", tmp_path / "out", "--detector", model)
  assert _detect(*words, "--threshold", 0.1) == 0
  before = _contents(tmp_path / "out")
  assert _detect(*words, "--threshold", 0.9) == 1
  error = capsys.readouterr().err
  assert "threshold 0.1, not 0.9" in error and "--overwrite" in error
  some = (photos / "more", *words[1:], "--threshold", 0.9, "--overwrite")
  assert _detect(*some) == 1
  assert "would stay" in capsys.readouterr().err
  assert _contents(tmp_path / "out") == before
  assert _detect(*words, "--threshold", 0.9, "--overwrite") == 0
  boxes, _, _ = box_io.ReadFromFile(tmp_path / "out" / "a.boxes")
  assert boxes.shape == (0, 4)


def test_pictures_alone_are_drawn_once(photos, model, tmp_path, capsys):
  pictures = tmp_path / "pictures"
  words = (photos, "--pictures", pictures, "--detector", model)
  assert _detect(*words, "--threshold", 0.1) == 0
  assert capsys.readouterr().out.count(": 1 box") == 3
  before = _contents(pictures)
  assert len(before) == 5  # With the records of the detector and the photos.
  assert _detect(*words, "--threshold", 0.1, "--json") == 0
  found = json.loads(capsys.readouterr().out)
  assert len(found["skipped"]) == 3 and found["images"] == []
  assert _contents(pictures) == before
  # Cut, gone, of another photo.
  picture = pictures / "more" / "c_viz.jpg"
  whole = picture.read_bytes()
  for damage in (
    lambda: picture.write_bytes(whole[:-1]),
    picture.unlink,
    lambda: Image.new("RGB", (50, 50)).save(photos / "more" / "c.png"),
  ):
    damage()
    assert _detect(*words, "--threshold", 0.1, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["done"] == [str(photos / "more" / "c.png")]
    assert len(found["skipped"]) == 2
  assert picture.read_bytes() != whole


def test_what_a_killed_run_left_is_removed(photos, model, tmp_path):
  out, pictures = tmp_path / "boxes", tmp_path / "pictures"
  words = ("--out", out, "--pictures", pictures, "--detector", model)
  left = [
    pictures / "more" / f".c_viz.{'0' * 32}.jpg",
    pictures / f".a_viz.{'1' * 32}.jpg",
    out / f".b.{'2' * 32}.boxes",
  ]
  for path in left:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"cut")
  assert _detect(photos, *words) == 0
  assert not [path for path in left if path.exists()]


def test_pictures_of_another_threshold_are_refused(
  photos, model, tmp_path, capsys
):
  pictures = tmp_path / "pictures"
  words = (photos, "--pictures", pictures, "--detector", model)
  assert _detect(*words, "--threshold", 0.1) == 0
  before = _contents(pictures)
  for more in ((), ("--out", tmp_path / "out")):
    assert _detect(*words, *more, "--threshold", 0.9) == 1
    assert "use the same detector and settings, or --overwrite" in (
      error := capsys.readouterr().err
    )
    assert "pictures made with threshold 0.1, not 0.9" in error
  some = (photos / "more", *words[1:], "--threshold", 0.9, "--overwrite")
  assert _detect(*some) == 1
  assert "would stay" in capsys.readouterr().err
  assert _contents(pictures) == before and not (tmp_path / "out").exists()
  assert _detect(*words, "--threshold", 0.9, "--overwrite") == 0
  after = _contents(pictures)
  assert all(after[name] != before[name] for name in before)


def test_boxes_and_pictures_may_lie_in_one_folder(photos, model, tmp_path):
  words = (photos, "--out", tmp_path / "all", "--pictures", tmp_path / "all")
  words += ("--detector", model, "--threshold", 0.1)
  assert _detect(*words) == 0
  before = _contents(tmp_path / "all")
  assert _detect(*words) == 0
  assert _contents(tmp_path / "all") == before
  Image.new("RGB", (50, 50)).save(photos / "a.png")
  assert _detect(*words) == 0
  after = _contents(tmp_path / "all")
  changed = {str(name) for name in after if after[name] != before[name]}
  assert {"a.boxes", "a_viz.jpg"} <= changed
  assert not {"b.boxes", "b_viz.jpg"} & changed


def test_bad_images_are_named_and_the_others_done(
  photos, model, tmp_path, capsys
):
  (photos / "bad.jpg").write_text("no image")
  words = (photos, "--out", tmp_path / "out", "--detector", model)
  assert _detect(*words, "--json") == 1
  printed = capsys.readouterr()
  assert f"delf: error: {photos}/bad.jpg: not an image" in printed.err
  document = json.loads(printed.out)
  assert len(document["done"]) == 3 and len(document["failed"]) == 1
  assert not list((tmp_path / "out").glob("bad*"))


def test_boxes_that_overlap_a_better_one_can_be_dropped(
  photos, tmp_path, capsys
):
  find = tiny_detector.always(
    [[0, 0, 1, 0.9], [0, 0, 1, 1], [0, 0, 0.2, 0.2]], [0.6, 0.8, 0.7]
  )
  folder = tiny_detector.save_function(tmp_path / "m", find)
  words = (photos / "a.png", "--detector", folder)
  assert _detect(*words, "--overlap", 0.5) == 0
  printed = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in printed[1:]] == ["0.800", "0.700"]


def test_large_photos_are_scaled_down_before(tmp_path, capsys):
  def find(images):
    width = tf.cast(tf.shape(images)[2], tf.float32)
    found = tiny_detector.bright(images)
    return found | {"detection_scores": found["detection_scores"] * width}

  folder = tiny_detector.save_graph(tmp_path / "m", find)
  Image.new("RGB", (200, 100), "white").save(tmp_path / "a.png")
  words = (tmp_path / "a.png", "--detector", folder, "--max-size", 50)
  assert _detect(*words) == 0
  # The score has the width that the detector saw; pixels are of the photo.
  assert capsys.readouterr().out.splitlines()[1] == "  50.000  0,0,200,100"


def _script(*words):
  with pytest.raises(SystemExit) as end:
    scripts.run(
      extract_boxes.main, extract_boxes.define_flags, ["x.py", *words]
    )
  return end.value.code


def test_the_script_writes_boxes_over_the_threshold(photos, tmp_path, capsys):
  find = tiny_detector.always(
    [[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0, 0, 0, 0]], [0.4, 0.8, 0.0]
  )
  folder = tiny_detector.save_graph(tmp_path / "m", find)
  (tmp_path / "list.txt").write_text(f"{photos}/a.png\n{photos}/more/c.png\n")
  words = [
    f"--detector_path={folder}",
    f"--list_images_path={tmp_path}/list.txt",
    f"--output_dir={tmp_path}/out",
    f"--output_viz_dir={tmp_path}/viz",
  ]
  assert _script(*words, "--detector_thresh=0.5") == 0
  for name in "ac":
    boxes, _, _ = box_io.ReadFromFile(tmp_path / "out" / f"{name}.boxes")
    np.testing.assert_allclose(boxes, [[0, 0, 0.5, 0.5]])
    assert (tmp_path / "viz" / f"{name}_viz.jpg").exists()
  assert "2 boxes; 2 searched" in capsys.readouterr().out


def test_the_function_of_the_original_keeps_the_batch(model):
  images = np.zeros([2, 8, 8, 3], np.uint8)
  images[:, :4] = 255
  boxes, scores, classes = detector.MakeDetector(str(model))(images)
  assert boxes.shape == (2, 3, 4) and scores.shape == classes.shape == (2, 3)
  np.testing.assert_allclose(boxes[:, 0], [[0, 0, 0.5, 1]] * 2)


@pytest.mark.parametrize(
  "options", [{"threshold": float("nan")}, {"most_overlap": 1.5}]
)
def test_options_that_cannot_be(options):
  with pytest.raises(errors.InputError):
    detect.DetectOptions(**options)


def test_two_images_of_one_name(photos, model, tmp_path):
  images = [photos / "a.png", tmp_path / "a.png"]
  with pytest.raises(errors.InputError, match="same output name"):
    detect.detect_to_files(images, model, tmp_path / "out")
