"""The index from Python, on photos of a model of a few weights."""

import concurrent.futures
import io
import json
import os
import pickle
import shutil

import numpy as np
import PIL.Image
import pytest
from skimage import data

import delf
from delf.base import errors
from tests.stand_ins import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model") / "tiny"
  tiny_model.save(folder)
  return str(folder)


def _photos(folder):
  """Three photos, two of which overlap."""
  folder.mkdir(parents=True)
  face, cup = data.astronaut(), data.coffee()
  for name, pixels in (
    ("left", face[:256, :256]),
    ("right", face[:256, 64:320]),
    ("cup", cup[:256, :256]),
  ):
    PIL.Image.fromarray(pixels).save(folder / f"{name}.png")
  return folder


@pytest.fixture(scope="module")
def built(model, tmp_path_factory):
  """Folders of the photos and of their index."""
  root = tmp_path_factory.mktemp("index")
  photos = _photos(root / "photos")
  delf.Index.build(photos, root / "index", model=model, progress=False)
  return photos, root / "index"


@pytest.fixture
def copy(built, tmp_path):
  """A copy of the index, to be changed."""
  shutil.copytree(built[1], tmp_path / "index")
  return tmp_path / "index"


def test_hits_have_paths_and_verdicts(built):
  photos, folder = built
  with delf.Index.open(folder) as index:
    assert len(index) == 3 and "left" in index and "dog" not in index
    assert list(index) == index.names == ["cup", "left", "right"]
    hits = index.search(photos / "left.png", verify=True)
  assert [hit.name for hit in hits[:2]] == ["left", "right"]
  assert hits[0].path == str(photos / "left.png")
  assert hits[0].is_match and hits[0].inliers == 50
  assert hits[2].name == "cup" and not hits[2].is_match
  plain = delf.Index.open(folder).search(photos / "left.png", top=1)
  assert len(plain) == 1 and plain[0].inliers is plain[0].is_match is None


def test_a_query_may_have_any_form(built):
  photos, folder = built
  index, path = delf.Index.open(folder), photos / "right.png"
  pixels = np.asarray(PIL.Image.open(path))
  forms = [
    str(path),
    path.read_bytes(),
    io.BytesIO(path.read_bytes()),
    PIL.Image.open(path),
    pixels,
    index.model.extract(path),
  ]
  results = [index.search(form, verify=True) for form in forms]
  assert results[0][0].score == pytest.approx(1)
  assert all(hits == results[0] for hits in results)


def test_a_part_of_a_photo(built):
  photos, folder = built
  index = delf.Index.open(folder)
  part = index.search(photos / "left.png", box=(64, 0, 256, 256))
  assert part != index.search(photos / "left.png")
  with pytest.raises(errors.InputError, match="a box goes with a photo"):
    extracted = index.model.extract(photos / "left.png")
    index.search(extracted, box=(0, 0, 9, 9))


def test_a_search_writes_nothing(built):
  photos, folder = built
  before = sorted(os.listdir(folder)), sorted(os.listdir(photos))
  delf.Index.open(folder).search(photos / "left.png", verify=True)
  assert before == (sorted(os.listdir(folder)), sorted(os.listdir(photos)))


def test_threads_get_what_one_gets(built):
  photos, folder = built
  index = delf.Index.open(folder)
  paths = sorted(photos.iterdir()) * 8
  alone = [index.search(path, verify=True) for path in paths[:3]]
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    results = list(pool.map(lambda p: index.search(p, verify=True), paths))
  assert results == alone * 8


def test_the_model_is_loaded_once(built, monkeypatch):
  from delf.inference import extractor

  made, make = [], extractor.make_extractor

  def count(*args):
    made.append(args)
    return make(*args)

  monkeypatch.setattr(extractor, "make_extractor", count)
  photos, folder = built
  index = delf.Index.open(folder)
  assert not made
  for path in sorted(photos.iterdir()):
    index.search(path)
  index.search_files(photos, progress=False)
  assert len(made) == 1


