"""What is at the path of an export, whatever happens on the way."""

import os

import pytest

from delf.python import errors
from delf.python.training.model import export_folder


def _write(folder, text):
  folder.mkdir()
  (folder / "saved_model.pb").write_text(text)


def _texts(folder):
  """Returns dict of relative path to content of all files below a folder."""
  return {
    str(path.relative_to(folder)): path.read_text()
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_the_old_export_stays_until_the_new_one_is_whole(tmp_path):
  _write(tmp_path / "export", "old")
  with export_folder.destination(tmp_path / "export", True) as folder:
    _write(folder, "new")
    assert _texts(tmp_path / "export") == {"saved_model.pb": "old"}
  assert _texts(tmp_path) == {"export/saved_model.pb": "new"}


@pytest.mark.parametrize("interrupted", [0, 1])
def test_an_interrupt_while_renaming_leaves_the_old_export(
  tmp_path, monkeypatch, interrupted
):
  _write(tmp_path / "export", "old")
  replace, calls = os.replace, []

  def interrupting(source, target):
    calls.append(source)
    if len(calls) == interrupted + 1:
      raise KeyboardInterrupt
    replace(source, target)

  monkeypatch.setattr(os, "replace", interrupting)
  with (
    pytest.raises(KeyboardInterrupt),
    export_folder.destination(tmp_path / "export", True) as folder,
  ):
    _write(folder, "new")
  assert _texts(tmp_path) == {"export/saved_model.pb": "old"}
  assert os.listdir(tmp_path) == ["export"]


def test_an_interrupt_after_renaming_leaves_the_new_export(
  tmp_path, monkeypatch
):
  _write(tmp_path / "export", "old")
  replace = os.replace

  def interrupting(source, target):
    replace(source, target)
    if target == (tmp_path / "export").resolve():
      raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", interrupting)
  with (
    pytest.raises(KeyboardInterrupt),
    export_folder.destination(tmp_path / "export", True) as folder,
  ):
    _write(folder, "new")
  assert _texts(tmp_path) == {"export/saved_model.pb": "new"}
  assert os.listdir(tmp_path) == ["export"]


def test_the_current_folder_may_be_the_place(tmp_path, monkeypatch):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  with export_folder.destination(".") as folder:
    _write(folder, "new")
  assert _texts(tmp_path) == {"here/saved_model.pb": "new"}


def test_a_link_stays_a_link(tmp_path):
  (tmp_path / "real").mkdir()
  (tmp_path / "link").symlink_to("real")
  with export_folder.destination(tmp_path / "link") as folder:
    _write(folder, "new")
  assert (tmp_path / "link").is_symlink()
  assert _texts(tmp_path / "real") == {"saved_model.pb": "new"}


@pytest.mark.parametrize(
  "name, words",
  [
    ("file", "new folder to export to, received a file"),
    ("file/export", "below a file"),
    ("file/deep/export", "below a file"),
    ("nowhere", "a link to nothing"),
    ("loop", "a link to nothing"),
  ],
)
def test_places_that_cannot_be_are_refused(tmp_path, name, words):
  (tmp_path / "file").write_text("mine")
  (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
  (tmp_path / "loop").symlink_to("loop")
  before = sorted(os.listdir(tmp_path))
  with (
    pytest.raises(errors.InputError, match=words),
    export_folder.destination(tmp_path / name, True),
  ):
    pytest.fail("nothing is to be written")
  assert sorted(os.listdir(tmp_path)) == before
