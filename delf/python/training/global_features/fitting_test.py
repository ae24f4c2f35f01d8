import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from delf.python import errors, whiten
from delf.python.datasets.sfm120k import sfm120k
from delf.python.training.global_features import (
  curves,
  evaluation,
  fitting,
  run_state,
  settings,
)
from tests import tiny_tuples

_ROOT = pathlib.Path(__file__).resolve().parents[4]


@pytest.fixture
def root(tmp_path):
  tiny_tuples.write(tmp_path)
  return tmp_path


def _fit(root, **changes):
  options = tiny_tuples.options(root, **changes)
  return fitting.fit(options, tiny_tuples.TinyNet)


def _arrays(folder):
  with np.load(folder / run_state.FILE) as found:
    return dict(found)


def _by_place(arrays):
  """Names of layers count up within a program; their places do not."""
  return {name.split("/")[0]: array for name, array in arrays.items()}


def _require_equal(one, other):
  first, second = (_by_place(_arrays(each)) for each in (one, other))
  assert first.keys() == second.keys()
  for name, array in first.items():
    np.testing.assert_array_equal(array, second[name], name)


def test_a_run_learns_keeps_its_best_and_whitens(root, capsys):
  report = _fit(root, whitening=sfm120k.NAME, scales=(1.0, 2.0), pooling="spoc")
  assert report.epochs == 3
  assert report.left_out == 0
  losses = [found["loss/train"] for found in report.history]
  assert losses[2] < losses[0]
  scores = [found["loss/validation"] for found in report.history]
  assert report.best_score == min(scores)
  assert report.best_epoch == 1 + int(np.argmin(scores))
  assert run_state.best_path(report.folder).name == (
    f"best-{report.best_epoch:04d}"
  )
  mean, projection = whiten.read_whitening(report.folder / fitting.WHITENING)
  assert (mean.shape, projection.shape) == ((6, 1), (6, 6))
  assert 0 < report.whitened["roxford5k"]["medium"] <= 1
  printed = capsys.readouterr().out
  assert printed.count(">> roxford5k: mAP") == 4
  tags = set()
  for path in (report.folder / curves.FOLDER).iterdir():
    for event in tf.compat.v1.train.summary_iterator(str(path)):
      tags |= {value.tag for value in event.summary.value}
  assert tags >= {
    "loss/train",
    "loss/validation",
    "negative_distance",
    "learning_rate",
    "roxford5k/medium",
  }


def test_a_run_goes_on_with_more_epochs_as_one_that_did_not_stop(root):
  same = {"update_every": 2, "test_every": 2, "tests": ()}
  whole = _fit(root, epochs=3, directory=str(root / "whole"), **same)
  measured = ["loss/validation" in found for found in whole.history]
  assert measured == [False, True, True]
  part = same | {"directory": str(root / "parts")}
  assert _fit(root, epochs=2, **part).epochs == 2
  report = _fit(root, epochs=3, resume=True, **part)
  assert report.history == whole.history
  _require_equal(whole.folder, report.folder)


def test_a_stopped_run_goes_on_within_its_epoch(root, monkeypatch):
  whole = _fit(root, directory=str(root / "whole"))
  learn, calls = fitting.learning.Learner.learn, []

  def stop_in_the_second_epoch(self, images):
    calls.append(1)
    if len(calls) == 12 + 5:
      signal.raise_signal(signal.SIGTERM)
    return learn(self, images)

  monkeypatch.setattr(
    fitting.learning.Learner, "learn", stop_in_the_second_epoch
  )
  report = _fit(root, save_every=0)
  assert report.signal == signal.SIGTERM
  assert report.epochs == 1
  place = json.loads(str(_arrays(report.folder)["place"]))
  assert place["batch"] == 3
  report = _fit(root, resume=True)
  assert report.history == whole.history
  _require_equal(whole.folder, report.folder)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_run_that_is_repeated_ends_as_any_other(root):
  whole = _fit(root, directory=str(root / "whole"))
  changes = {"directory": str(root / "killed"), "resume": True}
  command = [
    sys.executable,
    str(_ROOT / "tests" / "tiny_tuples.py"),
    str(root),
    json.dumps(changes),
  ]
  environment = os.environ | {"PYTHONPATH": str(_ROOT)}
  with subprocess.Popen(command, env=environment, stdout=-1) as process:
    saved = None
    while process.poll() is None:
      found = list((root / "killed").glob(f"*/{run_state.FILE}"))
      if found and _place_of(found[0]) >= 1.5:
        saved = _place_of(found[0])
        process.send_signal(signal.SIGKILL)
        break
      time.sleep(0.01)
  assert saved is not None
  report = _fit(root, **changes)
  assert report.history == whole.history
  _require_equal(whole.folder, report.folder)


def _place_of(path):
  """Returns epochs that are over, with a fraction."""
  try:
    with np.load(path) as found:
      place = json.loads(str(found["place"]))
  except (OSError, ValueError):  # Just being replaced.
    return 0.0
  return place["epoch"] + place["batch"] / 6


