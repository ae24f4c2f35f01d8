import pytest
from PIL import Image

from delf.python import errors, feature_io
from delf.python.inference import zoo, zoo_table
from delf.python.pipelines import demo


@pytest.fixture(scope="module")
def report(tmp_path_factory):
  if not zoo.is_present(zoo.artefact(zoo_table.EMBEDDED)):
    pytest.skip("the embedded model is not in this checkout")
  folder = tmp_path_factory.mktemp("demo")
  # The second run finds what the first one left.
  (folder / "features").mkdir()
  (folder / "features" / "coffee.delf").write_bytes(b"cut")
  return demo.run(folder, device="cpu")


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
  model = report.same.match.model
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
    demo.run(tmp_path / "out", model=model)
  assert not (tmp_path / "out").exists()
