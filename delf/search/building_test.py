import os
import shutil

import numpy as np
import pytest

from delf.aggregation import visual_words
from delf.base import errors, files
from delf.python import datum_io, feature_io
from delf.search import building, collection

_WORDS, _DIMENSION = 16, 8


def _say(line):
  raise AssertionError(line)


def _write(folder, names, seed=0):
  rng = np.random.default_rng(seed)
  for name in names:
    descriptor = rng.standard_normal(5).astype(np.float32)
    datum_io.WriteToFile(
      descriptor / np.linalg.norm(descriptor), f"{folder}/{name}.delg_global"
    )
    feature_io.WriteToFile(
      f"{folder}/{name}.delf",
      rng.uniform(0, 100, [20, 2]).astype(np.float32),
      np.ones([20], np.float32),
      rng.standard_normal([20, _DIMENSION]).astype(np.float32),
      np.ones([20], np.float32),
    )


@pytest.fixture
def features(tmp_path):
  (tmp_path / "features" / "deep").mkdir(parents=True)
  _write(tmp_path / "features", ["b", "a", "deep/a", "c"])
  return str(tmp_path / "features")


@pytest.fixture(scope="module")
def codebook(tmp_path_factory):
  prefix = str(tmp_path_factory.mktemp("codebook") / "codebook")
  centers = np.random.default_rng(1).standard_normal([_WORDS, _DIMENSION])
  visual_words.write_codebook(prefix, centers.astype(np.float32))
  return prefix


def _build(source, out, say=_say, **options):
  return building.build([source], out, building.BuildOptions(**options), say)


def _names(out):
  return [p.index.names for p in collection.parts(collection.open_folder(out))]


def test_features_are_indexed(features, codebook, tmp_path):
  out = tmp_path / "index"
  report = _build(features, out, codebook=codebook)
  assert report.added == ("a", "b", "c", "deep/a")
  assert (report.total, report.unchanged, report.failed) == (4, 0, ())
  assert _names(out) == [["a", "b", "c", "deep/a"]] * 2


def test_without_a_codebook_there_are_no_words(features, tmp_path):
  _build(features, tmp_path / "index")
  assert sorted(os.listdir(tmp_path / "index")) == [
    "collection.json",
    "global.files.json",
    "global.index",
  ]


def test_a_second_run_adds_what_is_new_or_changed(features, codebook, tmp_path):
  out = tmp_path / "index"
  _build(features, out, codebook=codebook)
  _write(features, ["d", "a"], seed=3)
  report = _build(features, out, codebook=codebook)
  assert report.added == ("a", "d")
  assert report.unchanged == 3
  assert _names(out) == [["b", "c", "deep/a", "a", "d"]] * 2
  (part, _) = collection.parts(collection.open_folder(out))
  expected = part.read("a")
  np.testing.assert_array_equal(part.index.descriptors[3], expected)


def test_a_run_that_was_killed_ends_as_one_that_was_not(
  features, codebook, tmp_path, monkeypatch
):
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  _build(features, whole, codebook=codebook)
  monkeypatch.setattr(building, "_BATCH", 1)
  monkeypatch.setattr(building, "_SAVE_INTERVAL", -1)
  monkeypatch.setattr(building, "_SAVE_SHARE", 0)
  read = collection.WordsPart.read

  def fail(part, name):
    if name == "c":
      raise KeyboardInterrupt
    return read(part, name)

  monkeypatch.setattr(collection.WordsPart, "read", fail)
  with pytest.raises(KeyboardInterrupt):
    _build(features, cut, codebook=codebook)
  assert _names(cut)[1] == ["a", "b"]
  monkeypatch.setattr(collection.WordsPart, "read", read)
  report = _build(features, cut, codebook=codebook)
  assert report.added == ("c", "deep/a")
  for name in ("global.index", "words.index"):
    assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_a_bad_file_is_said_and_the_others_are_indexed(
  features, codebook, tmp_path
):
  lines = []
  for name in ("b.delg_global", "c.delf"):
    with open(os.path.join(features, name), "r+b") as file:
      file.truncate(11)
  _write(features, ["d", "e"], seed=2)
  bad = np.full([5], np.nan, np.float32)
  datum_io.WriteToFile(bad, f"{features}/d.delg_global")
  datum_io.WriteToFile(np.ones([3], np.float32), f"{features}/e.delg_global")
  report = _build(features, tmp_path / "i", lines.append, codebook=codebook)
  assert report.exit_status == 1
  assert [os.path.basename(failure.path) for failure in report.failed] == [
    "b.delg_global",
    "d.delg_global",
    "e.delg_global",
    "c.delf",
  ]
  assert lines == [str(failure) for failure in report.failed]
  assert "dimension 5" in lines[2]
  names = [["a", "c", "deep/a"], ["a", "b", "d", "deep/a", "e"]]
  assert _names(tmp_path / "i") == names


