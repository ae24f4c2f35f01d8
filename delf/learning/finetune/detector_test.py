"""Reading boxes of photos from CSV files."""

import json

import numpy as np
import PIL.Image
import pytest

from delf.base import errors
from delf.learning import detector_network, detector_training
from delf.learning.finetune import detector, run
from tests.stand_ins import tiny_boxes


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
  found = detector.read(_write(photos, head, row), [photos])
  assert len(found.paths) == 11 and found.missing == ()
  for boxes in found.boxes:
    np.testing.assert_allclose(boxes, [[0.1, 0.2, 0.5, 0.75]])


def test_several_boxes_and_other_photos(photos):
  path = _write(photos, "image_id,box", "p{i},0 0 1 0.5", 10)
  path.write_text(
    f"{path.read_text()}\np3,0 0.5 1 1\nsub/p7,0 0 1 1\ngone,0 0 1 1"
  )
  found = detector.read(path, [photos])
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
  found = detector.read(path, [folder])
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
    ("image_id,box", "p{i},0.5 0 0.5 1", "no area"),
    ("image_id,box", "p{i},0 0 1 1.2", "inside the image"),
    ("image_id,box", "q{i},0 0 1 1", "at least 10"),
  ],
)
def test_other_files_are_refused(photos, head, row, words):
  with pytest.raises(errors.InputError, match=words) as caught:
    detector.read(_write(photos, head, row), [photos])
  assert "boxes.csv" in str(caught.value)


def test_missing_file_is_said(photos):
  with pytest.raises(FileNotFoundError, match="no.csv"):
    detector.read(photos.parent / "no.csv", [photos])


def test_empty_file_is_refused(photos):
  path = photos.parent / "boxes.csv"
  path.write_text("")
  with pytest.raises(errors.InputError, match="image_id,box"):
    detector.read(path, [photos])


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  return tiny_boxes.write_detector(tmp_path_factory.mktemp("first"))


@pytest.fixture
def given(tmp_path):
  """CSV file and folder of photos."""
  return tiny_boxes.write(tmp_path)


def _options(first, steps=3):
  return run.TrainOptions(start=str(first), steps=steps, rate=5e-3, batch=2)


def _weights(path):
  return detector_network.load(path).head.get_weights()


@pytest.mark.slow
def test_better_detector_is_kept(first, given, tmp_path, monkeypatch):
  options = _options(first)
  report = detector.train(given[0], given[1:], tmp_path / "a", options)
  kept = _weights(tmp_path / "a")
  same = all(
    np.array_equal(a, b) for a, b in zip(kept, _weights(first), strict=True)
  )
  assert same == (report.kept == run.BEFORE)
  precisions = {k: s.average_precision for k, s in report.scores.items()}
  assert precisions[report.kept] >= precisions[run.BEFORE]


@pytest.mark.slow
def test_run_that_breaks_off_ends_as_it_would_have(
  first, given, tmp_path, monkeypatch
):
  # Whatever is measured, the trained one.
  monkeypatch.setattr(run, "best", lambda scores: run.AFTER)
  options = _options(first)
  detector.train(given[0], given[1:], tmp_path / "whole", options)

  draw = detector_training.batch

  def break_off(known, drawn, step):
    if step == 2:
      raise RuntimeError("broken off")
    return draw(known, drawn, step)

  with monkeypatch.context() as patch:
    patch.setattr(detector_training, "batch", break_off)
    patch.setattr(run, "_SAVE_SECONDS", 0)
    with pytest.raises(RuntimeError, match="broken off"):
      detector.train(given[0], given[1:], tmp_path / "parts", options)
  assert not (tmp_path / "parts").exists()
  begun = []

  def watch(known, drawn, step):
    begun.append(step)
    return draw(known, drawn, step)

  monkeypatch.setattr(detector_training, "batch", watch)
  detector.train(given[0], given[1:], tmp_path / "parts", options)
  assert min(begun) > 0
  for one, two in zip(
    _weights(tmp_path / "whole"), _weights(tmp_path / "parts"), strict=True
  ):
    np.testing.assert_allclose(one, two, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_unfinished_run_of_other_settings_is_refused(first, given, tmp_path):
  folder = tmp_path / "a.unfinished"
  folder.mkdir()
  (folder / "settings.json").write_text(json.dumps({"batch": 7}))
  (folder / run.CHECKPOINT).touch()
  options = _options(first)
  with pytest.raises(errors.InputError, match="batch 7, not 2"):
    detector.train(given[0], given[1:], tmp_path / "a", options)
  detector.train(given[0], given[1:], tmp_path / "a", options, overwrite=True)
  assert not folder.exists()


def test_model_that_is_no_detector_is_refused(given, tmp_path):
  import tensorflow as tf

  tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
  options = _options(tmp_path / "other")
  with pytest.raises(errors.InputError, match="not a detector"):
    detector.train(given[0], given[1:], tmp_path / "a", options)
  assert not (tmp_path / "a").exists()
