"""Exported detectors find what they found before, and can be trained on."""

import keras
import numpy as np
import pytest

from delf.base import errors
from delf.inference import detector as inference
from delf.learning import detector_network, detector_training


@pytest.fixture(scope="module")
def detector():
  made = detector_network.Detector()
  # Sure of itself, so that it has boxes: other scores in each cell.
  rng = np.random.default_rng(0)
  kernel, bias = made.head.score.get_weights()
  made.head.score.set_weights([rng.normal(0, 0.1, kernel.shape), bias * 0])
  return made


@pytest.fixture(scope="module")
def folder(detector, tmp_path_factory):
  path = tmp_path_factory.mktemp("exported") / "boxes"
  detector_network.export(detector, path, extra=[("a.json", b"{}")])
  return path


def _image(height, width):
  rng = np.random.default_rng(3)
  return rng.integers(0, 256, [height, width, 3], dtype=np.uint8)


@pytest.mark.slow
def test_export_finds_the_same_as_the_network(detector, folder):
  image = _image(120, 200)
  boxes, scores = detector_network.finder(detector)(image)
  found = inference.load(folder, device="cpu").detect(image[None])[0]
  assert 0 < len(scores) <= detector_network.MOST_BOXES
  np.testing.assert_allclose(found.boxes, boxes, atol=1e-5)
  np.testing.assert_allclose(found.scores, scores, atol=1e-5)
  assert (np.diff(scores) <= 0).all()
  assert set(found.classes) == {1}


@pytest.mark.slow
def test_half_precision_changes_little(detector, folder):
  image = _image(detector_network.SIDE, detector_network.SIDE)[None]
  for one, two in zip(
    detector(image), detector_network.load(folder)(image), strict=True
  ):
    np.testing.assert_allclose(one, two, atol=5e-3)


@pytest.mark.slow
def test_images_of_a_batch_are_apart(folder):
  model = inference.load(folder, device="cpu")
  images = np.stack([_image(90, 80), np.zeros([90, 80, 3], np.uint8)])
  both = model.detect(images)
  for image, found in zip(images, both, strict=True):
    alone = model.detect(image[None])[0]
    np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)


@pytest.mark.slow
def test_is_small_and_has_its_extra_files(folder):
  files = [path for path in folder.rglob("*") if path.is_file()]
  assert sum(path.stat().st_size for path in files) <= 4_000_000
  assert (folder / "a.json").read_bytes() == b"{}"


@pytest.mark.slow
def test_other_models_do_not_load(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match="checkpoint"):
    detector_network.load(tmp_path)
  import tensorflow as tf

  module = tf.Module()
  module.other = tf.Variable(1.0)
  tf.saved_model.save(module, str(tmp_path / "other"))
  with pytest.raises(errors.InputError, match="not a detector of this library"):
    detector_network.load(tmp_path / "other")


