"""L2 normalisation against the original."""

import numpy as np
import tensorflow as tf

from delf.python.normalization_layers import normalization


def test_layer(goldens):
  with np.load(goldens / "train_pooling.npz", allow_pickle=False) as golden:
    layer = normalization.L2Normalization()
    for axis in (0, 1):
      value = layer(golden["l2_in"], axis=axis)
      np.testing.assert_allclose(value, golden[f"l2_axis{axis}"], rtol=1e-5)
    np.testing.assert_array_equal(layer(golden["l2_in"]), value)


def test_function_is_that_of_tensorflow():
  x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
  x[1] *= 1e-9
  for axis in (0, -1, (1, 2)):
    np.testing.assert_allclose(
      normalization.l2_normalize(x, axis),
      tf.math.l2_normalize(x, axis),
      rtol=1e-6,
    )


def test_zeros_stay_and_have_a_finite_gradient():
  x = tf.zeros((2, 3))
  with tf.GradientTape() as tape:
    tape.watch(x)
    y = normalization.L2Normalization()(x)
  np.testing.assert_array_equal(y, np.zeros((2, 3)))
  assert np.isfinite(tape.gradient(y, x)).all()
