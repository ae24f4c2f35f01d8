import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from delf.python.training.global_features import learning, settings
from delf.python.training.losses import ranking_losses
from tests import tiny_tuples


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


@pytest.mark.parametrize("name", settings.LOSSES)
def test_gradients_are_those_of_the_whole_tuple(name):
  net = _net()
  learner = learning.Learner(net, settings.Learning(name, margin=1.5))
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
  learner = learning.Learner(net, settings.Learning(margin=1e-6))
  back = learner._back
  learner._back = lambda image, up: calls.append(image.shape) or back(image, up)
  learner.learn(_tuple(0))
  assert calls == [(1, 24, 32, 3), (1, 40, 24, 3)]


def test_an_update_is_a_step_and_a_decay():
  net = _net()
  before = [w.numpy() for w in net.trainable_variables]
  learner = learning.Learner(
    net,
    settings.Learning(
      optimizer="sgd", rate=0.1, momentum=0.0, weight_decay=0.01
    ),
  )
  learner.learn(_tuple(0))
  sums = [s.numpy() for s in learner._sums]
  learner.update(epochs=50)
  decay = math.exp(-0.5)
  np.testing.assert_allclose(learner.rate(), 0.1 * decay, rtol=1e-6)
  for weight, old, gradient in zip(
    net.trainable_variables, before, sums, strict=True
  ):
    expected = old - 0.1 * decay * gradient - 0.01 * decay * old
    np.testing.assert_allclose(weight.numpy(), expected, atol=1e-6)
  assert not any(s.numpy().any() for s in learner._sums)


def test_a_loss_that_is_not_finite_changes_nothing():
  net = _net()
  learner = learning.Learner(net, settings.Learning())
  net.dense.bias.assign(np.full([6], np.nan))
  assert not math.isfinite(learner.learn(_tuple(0)))
  assert not any(s.numpy().any() for s in learner._sums)


@pytest.mark.parametrize("optimizer", settings.OPTIMIZERS)
def test_loss_falls(optimizer):
  rate = 0.01 if optimizer == "adam" else 0.1
  options = settings.Learning(optimizer=optimizer, rate=rate)
  learner = learning.Learner(_net(), options)
  images = _tuple(3)
  first = learner.loss(images)
  for _ in range(10):
    learner.learn(images)
    learner.update(0.0)
  assert learner.loss(images) < 0.7 * first


def test_no_negatives():
  learner = learning.Learner(_net(), settings.Learning())
  images = _tuple(0)[:2]
  assert learner.learn(images) == pytest.approx(learner.loss(images))
