"""The training script from photos to a model that extracts."""

import argparse
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from delf.base import errors
from delf.formats import configs
from delf.inference import extractor, zoo
from delf.learning import compact_model, view_pairs
from tools import train_compact

_ROOT = pathlib.Path(train_compact.__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Twelve photos of eleven places."""
  folder = tmp_path_factory.mktemp("photos")
  (folder / "images").mkdir()
  rng = np.random.default_rng(0)
  rows = ["id,url,landmark_id"]
  for i in range(12):
    if i != 1:
      noise = rng.integers(0, 256, [24, 32, 3], dtype=np.uint8)
      image = cv2.resize(noise, (160, 120), interpolation=cv2.INTER_CUBIC)
    else:  # The place of the first photo again.
      view = np.array([[0.95, 0.05, 3], [-0.05, 0.95, 8], [0, 0, 1]])
      image = cv2.warpPerspective(image, view, (160, 120))
    cv2.imwrite(str(folder / "images" / f"{i}.png"), image)
    rows.append(f"{i},{i}.png,{max(i, 1)}")
  (folder / "train.csv").write_text("\n".join(rows))
  return folder


def _arguments(folder, out, *more):
  small = ["--pairs", "2", "--side", "64", "--minutes", "0"]
  return ["--photos", str(folder), "--out", str(out), *small, *more]


def _script(folder, *arguments):
  """Runs the script as a user does, in a folder."""
  return subprocess.run(
    [sys.executable, "-m", train_compact.__name__, *arguments],
    cwd=folder,
    env={**os.environ, "PYTHONPATH": str(_ROOT)},
    capture_output=True,
    text=True,
  )


def _run(*arguments):
  parser = argparse.ArgumentParser()
  train_compact.add_arguments(parser)
  train_compact.run(parser.parse_args(_arguments(*arguments)))


@pytest.mark.slow
def test_the_settings_beside_an_export_are_those_of_the_export(
  folder, tmp_path, monkeypatch
):
  # A name that the packaged model has too.
  made = tmp_path / "delf-compact"
  more = ["--export", "delf-compact", "--minutes", "0.0001"]
  done = _script(tmp_path, *_arguments(folder, tmp_path / "out", *more))
  assert done.returncode == 0, done.stderr
  assert done.stdout == "wrote delf-compact\n"
  with np.load(tmp_path / "out" / "checkpoint.npz") as arrays:
    assert arrays["step"] >= 1
  with np.load(tmp_path / "out" / "pairs.npz") as arrays:
    assert arrays["photos"].tolist() == [[0, 1]]
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(tmp_path / "elsewhere")
  config = configs.read_delf_config(made / "config.pbtxt")
  assert zoo.resolve(config.model_path) == made.resolve()
  photo = cv2.imread(str(folder / "images" / "0.png"))
  found = extractor.make_extractor(config, device="cpu").extract(photo)
  assert len(found.local) > 0
  assert np.isfinite(found.global_descriptor).all()


@pytest.mark.slow
def test_a_run_that_goes_on_draws_other_batches(folder, tmp_path, monkeypatch):
  batches = []

  class Watched(view_pairs.Source):
    def __init__(self, *args):
      super().__init__(*args)
      batches.append(self.batch().images)

  monkeypatch.setattr(view_pairs, "Source", Watched)
  _run(folder, tmp_path)
  with np.load(tmp_path / "checkpoint.npz") as arrays:
    arrays = dict(arrays)
  np.savez(tmp_path / "checkpoint.npz", **(arrays | {"step": 5}))
  for _ in range(2):
    _run(folder, tmp_path)
  assert not np.array_equal(batches[0], batches[1])
  np.testing.assert_array_equal(batches[1], batches[2])


def test_error_of_the_background_thread_is_raised():
  class Broken:
    def batch(self):
      raise errors.InputError("no batch")

  with pytest.raises(errors.InputError):
    next(train_compact.batches(Broken()))


def test_more_pairs_than_places_are_refused(folder, tmp_path):
  with pytest.raises(errors.InputError, match=r"places \(10\), not 11"):
    _run(folder, tmp_path, "--pairs", "11")


@pytest.mark.slow
def test_bad_input_is_one_line(tmp_path):
  done = _script(tmp_path, *_arguments(tmp_path / "nope", tmp_path / "out"))
  assert done.returncode == 1
  (line,) = (t for t in done.stderr.splitlines() if "train.csv" in t)
  assert "nope/train.csv: no such file" in line
  assert "Traceback" not in done.stderr


def test_export_of_the_packaged_folder_goes_by_its_name(monkeypatch, tmp_path):
  monkeypatch.setattr(zoo, "folder", lambda known: tmp_path / known.name)
  assert (
    compact_model.configured_path(tmp_path / "delf-compact") == "delf-compact"
  )
  other = tmp_path / "run" / "delf-compact"
  assert compact_model.configured_path(other) == str(other.resolve())