def test_removing(features, codebook, tmp_path):
  out = tmp_path / "index"
  _build(features, out, codebook=codebook)
  building.remove(out, ["b", "deep/a"])
  assert _names(out) == [["a", "c"]] * 2
  with pytest.raises(errors.InputError, match="is named 'zebra'"):
    building.remove(out, ["a", "zebra"])
  assert _names(out) == [["a", "c"]] * 2


def test_merging(features, codebook, tmp_path):
  (tmp_path / "more").mkdir()
  _write(tmp_path / "more", ["x", "y"], seed=5)
  one, two = tmp_path / "one", tmp_path / "two"
  _build(features, one, codebook=codebook)
  _build(str(tmp_path / "more"), two, codebook=codebook)
  building.merge(one, two)
  assert _names(one) == [["a", "b", "c", "deep/a", "x", "y"]] * 2
  building.merge(one, two)  # As after a run that was killed at its end.
  assert _names(one) == [["a", "b", "c", "deep/a", "x", "y"]] * 2


def test_merging_refuses_names_that_are_in_both(features, tmp_path):
  (tmp_path / "more").mkdir()
  _write(tmp_path / "more", ["x", "a"], seed=5)
  one, two = tmp_path / "one", tmp_path / "two"
  _build(features, one)
  _build(str(tmp_path / "more"), two)
  with pytest.raises(errors.InputError, match="in both indexes, such as 'a'"):
    building.merge(one, two)
  assert _names(one) == [["a", "b", "c", "deep/a"]]


def test_other_settings_are_refused(features, codebook, tmp_path):
  out = tmp_path / "index"
  _build(features, out)
  (tmp_path / "more").mkdir()
  _write(tmp_path / "more", ["x"], seed=5)
  with pytest.raises(errors.InputError, match="features"):
    _build(str(tmp_path / "more"), out)


def test_another_codebook_is_refused(features, codebook, tmp_path):
  out = tmp_path / "index"
  _build(features, out, codebook=codebook)
  other = str(tmp_path / "other" / "codebook")
  visual_words.write_codebook(other, np.ones([4, _DIMENSION], np.float32))
  with pytest.raises(errors.InputError, match="codebook"):
    _build(features, out, codebook=other)


def test_a_codebook_that_was_replaced_is_noticed(features, codebook, tmp_path):
  out = tmp_path / "index"
  _build(features, out, codebook=codebook)
  centers = visual_words.read_codebook(codebook) + 1
  visual_words.write_codebook(out / "codebook", centers)
  words = collection.parts(collection.open_folder(out))[1]
  with pytest.raises(errors.InputError, match="words.index: .*codebook"):
    words.read("a")


def test_no_collection(tmp_path):
  with pytest.raises(FileNotFoundError, match="no such index"):
    collection.open_folder(tmp_path / "none")
  with pytest.raises(errors.InputError, match="delf index"):
    collection.open_folder(tmp_path)


def test_a_newer_collection_is_refused(features, tmp_path):
  _build(features, tmp_path / "i")
  path = tmp_path / "i" / "collection.json"
  path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
  with pytest.raises(errors.InputError, match="newer delf"):
    collection.open_folder(tmp_path / "i")


def test_one_run_at_a_time(features, tmp_path):
  out = tmp_path / "index"
  _build(features, out)
  before = {path: path.read_bytes() for path in out.iterdir()}
  with files.lock_folder(out):
    for change in (
      lambda: _build(features, out),
      lambda: building.remove(out, ["a"]),
      lambda: building.merge(out, tmp_path / "other"),
    ):
      if not (tmp_path / "other").exists():
        _build(features, tmp_path / "other")
      with pytest.raises(errors.InputError, match="another run is changing"):
        change()
  assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_what_a_killed_run_left_is_removed(features, tmp_path):
  out = tmp_path / "index"
  _build(features, out)
  names = sorted(os.listdir(out))
  for stem in ("global", "global.files", "photos"):
    (out / f".{stem}.{'0' * 32}.index").write_bytes(b"cut")
  _build(features, out)
  assert sorted(os.listdir(out)) == names


def test_what_is_refused_leaves_no_folder(tmp_path):
  (tmp_path / "more").mkdir()
  _write(tmp_path / "more", ["x"])
  (tmp_path / "more" / "x.delg_global").unlink()
  with pytest.raises(errors.InputError, match="no global descriptors"):
    _build(str(tmp_path / "more"), tmp_path / "index")
  assert not (tmp_path / "index").exists()


def test_an_index_is_not_merged_into_itself(features, tmp_path):
  _build(features, tmp_path / "index")
  with pytest.raises(errors.InputError, match="merged with itself"):
    building.merge(tmp_path / "index", f"{tmp_path}/./index")