def test_changes_are_seen(copy, built, tmp_path):
  index = delf.Index.open(copy)
  other = delf.Index.open(copy)
  photos = built[0]
  assert other.search(photos / "cup.png", top=1)[0].name == "cup"
  assert index.remove("cup") == 2
  assert other.search(photos / "cup.png", top=1)[0].name != "cup"
  report = index.add(photos / "cup.png", progress=False)
  assert report.added == ("cup",) and index.report is report
  assert len(other) == 3
  PIL.Image.new("RGB", (99, 99), "red").save(tmp_path / "red.png")
  built_apart = delf.Index.build(
    tmp_path / "red.png", tmp_path / "more", model=index.model.config.model_path
  )
  assert index.merge(built_apart) == 4
  assert "red" in other


def test_what_fails_is_reported_and_the_rest_is_indexed(built, model, tmp_path):
  photos = shutil.copytree(built[0], tmp_path / "photos")
  (photos / "bad.png").write_bytes(b"no")
  said = []
  index = delf.Index.build(
    photos, tmp_path / "index", model=model, progress=False, say=said.append
  )
  assert len(index) == 3
  (failure,) = index.report.failed
  assert failure.path == str(photos / "bad.png") and "bad.png" in said[0]
  result = index.search_files(photos, progress=False, say=said.append)
  assert len(list(result.hits())) == 3
  assert [failed.path for failed in result.failed] == [failure.path]
  with pytest.raises(errors.InputError, match="bad.png"):
    index.search(photos / "bad.png")


def test_progress_is_passed_to_a_function(built, model, tmp_path):
  steps = []
  delf.Index.build(
    built[0],
    tmp_path / "index",
    model=model,
    progress=lambda *step: steps.append(step),
  )
  for done in (0, 3):
    assert ("extracting on CPU", done, 3) in steps
  assert ("adding to global.index", 3, 3) in steps


def test_an_interrupt_by_the_callback_loses_nothing(built, model, tmp_path):
  def stop(label, done, total):
    if label.startswith("extracting") and done == 1:
      raise KeyboardInterrupt

  out = tmp_path / "index"
  with pytest.raises(KeyboardInterrupt):
    delf.Index.build(built[0], out, model=model, progress=stop)
  kept = len(list((out / "features").glob("*.delf")))
  assert 1 <= kept < 3
  index = delf.Index.build(built[0], out, progress=False)
  assert len(index.report.extraction.skipped) == kept
  assert index.names == ["cup", "left", "right"]


def test_it_is_what_the_command_gives(built, capsys):
  from delf.cli import main

  photos, folder = built
  argv = ["search", str(folder), str(photos / "left.png"), "--verify", "--json"]
  assert main.main(argv) == 0
  (query,) = json.loads(capsys.readouterr().out)["queries"]
  hits = delf.Index.open(folder).search(photos / "left.png", verify=True)
  assert query["results"] == json.loads(json.dumps([h.to_dict() for h in hits]))


def test_representations(built):
  photos, folder = built
  index = delf.Index.open(folder)
  assert repr(index) == f"<Index {folder}: 3 images>"
  hits = index.search(photos / "left.png", verify=True)
  assert pickle.loads(pickle.dumps(hits)) == hits
  again = pickle.loads(pickle.dumps(index))
  assert again.search(photos / "left.png", verify=True) == hits
  assert index.photos["cup"] == str(photos / "cup.png")
  index.close()
  assert repr(index) == f"<Index {folder}: closed>"
  with pytest.raises(errors.InputError, match="closed"):
    index.search(photos / "left.png")


def test_bad_input(built, tmp_path):
  photos, folder = built
  with pytest.raises(FileNotFoundError, match="no such index"):
    delf.Index.open(tmp_path / "none")
  index = delf.Index.open(folder)
  with pytest.raises(errors.InputError, match="--method words"):
    index.search(photos / "left.png", method="words")
  with pytest.raises(FileNotFoundError):
    index.search(tmp_path / "none.jpg")
  with pytest.raises(errors.InputError, match="a photo is a path"):
    index.search([photos / "left.png"])
