import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf.base import errors
from delf.formats import configs
from delf.inference import extractor
from delf.learning import pairs, pairs_settings
from delf.python import whiten
from delf.python.datasets import utils
from delf.python.datasets.sfm120k import sfm120k
from delf.python.training.losses import ranking_losses
from tests.stand_ins import tiny_tuples

_ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path):
  tiny_tuples.write(tmp_path)
  return tmp_path


def _fit(root, **changes):
  options = tiny_tuples.options(root, **changes)
  return pairs.fit(options, tiny_tuples.TinyNet)


def _arrays(folder):
  with np.load(folder / pairs_settings.CHECKPOINT) as found:
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
  assert report.place.epoch == 3
  assert report.place.left_out == 0
  losses = [found["loss/train"] for found in report.place.history]
  assert losses[2] < losses[0]
  scores = [found["loss/validation"] for found in report.place.history]
  assert report.place.best_score == min(scores)
  assert report.place.best_epoch == 1 + int(np.argmin(scores))
  assert pairs.best_path(report.folder).name == (
    f"best-{report.place.best_epoch:04d}"
  )
  mean, projection = whiten.read_whitening(report.folder / pairs.WHITENING)
  assert (mean.shape, projection.shape) == ((6, 1), (6, 6))
  assert 0 < report.whitened["roxford5k"]["medium"] <= 1
  printed = capsys.readouterr().out
  assert printed.count(">> roxford5k: mAP") == 4
  tags = set()
  for path in (report.folder / pairs.LOGS).iterdir():
    for event in tf.compat.v1.train.summary_iterator(str(path)):
      tags |= {value.tag for value in event.summary.value}
  assert tags >= {
    "loss/train",
    "loss/validation",
    "negative_distance",
    "learning_rate",
    "roxford5k/medium",
  }


@pytest.mark.slow
def test_a_run_goes_on_with_more_epochs_as_one_that_did_not_stop(root):
  same = {"update_every": 2, "test_every": 2, "tests": ()}
  whole = _fit(root, epochs=3, directory=str(root / "whole"), **same)
  measured = ["loss/validation" in found for found in whole.place.history]
  assert measured == [False, True, True]
  part = same | {"directory": str(root / "parts")}
  assert _fit(root, epochs=2, **part).place.epoch == 2
  report = _fit(root, epochs=3, resume=True, **part)
  assert report.place.history == whole.place.history
  _require_equal(whole.folder, report.folder)


@pytest.mark.slow
def test_a_stopped_run_goes_on_within_its_epoch(root, monkeypatch):
  whole = _fit(root, directory=str(root / "whole"))
  learn, calls = pairs.TupleStepper.learn, []

  def stop_in_the_second_epoch(self, images):
    calls.append(1)
    if len(calls) == 12 + 5:
      signal.raise_signal(signal.SIGTERM)
    return learn(self, images)

  monkeypatch.setattr(pairs.TupleStepper, "learn", stop_in_the_second_epoch)
  report = _fit(root, save_every=0)
  assert report.signal == signal.SIGTERM
  assert report.place.epoch == 1
  place = json.loads(str(_arrays(report.folder)["place"]))
  assert place["batch"] == 3
  report = _fit(root, resume=True)
  assert report.place.history == whole.place.history
  _require_equal(whole.folder, report.folder)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_run_that_is_repeated_ends_as_any_other(root):
  whole = _fit(root, directory=str(root / "whole"))
  changes = {"directory": str(root / "killed"), "resume": True}
  command = [
    sys.executable,
    str(_ROOT / "tests" / "stand_ins" / "tiny_tuples.py"),
    str(root),
    json.dumps(changes),
  ]
  environment = os.environ | {"PYTHONPATH": str(_ROOT)}
  with subprocess.Popen(command, env=environment, stdout=-1) as process:
    saved = None
    while process.poll() is None:
      found = list((root / "killed").glob(f"*/{pairs_settings.CHECKPOINT}"))
      if found and _place_of(found[0]) >= 1.5:
        saved = _place_of(found[0])
        process.send_signal(signal.SIGKILL)
        break
      time.sleep(0.01)
  assert saved is not None
  report = _fit(root, **changes)
  assert report.place.history == whole.place.history
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
  medium = [found["roxford5k/medium"] for found in report.place.history]
  assert report.place.best_score == -max(medium)
  report = _fit(
    root, validation=False, tests=(), epochs=1, directory=str(root / "other")
  )
  assert report.place.best_score == report.place.history[0]["loss/train"]


def test_photos_that_cannot_be_read_are_left_out(root, caplog):
  train = sfm120k.CreateDataset("train", str(root))
  bad = pathlib.Path(train.images[train.positive_pool[0]])
  bad.write_bytes(b"no photo")
  report = _fit(root, epochs=1, queries=24, tests=(), validation=False)
  assert report.place.left_out > 0
  assert str(bad) in caplog.text


