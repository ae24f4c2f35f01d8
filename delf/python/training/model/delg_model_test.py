"""The cosine classifier, ArcFace, and DELG."""

import numpy as np
import pytest
import tensorflow as tf

from delf.python.training.model import delg_model

_MARGINS = ["0", "0.1", "0.5"]


@pytest.fixture(scope="module")
def golden(goldens):
  with np.load(goldens / "train_arcface.npz", allow_pickle=False) as file:
    return dict(file)


def _logits(golden, prelogits, weights, margin, training):
  return delg_model.cosine_classifier_logits(
    prelogits, golden["labels"], 9, weights, 45.25, float(margin), training
  )


@pytest.mark.parametrize("margin", _MARGINS)
@pytest.mark.parametrize("training", [False, True])
def test_logits(golden, margin, training):
  value = _logits(
    golden, golden["prelogits"], golden["cosine_weights"], margin, training
  )
  expected = golden[f"logits_m{margin}_train{int(training)}"]
  # Rows 0 and 1 are parallel to their class, where rounding is amplified.
  np.testing.assert_allclose(value[:2] / 45.25, expected[:2] / 45.25, atol=2e-3)
  np.testing.assert_allclose(value[2:], expected[2:], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("margin", _MARGINS)
def test_loss_and_gradients(golden, margin):
  prelogits = tf.constant(golden["prelogits"])
  weights = tf.constant(golden["cosine_weights"])
  with tf.GradientTape() as tape:
    tape.watch([prelogits, weights])
    logits = _logits(golden, prelogits, weights, margin, True)
    loss = tf.reduce_mean(
      tf.nn.sparse_softmax_cross_entropy_with_logits(golden["labels"], logits)
    )
  gradients = tape.gradient(loss, [prelogits, weights])
  np.testing.assert_allclose(loss, golden[f"loss_m{margin}"], rtol=1e-3)
  labels = golden["labels"]
  columns = [i for i in range(9) if i not in labels[:2]]
  for value, key, where in (
    (gradients[0], "prelogits", np.s_[2:]),
    (gradients[1], "weights", np.s_[:, columns]),
  ):
    # The original's are NaN at cosines of 1 and -1; these are not.
    assert np.isfinite(value).all()
    expected = golden[f"loss_m{margin}_grad_{key}"][where]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
      value.numpy()[where], expected, rtol=1e-3, atol=1e-5 * scale
    )


def test_margin(golden):
  cosines = golden["margin_cos_in"]
  one_hot = np.zeros_like(cosines)
  one_hot[:, 0] = 1
  value = delg_model.apply_arcface_margin(cosines, one_hot, 0.1)
  np.testing.assert_allclose(
    value, golden["margin_cos_out_m0.1"], rtol=1e-5, atol=2e-3
  )
  np.testing.assert_array_equal(value[:, 1], cosines[:, 1])


def test_margin_by_its_definition():
  angles = np.linspace(0.01, np.pi - 0.01, 50)
  expected = np.where(
    angles <= np.pi - 0.3, np.cos(angles + 0.3), np.cos(angles)
  )
  value = delg_model.apply_arcface_margin(
    np.cos(angles)[:, None].astype(np.float32), np.ones((50, 1), bool), 0.3
  )
  np.testing.assert_allclose(np.ravel(value), expected, atol=1e-5)


def test_gradient_of_the_margin_is_finite_at_the_poles():
  cosines = tf.constant([[1.0], [-1.0], [1.0 + 1e-6], [-1.0 - 1e-6], [0.5]])
  with tf.GradientTape() as tape:
    tape.watch(cosines)
    value = delg_model.apply_arcface_margin(cosines, tf.ones((5, 1)), 0.1)
  assert np.isfinite(value).all()
  assert np.isfinite(tape.gradient(value, cosines)).all()


def test_model():
  model = delg_model.Delg(
    backbone="compact", embedding_layer_dim=24, arcface_margin=0.3
  )
  images = np.random.default_rng(0).normal(size=(2, 64, 64, 3))
  images = images.astype(np.float32)
  model.init_classifiers(6)
  assert float(model.scale_factor) == 45.25
  assert model.cosine_weights.shape == (24, 6)
  trained = {id(v) for v in model.desc_trainable_weights}
  assert id(model.cosine_weights) in trained
  assert id(model.scale_factor) not in {id(v) for v in model.trainable_weights}
  prelogits = model.global_call(images, training=False)
  labels = np.array([5, 0])
  plain = model.desc_classification(prelogits, labels, training=False)
  margined = model.desc_classification(prelogits, labels)
  differs = np.abs(np.asarray(plain) - np.asarray(margined)) > 1e-3
  assert differs.tolist() == np.eye(6, dtype=bool)[labels].tolist()
  with pytest.raises(RuntimeError):
    model.init_classifiers(6)