def test_a_model_of_features_may_be_named_later(features, tmp_path):
  out = tmp_path / "index"
  _build(features, out)
  _build(features, out, model="delf-compact")
  there = collection.open_folder(out).delf_config()
  assert there.model_path == "delf-compact"
  text = (out / "config.pbtxt").read_text().replace("1024", "900")
  (tmp_path / "other.pbtxt").write_text(text)
  with pytest.raises(errors.InputError, match="other settings: max_image_size"):
    _build(features, out, config=str(tmp_path / "other.pbtxt"))
  assert collection.open_folder(out).delf_config() == there


def test_options_that_would_not_count_are_refused(tmp_path):
  (tmp_path / "photos").mkdir()
  (tmp_path / "photos" / "a.jpg").write_bytes(b"no photo")
  photos, out = str(tmp_path / "photos"), tmp_path / "index"
  with pytest.raises(errors.InputError, match="--photos is for an index"):
    _build(photos, out, photos=photos)
  said = []
  _build(photos, out, said.append)
  assert len(said) == 1
  with pytest.raises(errors.InputError, match="other settings: max_image_size"):
    _build(photos, out, max_size=99)


def test_queries_of_an_index_that_cannot_be_written(
  features, tmp_path, monkeypatch
):
  _build(features, tmp_path / "index")
  found = collection.open_folder(tmp_path / "index")
  with monkeypatch.context() as patch:
    patch.setattr(os, "access", lambda path, mode: False)
    folder = found.make_queries()
    assert folder == found.make_queries()
    (folder / "a.delf").write_bytes(b"")
  assert not (found.folder / "queries").exists()
  del found
  assert not folder.exists()
  found = collection.open_folder(tmp_path / "index")
  assert found.make_queries() == found.folder / "queries"


def _no_photos(tmp_path, *photos):
  """Writes photos that cannot be read; returns the folder of an index to be."""
  for photo in photos:
    path = tmp_path / photo
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no photo")
  return tmp_path / "index"


def test_a_photo_keeps_its_name(tmp_path):
  out = _no_photos(tmp_path, "one/x.jpg", "two/x.jpg", "one/deep/y.jpg")
  one, two, deep = (str(tmp_path / n) for n in ("one", "two", "one/deep"))
  options = building.BuildOptions()
  for sources in ([one], [deep], [one, two]):
    building.build(sources, out, options, lambda line: None)
  assert collection.open_folder(out).photos() == {
    "x": f"{one}/x.jpg",
    "deep/y": f"{one}/deep/y.jpg",
    "two/x": f"{two}/x.jpg",
  }


def test_a_photo_may_be_reached_by_another_path(tmp_path):
  out = _no_photos(tmp_path, "one/x.jpg")
  (tmp_path / "link").symlink_to("one")
  for name in ("one", "link"):
    _build(str(tmp_path / name), out, lambda line: None)
  photos = collection.open_folder(out).photos()
  assert photos == {"x": f"{tmp_path}/link/x.jpg"}


def test_two_photos_of_one_name_are_refused(tmp_path):
  out = _no_photos(tmp_path, "one/x.jpg", "two/x.jpg")
  _build(str(tmp_path / "one"), out, lambda line: None)
  with pytest.raises(
    errors.InputError, match="two/x.jpg and .*one/x.jpg .*'x'"
  ):
    _build(str(tmp_path / "two"), out, lambda line: None)
  (tmp_path / "one" / "x.jpg").unlink()  # Moved, as it may be.
  _build(str(tmp_path / "two"), out, lambda line: None)
  photos = collection.open_folder(out).photos()
  assert photos == {"x": f"{tmp_path}/two/x.jpg"}


def test_names_that_are_no_text(features, tmp_path):
  _build(features, tmp_path / "index")
  found = collection.open_folder(tmp_path / "index")
  photos = {"bad\udcff": "/photos/bad\udcff.jpg", "\u00e4": "/photos/\u00e4"}
  found.sample_photos(photos)
  assert found.photos() == photos


def test_merging_spares_features_that_are_not_indexed(features, tmp_path):
  (tmp_path / "more").mkdir()
  _write(tmp_path / "more", ["x", "y"], seed=5)
  one, two = tmp_path / "one", tmp_path / "two"
  _build(features, one)
  _build(str(tmp_path / "more"), two)
  _write(features, ["y"], seed=6)
  before = sorted(os.listdir(features))
  with pytest.raises(errors.InputError, match="y.delf: .*other features"):
    building.merge(one, two)
  assert sorted(os.listdir(features)) == before
  shutil.copytree(tmp_path / "more", features, dirs_exist_ok=True)
  building.merge(one, two)
  assert _names(one) == [["a", "b", "c", "deep/a", "x", "y"]]