def test_tuples_that_the_network_does_not_take_are_left_out(
  root, monkeypatch, caplog
):
  describe = tiny_tuples.TinyNet.describe

  def refuse(self, images):
    if images.shape[1] < 30:  # Every second photo of a thing.
      raise errors.InputError("the image is too small")
    return describe(self, images)

  monkeypatch.setattr(tiny_tuples.TinyNet, "describe", refuse)
  # Each pair has one; where it is the positive, mining does not see it.
  with pytest.raises(errors.InputError, match="epoch 1: all were left out"):
    _fit(root, epochs=1, tests=(), validation=False)
  assert caplog.text.count("left out: ") == 6


def test_a_loss_of_nan_ends_the_run_and_keeps_what_was_saved(root, monkeypatch):
  learn, calls = pairs.TupleStepper.learn, []

  def break_later(self, images):
    calls.append(1)
    return learn(self, images) if len(calls) < 6 else float("nan")

  monkeypatch.setattr(pairs.TupleStepper, "learn", break_later)
  with pytest.raises(errors.InputError, match="nan in epoch 1, batch 3"):
    _fit(root)
  folder = next((root / "runs").iterdir())
  place = json.loads(str(_arrays(folder)["place"]))
  assert (place["epoch"], place["batch"]) == (0, 2)


def test_what_cannot_go_on(root):
  report = _fit(root, epochs=1, tests=())
  with pytest.raises(errors.InputError, match="--resume"):
    _fit(root, epochs=2, tests=())
  with pytest.raises(errors.InputError, match="momentum 0.9 .*, not 0.5"):
    _fit(root, epochs=2, tests=(), momentum=0.5, resume=True)
  path = report.folder / pairs_settings.CHECKPOINT
  arrays = _arrays(report.folder)
  name = next(n for n in arrays if n.endswith("/kernel"))
  np.savez(path, **arrays | {name: arrays[name][..., :2]})
  with pytest.raises(errors.InputError, match="checkpoint.npz.*kernel"):
    _fit(root, epochs=2, tests=(), resume=True)
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(errors.InputError, match="a checkpoint of global"):
    _fit(root, epochs=2, tests=(), resume=True)
  (report.folder / pairs_settings.FILE).write_text('{"data": 3}')
  with pytest.raises(errors.InputError, match="not the settings of a run"):
    _fit(root, epochs=2, tests=(), resume=True)


def test_data_is_looked_at_before_anything_is_computed(root):
  def never(*arguments):
    raise AssertionError("made a network")

  def fit(**changes):
    pairs.fit(tiny_tuples.options(root, **changes), never)

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
  test = pairs.open_tests(("roxford5k",), str(root))[0]

  class Exact:
    def describe(self, paths, boxes=None):
      things = [int(pathlib.Path(p).name.split("_")[0]) for p in paths]
      return np.eye(8, dtype=np.float32)[:, things]

  found = pairs.search(Exact(), test)
  assert found["medium"] == 1.0
  identity = np.zeros([8, 1]), np.eye(8)
  assert pairs.search(Exact(), test, identity) == found


def _net(seed=0):
  keras.utils.set_random_seed(seed)
  return tiny_tuples.TinyNet("tiny", "gem", False, False, "")


def _tuple(seed, sizes=((24, 32), (40, 24), (16, 16), (32, 32))):
  random = np.random.default_rng(seed)
  return [
    random.uniform(-110, 130, [*size, 3]).astype(np.float32) for size in sizes
  ]


def _straight(net, images, loss):
  """Loss and gradients with all images on one tape."""
  with tf.GradientTape() as tape:
    vectors = [net(image[None]) for image in images]
    value = loss(vectors[0], vectors[1], tf.concat(vectors[2:], 0)[None])
  return value, tape.gradient(value, [w.value for w in net.trainable_variables])


@pytest.mark.parametrize("name", pairs_settings.LOSSES)
def test_gradients_are_those_of_the_whole_tuple(name):
  net = _net()
  learner = pairs.TupleStepper(net, pairs_settings.Learning(name, margin=1.5))
  loss = {
    "contrastive": ranking_losses.ContrastiveLoss(1.5),
    "triplet": ranking_losses.TripletLoss(1.5),
  }[name]
  sums = 0.0
  for seed in range(3):
    images = _tuple(seed)
    value, gradients = _straight(net, images, loss)
    np.testing.assert_allclose(learner.loss(images), value, rtol=1e-5)
    np.testing.assert_allclose(learner.learn(images), value, rtol=1e-5)
    sums = [g + (sums[i] if sums else 0) for i, g in enumerate(gradients)]
  for found, expected in zip(learner._sums, sums, strict=True):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale)


