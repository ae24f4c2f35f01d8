import json

import numpy as np
import PIL.Image
import pytest

from delf.cli import main
from delf.formats import features
from delf.python import feature_io


def _write(path, locations, seed=0):
  random = np.random.default_rng(seed)
  number = len(locations)
  feature_io.write_local_features(
    path,
    features.LocalFeatures(
      locations=locations,
      scales=np.ones([number], np.float32),
      descriptors=random.normal(size=(number, 16)).astype(np.float32),
      attention=np.ones([number], np.float32),
    ),
  )
  return str(path)


@pytest.fixture
def pair(tmp_path):
  """Feature files of two images, the second shifted."""
  locations = np.random.default_rng(5).uniform(0, 400, (60, 2))
  one = _write(tmp_path / "a.delf", locations)
  two = _write(tmp_path / "b.delg_local", locations + [10, 30])
  return one, two


def test_says_score_verdict_and_picture(pair, tmp_path, capsys):
  out = str(tmp_path / "m.png")
  assert main.main(["match", *pair, "--out", out]) == 0
  said = capsys.readouterr().out
  assert "score:     60 inliers" in said
  assert "verdict:   match" in said
  assert out in said
  with PIL.Image.open(out) as picture:
    assert picture.width > 500


def test_json_is_one_document(pair, capsys):
  argv = ["match", *pair, "--no-picture", "--json", "--estimator", "homography"]
  assert main.main(argv) == 0
  said = json.loads(capsys.readouterr().out)
  assert said["score"] == len(said["inliers"]) == 60
  assert said["is_match"] is True
  assert said["picture"] is None
  shift = [[1, 0, 30], [0, 1, 10], [0, 0, 1]]
  np.testing.assert_allclose(said["model"], shift, atol=1e-2)


def test_options_reach_the_matching(pair, capsys):
  def score(*more):
    argv = ["match", *pair, "--no-picture", "--json", *more]
    assert main.main(argv) == 0
    return json.loads(capsys.readouterr().out)

  assert score("--distance", "1e-9")["putative"] == 60  # Exactly the same.
  assert score("--min-inliers", "61")["is_match"] is False
  assert score("--threshold", "4")["residual_threshold"] == 4
  assert score("--one-way", "--ratio", "0.9", "--seed", "7")["score"] == 60


@pytest.mark.parametrize(
  ("more", "words"),
  [
    (["--rotate"], "rotate: of no effect"),
    (["--model", "nope"], "model: of no effect"),
  ],
)
def test_options_without_use_are_refused(pair, capsys, more, words):
  assert main.main(["match", *pair, "--no-picture", *more]) == 1
  assert words in capsys.readouterr().err


def test_no_match_is_no_failure(pair, tmp_path, capsys):
  other = _write(tmp_path / "c.delf", np.ones([9, 2]), seed=9)
  out = str(tmp_path / "m.png")
  assert main.main(["match", pair[0], other, "--out", out]) == 0
  assert "no match" in capsys.readouterr().out
  assert (tmp_path / "m.png").exists()


def test_images_of_feature_files_are_drawn(pair, tmp_path):
  photos = []
  for name, colour in (("a.png", (200, 0, 0)), ("b.png", (0, 0, 200))):
    PIL.Image.new("RGB", (440, 420), colour).save(tmp_path / name)
    photos.append(str(tmp_path / name))
  out = str(tmp_path / "m.png")
  assert main.main(["match", *pair, "--images", *photos, "--out", out]) == 0
  with PIL.Image.open(out) as picture:
    drawn = np.asarray(picture.convert("RGB"))
  for colour in ((200, 0, 0), (0, 0, 200)):
    assert (drawn == colour).all(axis=2).mean() > 0.2


@pytest.mark.parametrize(
  ("more", "words"),
  [
    (["--out", "m.docx"], "picture name must end in"),
    (["missing.delf"], "missing.delf: no such file"),
    (["photo.jpg"], "a feature file and a photo"),
  ],
)
def test_bad_input_is_one_line(
  pair, tmp_path, monkeypatch, capsys, more, words
):
  monkeypatch.chdir(tmp_path)
  paths = [pair[0], *more] if not more[0].startswith("-") else [*pair, *more]
  assert main.main(["match", *paths]) == 1
  said = capsys.readouterr()
  assert words in said.err
  assert len(said.err.strip().splitlines()) == 1
  assert not said.out
  assert not (tmp_path / "matches.png").exists()


@pytest.mark.parametrize(
  "wrong",
  [["--ratio", "0"], ["--estimator", "magic"], ["--min-inliers", "-1"]],
)
def test_wrong_options_are_errors_of_usage(pair, capsys, wrong):
  with pytest.raises(SystemExit) as stop:
    main.main(["match", *pair, *wrong])
  assert stop.value.code == 2
  assert wrong[0] in capsys.readouterr().err


def test_help_has_examples(capsys):
  with pytest.raises(SystemExit) as stop:
    main.main(["match", "--help"])
  assert stop.value.code == 0
  assert "delf match a.jpg b.jpg" in capsys.readouterr().out
