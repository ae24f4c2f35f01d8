import cv2
import numpy as np
import pytest
from keras import ops
from skimage import data as skimage_data

from delf.base import errors
from delf.learning import compact_training, view_pairs
from delf.networks import compact, heads


def _units(*shape):
  x = np.random.default_rng(0).normal(size=shape)
  x /= np.linalg.norm(x, axis=-1, keepdims=True)
  return x.astype(np.float32)


def test_keypoint_loss_is_the_weighted_cross_entropy():
  logits = np.zeros([1, 1, 2, 64], np.float32)
  logits[0, 0, 0, 27] = 3.0  # (-1, -1)
  offsets = np.array([[[-1.0, -0.8], [2.0, 1.0]]], np.float32)
  weights = np.array([[1.0, 0.0]], np.float32)
  loss = float(compact_training.keypoint_loss(logits, offsets, weights))
  y, x = np.mgrid[-4:4, -4:4]
  target = np.exp(-0.5 * ((y + 1) ** 2 + (x + 0.8) ** 2) / 0.6**2)
  share = (target / target.sum())[3, 3]
  assert 0.3 < share < 0.5
  assert loss == pytest.approx(np.log(63 + np.exp(3)) - 3 * share, abs=1e-4)
  both = float(
    compact_training.keypoint_loss(logits, offsets, np.ones_like(weights))
  )
  assert both == pytest.approx((loss + np.log(64)) / 2, abs=1e-4)


def test_descriptor_loss_is_the_definition():
  first, second = _units(2, 3, 8), _units(2, 3, 8)[::-1].copy()
  far = 100.0 * np.arange(3, dtype=np.float32)
  points = np.tile(np.stack([far, far], -1), (2, 1, 1))
  loss, probability, _ = compact_training.descriptor_loss(
    first, second, points, points, np.ones([2, 3], np.float32)
  )
  logits = first.reshape(6, 8) @ second.reshape(6, 8).T
  logits = np.exp(logits.astype(np.float64) / compact_training.TEMPERATURE)
  true = np.diag(logits)
  expected = -0.5 * np.log(true**2 / logits.sum(0) / logits.sum(1))
  np.testing.assert_allclose(np.ravel(loss), expected, rtol=1e-4)
  np.testing.assert_allclose(
    np.ravel(probability), np.exp(-expected), rtol=1e-3
  )


def test_near_points_and_padding_are_no_negatives():
  same = np.tile(_units(1, 1, 8), (1, 3, 1))
  points = np.array([[[0, 0], [5, 5], [900, 900]]], np.float32)
  weights = np.array([[1, 1, 0]], np.float32)
  loss, _, nearest = compact_training.descriptor_loss(
    same, same, points, points, weights
  )
  np.testing.assert_allclose(np.array(loss)[0, :2], 0, atol=1e-5)
  assert np.array(nearest)[0, :2].tolist() == [1, 1]
  far = 100 * points
  loss, _, _ = compact_training.descriptor_loss(same, same, far, far, weights)
  np.testing.assert_allclose(np.array(loss)[0, :2], np.log(2), atol=1e-4)


def test_attention_loss_is_least_at_its_target():
  logits = np.linspace(-4, 4, 81)
  scores = np.log1p(np.exp(logits)).astype(np.float32)
  entropies = [
    float(
      compact_training.attention_loss(s[None, None], 0.3 * np.ones([1, 1]), 1.0)
    )
    for s in scores
  ]
  best = 1 / (1 + np.exp(-logits[np.argmin(entropies)]))
  assert best == pytest.approx(0.3, abs=0.03)


@pytest.fixture(scope="module")
def batch():
  image = cv2.resize(skimage_data.astronaut(), (320, 320))
  other = cv2.resize(skimage_data.coffee(), (320, 240))
  pool = [
    view_pairs.Photo("a", image, 0, 0),
    view_pairs.Photo("b", other, 1, 1),
  ]
  return view_pairs.Source(
    pool, [], view_pairs.Options(pairs=2, side=96, seed=1)
  ).batch()


def _learner(path):
  return compact_training.CompactTrainer(
    compact.CompactBackbone(),
    heads.AttentionModel(),
    path=path,
    warm_up=1,
    side=96,
  )


@pytest.mark.slow
def test_one_batch_is_learnt_and_training_continues(batch, tmp_path):
  learner = _learner(tmp_path / "checkpoint.npz")
  losses = [learner.learn(batch, 0.0)["local"] for _ in range(25)]
  assert losses[-1] < 0.6 * losses[0]
  learner.save()
  other = _learner(tmp_path / "checkpoint.npz")
  other.resume()
  assert other.step == 25
  pixels = ops.zeros([1, 32, 32, 3])
  np.testing.assert_array_equal(
    np.array(other.backbone.local_call(pixels, training=False)),
    np.array(learner.backbone.local_call(pixels, training=False)),
  )
  (tmp_path / "checkpoint.npz").write_bytes(b"no arrays")
  with pytest.raises(errors.InputError, match="a checkpoint of training"):
    other.resume()
