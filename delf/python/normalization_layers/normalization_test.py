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


def test_one_operation_does_what_keras_does():
  # A layer that is synchronised goes through Keras.
  x = np.random.default_rng(1).normal(2.0, 3.0, (2, 3, 5, 4)).astype(np.float32)
  results = []
  for synchronized in (False, True):
    layer = normalization.BatchNormalization(synchronized=synchronized)
    layer.build(x.shape)
    layer.gamma.assign([1.0, 2.0, 0.5, -1.0])
    with tf.GradientTape() as tape:
      values = layer(x, training=True)
      loss = tf.reduce_sum(tf.square(values) * x)
    variables = [layer.gamma, layer.beta]
    results.append(
      [values, layer.moving_mean, layer.moving_variance]
      + tape.gradient(loss, [v.value for v in variables])
    )
  for fused, plain in zip(*results, strict=True):
    np.testing.assert_allclose(fused, plain, rtol=2e-4, atol=1e-4)
