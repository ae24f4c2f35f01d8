"""Tests of the pooling by words, against sums written out."""

import numpy as np
import pytest

from delf.python.pooling_layers import soft_vlad


def _expected(features, words, temperature):
  rows = []
  for each in features.reshape(len(features), -1, features.shape[-1]):
    lengths = np.linalg.norm(each, axis=1)
    units = each / lengths[:, None]
    sums = np.zeros_like(words)
    for unit, length in zip(units, lengths, strict=True):
      shares = np.exp(words @ unit / temperature)
      shares = length * shares / shares.sum()
      sums += shares[:, None] * (unit - words)
    sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    rows.append(sums.ravel() / np.sqrt(len(words)))
  return np.array(rows)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_it_is_the_sum_of_weighted_residuals(temperature):
  rng = np.random.default_rng(3)
  features = rng.normal(size=(2, 3, 5, 8)).astype(np.float32)
  layer = soft_vlad.SoftVLAD(4, temperature)
  found = np.array(layer(features))
  words = layer.words.numpy()
  np.testing.assert_allclose(np.linalg.norm(words, axis=1), 1, atol=1e-5)
  np.testing.assert_allclose(
    found, _expected(features, words, temperature), atol=1e-5
  )
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)


def test_neither_places_nor_the_size_of_all_features_matter():
  rng = np.random.default_rng(4)
  features = rng.normal(size=(1, 6, 4, 8)).astype(np.float32)
  layer = soft_vlad.SoftVLAD(3)
  first = np.array(layer(features))
  moved = rng.permutation(features.reshape(24, 8)).reshape(1, 3, 8, 8)
  np.testing.assert_allclose(np.array(layer(9 * moved)), first, atol=1e-5)


def test_no_texture_gives_finite_values():
  layer = soft_vlad.SoftVLAD(3)
  assert np.isfinite(layer(np.zeros([1, 2, 2, 8], np.float32))).all()
