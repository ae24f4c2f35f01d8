"""Exported detectors find what they found before, and can be trained on."""

import keras
import numpy as np
import pytest

from delf.python import errors
from delf.python.inference import detector as inference
from delf.python.training.detector import export, network, trainer


@pytest.fixture(scope="module")
def detector():
  made = network.Detector()
  # Sure of itself, so that it has boxes: other scores in each cell.
  rng = np.random.default_rng(0)
  kernel, bias = made.head.score.get_weights()
  made.head.score.set_weights([rng.normal(0, 0.1, kernel.shape), bias * 0])
  return made


@pytest.fixture(scope="module")
def folder(detector, tmp_path_factory):
  path = tmp_path_factory.mktemp("exported") / "boxes"
  export.export(detector, path, extra=[("a.json", b"{}")])
  return path


def _image(height, width):
  rng = np.random.default_rng(3)
  return rng.integers(0, 256, [height, width, 3], dtype=np.uint8)


def test_export_finds_the_same_as_the_network(detector, folder):
  image = _image(120, 200)
  boxes, scores = export.finder(detector)(image)
  found = inference.load(folder, device="cpu").detect(image[None])[0]
  assert 0 < len(scores) <= export.MOST_BOXES
  np.testing.assert_allclose(found.boxes, boxes, atol=1e-5)
  np.testing.assert_allclose(found.scores, scores, atol=1e-5)
  assert (np.diff(scores) <= 0).all()
  assert set(found.classes) == {1}


def test_half_precision_changes_little(detector, folder):
  image = _image(network.SIDE, network.SIDE)[None]
  for one, two in zip(detector(image), export.load(folder)(image), strict=True):
    np.testing.assert_allclose(one, two, atol=5e-3)


def test_images_of_a_batch_are_apart(folder):
  model = inference.load(folder, device="cpu")
  images = np.stack([_image(90, 80), np.zeros([90, 80, 3], np.uint8)])
  both = model.detect(images)
  for image, found in zip(images, both, strict=True):
    alone = model.detect(image[None])[0]
    np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)


def test_is_small_and_has_its_extra_files(folder):
  files = [path for path in folder.rglob("*") if path.is_file()]
  assert sum(path.stat().st_size for path in files) <= 4_000_000
  assert (folder / "a.json").read_bytes() == b"{}"


def test_other_models_do_not_load(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match="checkpoint"):
    export.load(tmp_path)
  import tensorflow as tf

  module = tf.Module()
  module.other = tf.Variable(1.0)
  tf.saved_model.save(module, str(tmp_path / "other"))
  with pytest.raises(errors.InputError, match="expected a detector"):
    export.load(tmp_path / "other")


def _batch():
  boxes = np.tile(np.float32([0.2, 0.2, 0.7, 0.8]), (2, 1, 1))
  images = np.stack([_image(network.SIDE, network.SIDE)] * 2)
  return trainer.Batch(images, boxes, np.ones(2, np.float32), [0, 1])


@pytest.mark.parametrize("backbone_rate", [0.0, 1e-3])
def test_training_learns_and_goes_on(tmp_path, backbone_rate):
  keras.utils.set_random_seed(0)
  made = network.Detector()
  weights = made.head.get_weights()
  frozen = [w.copy() for w in made.backbone.get_weights()]
  learner = trainer.DetectorTrainer(made, 1e-2, backbone_rate)
  terms = [learner.learn(_batch(), 0.0) for _ in range(2)]
  learner.save(tmp_path / "a.npz")
  terms += [learner.learn(_batch(), 0.0) for _ in range(6)]
  assert terms[-1][2] > terms[0][2]
  same = [
    np.array_equal(one, two)
    for one, two in zip(frozen, made.backbone.get_weights(), strict=True)
  ]
  # Statistics, and what leads to descriptors alone, never change.
  assert any(same) and all(same) == (backbone_rate == 0)

  made.head.set_weights(weights)
  made.backbone.set_weights(frozen)
  again = trainer.DetectorTrainer(made, 1e-2, backbone_rate)
  again.resume(tmp_path / "a.npz")
  assert again.step == 2
  np.testing.assert_allclose(again.learn(_batch(), 0.0), terms[2], rtol=1e-3)


def test_checkpoint_of_something_else_is_refused(tmp_path):
  np.savez(tmp_path / "a.npz", step=1, seconds=2.0)
  learner = trainer.DetectorTrainer(network.Detector(), 1e-3)
  with pytest.raises(errors.InputError, match="score|mix"):
    learner.resume(tmp_path / "a.npz")