def test_images_that_do_not_matter_are_not_gone_through_again():
  net, calls = _net(), []
  learner = pairs.TupleStepper(net, pairs_settings.Learning(margin=1e-6))
  back = learner._back
  learner._back = lambda image, up: calls.append(image.shape) or back(image, up)
  learner.learn(_tuple(0))
  assert calls == [(1, 24, 32, 3), (1, 40, 24, 3)]


def test_an_update_is_a_step_and_a_decay():
  net = _net()
  before = [w.numpy() for w in net.trainable_variables]
  learner = pairs.TupleStepper(
    net,
    pairs_settings.Learning(
      optimizer="sgd", rate=0.1, momentum=0.0, weight_decay=0.01
    ),
  )
  learner.learn(_tuple(0))
  sums = [s.numpy() for s in learner._sums]
  learner.update(epochs=50)
  decay = math.exp(-0.5)
  np.testing.assert_allclose(learner.rate, 0.1 * decay, rtol=1e-6)
  for weight, old, gradient in zip(
    net.trainable_variables, before, sums, strict=True
  ):
    expected = old - 0.1 * decay * gradient - 0.01 * decay * old
    np.testing.assert_allclose(weight.numpy(), expected, atol=1e-6)
  assert not any(s.numpy().any() for s in learner._sums)


def test_a_loss_that_is_not_finite_changes_nothing():
  net = _net()
  learner = pairs.TupleStepper(net, pairs_settings.Learning())
  net.dense.bias.assign(np.full([6], np.nan))
  assert not math.isfinite(learner.learn(_tuple(0)))
  assert not any(s.numpy().any() for s in learner._sums)


@pytest.mark.parametrize("optimizer", pairs_settings.OPTIMIZERS)
def test_loss_falls(optimizer):
  rate = 0.01 if optimizer == "adam" else 0.1
  options = pairs_settings.Learning(optimizer=optimizer, rate=rate)
  learner = pairs.TupleStepper(_net(), options)
  images = _tuple(3)
  first = learner.loss(images)
  for _ in range(10):
    learner.learn(images)
    learner.update(0.0)
  assert learner.loss(images) < 0.7 * first


def test_no_negatives():
  learner = pairs.TupleStepper(_net(), pairs_settings.Learning())
  images = _tuple(0)[:2]
  assert learner.learn(images) == pytest.approx(learner.loss(images))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  root = tmp_path_factory.mktemp("run")
  tiny_tuples.write(root)
  options = tiny_tuples.options(
    root,
    epochs=1,
    whitening=sfm120k.NAME,
    scales=(1.0, 0.5),
    tests=(),
    pooling="spoc",
  )
  return pairs.fit(options, tiny_tuples.TinyNet).folder


def _photo():
  random = np.random.default_rng(5)
  small = random.integers(0, 256, [6, 8, 3], np.uint8)
  return Image.fromarray(small).resize((32, 24))


def test_extraction_gives_what_the_run_gave(run, tmp_path):
  size = pairs.export(run, tmp_path / "model", make_net=tiny_tuples.TinyNet)
  assert size == 6
  config = configs.read_delf_config(tmp_path / "model" / "config.pbtxt")
  assert list(config.image_scales) == [1.0, 0.5]
  assert config.max_image_size == 32
  found = extractor.make_extractor(config).extract(np.array(_photo()))
  _photo().save(tmp_path / "photo.png")
  image = utils.default_loader(tmp_path / "photo.png", 32)[None]
  net, _ = pairs.load(run, tiny_tuples.TinyNet)
  vectors = np.concatenate(
    [net(image), net(tf.image.resize(image, [12, 16]))]
  ).T
  whitening = whiten.read_whitening(run / pairs.WHITENING)
  expected = whiten.apply_whitening(vectors, *whitening).sum(axis=1)
  expected /= np.linalg.norm(expected)
  np.testing.assert_allclose(found.global_descriptor, expected, atol=1e-4)


def test_an_export_is_not_replaced_unasked(run, tmp_path):
  for overwrite in (False, True):
    pairs.export(run, tmp_path / "model", overwrite, tiny_tuples.TinyNet)
  with pytest.raises(errors.InputError, match="finished export"):
    pairs.export(run, tmp_path / "model", make_net=tiny_tuples.TinyNet)


def test_runs_that_cannot_be_exported(run, tmp_path):
  with pytest.raises(FileNotFoundError, match="settings.json"):
    pairs.load(tmp_path)
  (tmp_path / "settings.json").write_bytes((run / "settings.json").read_bytes())
  with pytest.raises(FileNotFoundError, match="best-"):
    pairs.load(tmp_path, tiny_tuples.TinyNet)
