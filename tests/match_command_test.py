"""`delf match` of two photos, from image files through a model to a picture."""

import json

import numpy as np
import PIL.Image
import pytest
from skimage import data

import delf
from delf.cli import main
from tests.stand_ins import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model") / "tiny"
  tiny_model.save(folder)
  return str(folder)


@pytest.fixture
def photos(tmp_path):
  """Paths of two parts of one photo, one a whole step of the model over."""
  photo = data.astronaut()
  paths = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
  for path, start in zip(paths, (0, 64), strict=True):
    PIL.Image.fromarray(photo[:320, start : start + 384]).save(path)
  return paths


def test_two_photos(photos, model, tmp_path, capsys):
  out = str(tmp_path / "m.png")
  argv = ["match", *photos, "--model", model, "--out", out, "--json"]
  assert main.main(argv) == 0
  said = json.loads(capsys.readouterr().out)
  assert said["features"] == [50, 50]
  assert said["score"] >= 8
  np.testing.assert_allclose(
    said["model"], [[1, 0, -64], [0, 1, 0]], atol=0.05, rtol=0.02
  )
  assert said["device"]
  assert set(said["seconds"]) >= {"load model", "extract", "match", "draw"}
  with PIL.Image.open(said["picture"]) as picture:
    assert picture.width > 1000


def test_a_photo_with_itself_through_python(photos, model):
  result = delf.match(photos[0], photos[0], model=model)
  assert result.score == len(result.features[0].local)
  assert result.features[0].local.descriptors.shape == (50, 8)


def test_a_photo_that_is_too_small_matches_nothing(photos, model, tmp_path):
  PIL.Image.new("RGB", (9, 30)).save(tmp_path / "small.png")
  result = delf.match(
    photos[0], tmp_path / "small.png", model=model, out=tmp_path / "m.png"
  )
  assert result.score == 0
  assert not result.is_match
  assert (tmp_path / "m.png").exists()


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_a_bad_photo_is_one_line(photos, model, tmp_path, capsys, content):
  bad = tmp_path / "bad.jpg"
  if content is not None:
    bad.write_bytes(content)
  out = tmp_path / "m.png"
  argv = ["match", photos[0], str(bad), "--model", model, "--out", str(out)]
  assert main.main(argv) == 1
  said = capsys.readouterr()
  assert "bad.jpg" in said.err
  assert len(said.err.strip().splitlines()) == 1
  assert not out.exists()


@pytest.mark.parametrize(
  "options",
  [
    ["--model", "nope"],
    ["--max-size", "9"],
    ["--device", "gpu"],
    ["--images", "a.jpg", "b.jpg", "--no-picture"],
  ],
)
def test_options_of_no_use_to_feature_files_are_refused(options, capsys):
  assert main.main(["match", "x.delf", "y.delf", *options]) == 1
  said = capsys.readouterr().err
  assert options[0].strip("-").replace("-", "_") in said
  assert len(said.strip().splitlines()) == 1
