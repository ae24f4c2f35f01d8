"""Pooling layers against the original, and where they part from it.

Not as the original, for these are its defects:
- `GeMPooling2D(strides=None)`: steps of the window, as it documents, where it
  made steps of 1 (golden GeMPooling2D_0);
- `GeMPooling2D` of negative values: as of 1e-6, where it gave NaN (golden
  GeMPooling2D_negative_input).
"""

import numpy as np
import pytest
import tensorflow as tf

from delf.python.pooling_layers import pooling


@pytest.fixture(scope="module")
def golden(goldens):
  with np.load(goldens / "train_pooling.npz", allow_pickle=False) as file:
    return dict(file)


def _equal(value, expected):
  np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)


def test_functions_and_layers(golden):
  x = golden["x"]
  _equal(pooling.mac(x), golden["mac"])
  _equal(pooling.MAC()(x), golden["mac"])
  _equal(pooling.spoc(x), golden["spoc"])
  _equal(pooling.SPoC()(x), golden["spoc"])


@pytest.mark.parametrize("power", [1, 3, 4.37, 20])
def test_gem(golden, power):
  x = golden["x"]
  _equal(pooling.gem(x, power=power), golden[f"gem_p{power}"])
  _equal(pooling.GeM(power)(x), golden[f"GeM_p{power}"])


def test_gem_options_and_gradient(golden):
  x = tf.constant(golden["x"])
  _equal(pooling.gem(x, axis=[1, 2], eps=1e-3), golden["gem_axis12_eps1e-3"])
  with tf.GradientTape() as tape:
    tape.watch(x)
    total = tf.reduce_sum(pooling.gem(x) * tf.range(1.0, 9.0))
  _equal(tape.gradient(total, x), golden["gem_grad_p3"])


def test_layers_take_axes():
  x = np.random.default_rng(0).uniform(size=(2, 3, 4, 5)).astype(np.float32)
  _equal(pooling.MAC()(x, axis=(2, 3)), x.max(axis=(2, 3)))
  _equal(pooling.GeM(1.0)(x, axis=[3]), x.mean(axis=3))
  _equal(pooling.MAC()(x, axis=1), x.max(axis=1))
  _equal(pooling.SPoC()(x, axis=-1), x.mean(axis=-1))
  _equal(pooling.GeM(1.0)(x, axis=2), x.mean(axis=2))


# The first one was recorded with `strides=None`.
@pytest.mark.parametrize(
  "name, options",
  [
    ("GeMPooling2D_0", {"power": 3.0, "strides": (1, 1)}),
    ("GeMPooling2D_1", {"power": 3.0, "strides": (1, 1), "padding": "same"}),
    ("GeMPooling2D_2", {"power": 3.0, "pool_size": (3, 3), "strides": (2, 2)}),
    ("GeMPooling2D_defaultpower20", {"strides": (2, 2)}),
  ],
)
def test_gem_windows(golden, name, options):
  value = pooling.GeMPooling2D(**options)(np.abs(golden["x"]))
  _equal(value, golden[name])


def test_gem_windows_step_by_their_size_by_default():
  x = np.arange(1.0, 25.0, dtype=np.float32).reshape(1, 4, 6, 1)
  means = pooling.GeMPooling2D(power=1.0, pool_size=(2, 3))(x)
  expected = x.reshape(2, 2, 2, 3).mean(axis=(1, 3)).reshape(1, 2, 2, 1)
  _equal(means, expected)


def test_gem_windows_of_negative_values(golden):
  assert np.isnan(golden["GeMPooling2D_negative_input"]).any()
  x = golden["x"]
  value = pooling.GeMPooling2D(power=3.0)(x)
  assert np.isfinite(value).all()
  _equal(value, pooling.GeMPooling2D(power=3.0)(np.maximum(x, 1e-6)))


def test_gem_windows_of_zeros_have_finite_gradients():
  x = tf.constant(
    np.pad(np.ones((1, 2, 2, 1), np.float32), [(0, 0), (0, 4), (0, 0), (0, 0)])
  )
  with tf.GradientTape() as tape:
    tape.watch(x)
    total = tf.reduce_sum(pooling.GeMPooling2D()(x))
  gradient = tape.gradient(total, x).numpy()
  assert np.isfinite(gradient).all()
  np.testing.assert_allclose(gradient[0, :2], 0.25, rtol=1e-5)
