import contextlib
import io
import json
import pathlib

import pytest
from PIL import Image

from delf.base import errors
from delf.cli import demo, main
from delf.inference import zoo
from delf.python import feature_io


def test_an_unknown_model_is_one_line(tmp_path, capsys):
  argv = ["demo", "--out", str(tmp_path / "out"), "--model", "delf_compact"]
  assert main.main(argv) == 1
  out, err = capsys.readouterr()
  assert (out, err.count("\n")) == ("", 1)
  assert "delf-compact" in err
  assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Runs the command once: its folder, exit status, document and DemoReport."""
  if not zoo.is_present(zoo.artefact(zoo.EMBEDDED)):
    pytest.skip("the embedded model is not in this checkout")
  folder = tmp_path_factory.mktemp("demo")
  # What an earlier run left is written anew.
  (folder / "features").mkdir()
  (folder / "features" / "coffee.delf").write_bytes(b"cut")
  run_demo, reports, text = demo.run_demo, [], io.StringIO()

  def record(*args, **options):
    reports.append(run_demo(*args, **options))
    return reports[-1]

  argv = ["demo", "--out", str(folder), "--json", "--device", "cpu"]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(demo, "run_demo", record)
    with contextlib.redirect_stdout(text):
      status = main.main(argv)
  return folder, status, json.loads(text.getvalue()), reports[0]


@pytest.fixture(scope="module")
def report(made):
  return made[-1]


def test_demo_as_json(made):
  folder, status, document, _ = made
  assert status == 0
  assert document["as_expected"]
  assert pathlib.Path(document["picture"]) == folder / "matches.png"
  for path in [document["picture"], *document["photos"], *document["features"]]:
    assert pathlib.Path(path).stat().st_size > 1000


def test_one_scene_matches_and_another_does_not(report):
  assert report.as_expected
  assert report.same.score > 3 * report.different.score


def test_the_pictures_and_features_are_there(report):
  with Image.open(report.same.picture) as picture:
    assert picture.width > picture.height > 200
  assert report.different.picture is None
  for path in report.features:
    locations, *_ = feature_io.ReadFromFile(str(path))
    assert len(locations) > 50


def test_the_map_between_the_photos_is_that_of_a_stereo_pair(report):
  model = report.same.model
  # Rectified: points stay on their row, and move left by 7 to 70 pixels.
  x, y = model @ [370, 250, 1]
  assert abs(y - 250) < 15
  assert 0 < 370 - x < 90


@pytest.mark.parametrize(
  ("model", "words"),
  [("no-such-model", "known model"), ("r50delg_gld", "delf models download")],
)
def test_nothing_is_written_for_a_model_that_is_not_there(
  tmp_path, monkeypatch, model, words
):
  monkeypatch.setenv("DELF_CACHE", str(tmp_path / "cache"))
  with pytest.raises(errors.InputError, match=words):
    demo.run_demo(tmp_path / "out", model=model)
  assert not (tmp_path / "out").exists()