def test_without_validation_the_searches_or_the_training_decide(root):
  report = _fit(root, validation=False, epochs=2)
  medium = [found["roxford5k/medium"] for found in report.history]
  assert report.best_score == -max(medium)
  report = _fit(
    root, validation=False, tests=(), epochs=1, directory=str(root / "other")
  )
  assert report.best_score == report.history[0]["loss/train"]


def test_photos_that_cannot_be_read_are_left_out(root, caplog):
  train = sfm120k.CreateDataset("train", str(root))
  bad = pathlib.Path(train.images[train.positive_pool[0]])
  bad.write_bytes(b"no photo")
  report = _fit(root, epochs=1, queries=24, tests=(), validation=False)
  assert report.left_out > 0
  assert str(bad) in caplog.text


def test_tuples_that_the_network_does_not_take_are_left_out(
  root, monkeypatch, caplog
):
  describe = tiny_tuples.TinyNet.describe

  def refuse(self, images):
    if images.shape[1] < 30:  # Every second photo of a thing.
      raise errors.InputError("an image that is large enough", "a small one")
    return describe(self, images)

  monkeypatch.setattr(tiny_tuples.TinyNet, "describe", refuse)
  # Each pair has one; where it is the positive, mining does not see it.
  with pytest.raises(errors.InputError, match="epoch 1: all were left out"):
    _fit(root, epochs=1, tests=(), validation=False)
  assert caplog.text.count("left out: ") == 6


def test_a_loss_of_nan_ends_the_run_and_keeps_what_was_saved(root, monkeypatch):
  learn, calls = fitting.learning.Learner.learn, []

  def break_later(self, images):
    calls.append(1)
    return learn(self, images) if len(calls) < 6 else float("nan")

  monkeypatch.setattr(fitting.learning.Learner, "learn", break_later)
  with pytest.raises(errors.InputError, match="nan in epoch 1, batch 3"):
    _fit(root)
  folder = next((root / "runs").iterdir())
  place = json.loads(str(_arrays(folder)["place"]))
  assert (place["epoch"], place["batch"]) == (0, 2)


def test_what_cannot_go_on(root):
  report = _fit(root, epochs=1, tests=())
  with pytest.raises(errors.InputError, match="--resume"):
    _fit(root, epochs=2, tests=())
  with pytest.raises(errors.InputError, match="momentum 0.5.* 0.9"):
    _fit(root, epochs=2, tests=(), momentum=0.5, resume=True)
  path = report.folder / run_state.FILE
  arrays = _arrays(report.folder)
  name = next(n for n in arrays if n.endswith("/kernel"))
  np.savez(path, **arrays | {name: arrays[name][..., :2]})
  with pytest.raises(errors.InputError, match="checkpoint.npz.*kernel"):
    _fit(root, epochs=2, tests=(), resume=True)
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(errors.InputError, match="a checkpoint of global"):
    _fit(root, epochs=2, tests=(), resume=True)
  (report.folder / settings.FILE).write_text('{"data": 3}')
  with pytest.raises(errors.InputError, match="settings of a run"):
    _fit(root, epochs=2, tests=(), resume=True)


def test_data_is_looked_at_before_anything_is_computed(root):
  def never(*arguments):
    raise AssertionError("made a network")

  def fit(**changes):
    fitting.fit(tiny_tuples.options(root, **changes), never)

  with pytest.raises(errors.InputError, match="3 other clusters"):
    fit(negatives=4)
  with pytest.raises(FileNotFoundError, match="gnd_rparis6k.pkl"):
    fit(tests=("rparis6k",))
  with pytest.raises(FileNotFoundError, match="30k-whiten.pkl"):
    fit(whitening="retrieval-SfM-30k")
  for changes in (
    {"tests": ("oxford5k",)},
    {"margin": float("nan")},
    {"batch": 0},
    {"optimizer": "rmsprop"},
  ):
    with pytest.raises(errors.InputError):
      fit(**changes)
  (root / "oxford5k_images" / "0_1.jpg").unlink()
  with pytest.raises(FileNotFoundError, match="0_1.jpg.* 24 photos"):
    fit()
  train = sfm120k.CreateDataset("train", str(root))
  pathlib.Path(train.images[2]).unlink()
  with pytest.raises(FileNotFoundError, match="12 photos that the train part"):
    fit()


def test_a_search_ranks_by_likeness(root):
  test = evaluation.open_tests(("roxford5k",), str(root))[0]

  class Exact:
    def describe(self, paths, boxes=None):
      things = [int(pathlib.Path(p).name.split("_")[0]) for p in paths]
      return np.eye(8, dtype=np.float32)[:, things]

  found = evaluation.search(Exact(), test)
  assert found["medium"] == 1.0
  identity = np.zeros([8, 1]), np.eye(8)
  assert evaluation.search(Exact(), test, identity) == found