def _batch():
  boxes = np.tile(np.float32([0.2, 0.2, 0.7, 0.8]), (2, 1, 1))
  images = np.stack([_image(detector_network.SIDE, detector_network.SIDE)] * 2)
  return detector_training.Batch(images, boxes, [0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("backbone_rate", [0.0, 1e-3])
def test_training_learns_and_goes_on(tmp_path, backbone_rate):
  keras.utils.set_random_seed(0)
  made = detector_network.Detector()
  weights = made.head.get_weights()
  frozen = [w.copy() for w in made.backbone.get_weights()]
  path = tmp_path / "a.npz"
  learner = detector_training.DetectorTrainer(
    made, 1e-2, backbone_rate, path=path
  )
  terms = [learner.learn(_batch(), 0.0) for _ in range(2)]
  learner.save()
  terms += [learner.learn(_batch(), 0.0) for _ in range(6)]
  assert terms[-1]["overlap"] > terms[0]["overlap"]
  same = [
    np.array_equal(one, two)
    for one, two in zip(frozen, made.backbone.get_weights(), strict=True)
  ]
  # Statistics, and what leads to descriptors alone, never change.
  assert any(same) and all(same) == (backbone_rate == 0)

  made.head.set_weights(weights)
  made.backbone.set_weights(frozen)
  again = detector_training.DetectorTrainer(
    made, 1e-2, backbone_rate, path=path
  )
  again.resume()
  assert again.step == 2
  assert again.learn(_batch(), 0.0) == pytest.approx(terms[2], rel=1e-3)


def test_checkpoint_of_something_else_is_refused(tmp_path):
  np.savez(tmp_path / "a.npz", step=1, seconds=2.0)
  learner = detector_training.DetectorTrainer(
    detector_network.Detector(), 1e-3, path=tmp_path / "a.npz"
  )
  with pytest.raises(errors.InputError, match="score|mix"):
    learner.resume()


_CELLS = detector_network.cell_centres()
_BOXES = np.float32([[[0.2, 0.2, 0.8, 0.8], [0.4, 0.4, 0.6, 0.6], [0] * 4]])


def test_cells_answer_for_a_box_of_either_size():
  answers, spared, wanted = detector_network.assign(_CELLS, _BOXES)
  large = detector_network.SIZES * np.argmin(np.abs(_CELLS - 0.5).sum(1))
  for i in range(detector_network.SIZES):
    assert answers[0, large + i] == 1
    np.testing.assert_array_equal(wanted[0, large + i], _BOXES[0, i])
  corner = detector_network.SIZES * np.argmin(np.abs(_CELLS - 0.05).sum(1))
  assert not np.any(answers[0, corner : corner + detector_network.SIZES])
  assert not np.any(spared[0, corner : corner + detector_network.SIZES])
  assert not np.any((np.array(answers) > 0) & (np.array(spared) > 0))


def test_smallest_box_of_a_size_has_the_cell():
  boxes = np.float32([[[0.3, 0.3, 0.6, 0.6], [0.4, 0.4, 0.5, 0.5]]])
  _, _, wanted = detector_network.assign(_CELLS, boxes)
  cell = np.argmin(np.abs(_CELLS - 0.45).sum(1))
  np.testing.assert_array_equal(
    wanted[0, detector_network.SIZES * cell + 1], boxes[0, 1]
  )


def test_no_boxes_have_no_answers():
  answers, spared, _ = detector_network.assign(
    _CELLS, np.zeros([1, 2, 4], np.float32)
  )
  assert not np.any(answers) and not np.any(spared)


def test_overlap_and_generalised_overlap():
  one = np.float32([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]])
  two = np.float32([[0, 0, 0.5, 1], [0.5, 0.5, 1, 1]])
  overlap, general = detector_network.overlaps(one, two)
  np.testing.assert_allclose(overlap, [0.5, 0])
  np.testing.assert_allclose(general, [0.5, -0.5])


def _loss(logits, found):
  return detector_network.loss(logits, found, _CELLS, _BOXES)


def test_right_boxes_and_scores_cost_less():
  answers, _, wanted = (
    np.array(x) for x in detector_network.assign(_CELLS, _BOXES)
  )
  right = np.where(answers > 0, 8, -8).astype(np.float32)
  good, fit, overlap = _loss(right, wanted)
  np.testing.assert_allclose([fit, overlap], [0, 1], atol=1e-5)
  wrong, _, _ = _loss(-right, wanted)
  assert good < 0.01 < wrong
  _, shifted, less = _loss(right, np.clip(wanted + 0.1, 0, 1))
  assert shifted > 0.2 and less < 0.8


def test_photos_count_the_same():
  boxes = np.concatenate([_BOXES, _BOXES])
  _, _, wanted = (np.array(x) for x in detector_network.assign(_CELLS, boxes))
  found = np.stack([wanted[0], np.clip(wanted[1] + 0.1, 0, 1)])
  logits = np.zeros(found.shape[:2], np.float32)
  _, fit, _ = detector_network.loss(logits, found, _CELLS, boxes)
  _, alone, _ = detector_network.loss(logits[1:], found[1:], _CELLS, boxes[1:])
  np.testing.assert_allclose(fit, alone / 2, rtol=1e-4)
