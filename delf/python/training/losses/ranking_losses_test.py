import numpy as np
import pytest
import tensorflow as tf

from delf.python.training.losses import ranking_losses

_LOSSES = {
  "contrastive": ranking_losses.contrastive_loss,
  "triplet": ranking_losses.triplet_loss,
}
_MARGINS = (0.1, 0.7, 1.5)
# Cases with several queries, whose contrastive loss is wrong in the original:
# it repeats queries one by one and stacks images by kind, so that most pairs
# are of images that do not belong together.
_MIXED_UP = (0, 2)


@pytest.fixture(scope="module")
def golden(goldens):
  with np.load(goldens / "train_ranking_losses.npz") as found:
    return dict(found)


def _inputs(golden, case):
  return [tf.constant(golden[f"{name}{case}"]) for name in "qpn"]


def _with_gradients(loss, inputs, margin):
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    value = loss(*inputs, margin=margin)
  return value, tape.gradient(value, inputs)


@pytest.mark.parametrize("margin", _MARGINS)
@pytest.mark.parametrize("name", _LOSSES)
@pytest.mark.parametrize("case", range(4))
def test_agrees_with_the_original(golden, case, name, margin):
  if name == "contrastive" and case in _MIXED_UP:
    pytest.skip("the original compares queries with images of other queries")
  inputs = _inputs(golden, case)
  value, gradients = _with_gradients(_LOSSES[name], inputs, margin)
  key = f"{name}{case}_m{margin}"
  np.testing.assert_allclose(value, golden[key], rtol=1e-5)
  for part, gradient in zip("qpn", gradients, strict=True):
    expected = golden[f"{key}_grad_{part}"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", _LOSSES)
@pytest.mark.parametrize("case", _MIXED_UP)
def test_loss_of_several_queries_is_the_sum_of_that_of_each(golden, case, name):
  queries, positives, negatives = _inputs(golden, case)
  whole = _LOSSES[name](queries, positives, negatives, margin=1.5)
  parts = [
    _LOSSES[name](*(x[i : i + 1] for x in (queries, positives, negatives)), 1.5)
    for i in range(len(queries))
  ]
  np.testing.assert_allclose(whole, np.sum(parts), rtol=1e-6)


def test_classes_have_the_margins_of_the_original(golden):
  inputs = _inputs(golden, 3)
  for name, loss in (
    ("ContrastiveLoss", ranking_losses.ContrastiveLoss()),
    ("TripletLoss", ranking_losses.TripletLoss()),
  ):
    expected = golden[f"{name}3_default"]
    np.testing.assert_allclose(loss(*inputs), expected, rtol=1e-5)


def test_known_value_of_two_queries():
  queries = tf.constant([[0.0, 0.0], [1.0, 0.0]])
  positives = tf.constant([[0.6, 0.0], [1.0, 0.8]])
  negatives = tf.constant([[[0.0, 0.3]], [[2.0, 0.0]]])
  found = ranking_losses.contrastive_loss(queries, positives, negatives, 0.7)
  expected = 0.5 * (0.36 + 0.64 + 0.16)
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  found = ranking_losses.triplet_loss(queries, positives, negatives, 0.1)
  np.testing.assert_allclose(found, 0.36 - 0.09 + 0.1, rtol=1e-4)


def test_equal_descriptors_have_a_gradient_and_no_negatives_are_no_error():
  same = tf.ones([2, 4])
  for loss in _LOSSES.values():
    for negatives in (tf.ones([2, 3, 4]), tf.zeros([2, 0, 4])):
      inputs = [same, same, negatives]
      value, gradients = _with_gradients(loss, inputs, 0.7)
      assert np.isfinite(value)
      assert all(np.isfinite(g).all() for g in gradients)
