"""Tests of the whitening of global descriptors."""

import numpy as np
from skimage import data as skimage_data

from delf.python.training.model import backbones
from delf.python.training.self_supervised import global_head, photos


def test_whitening_ignores_what_differs_in_one_place():
  # Two values tell places apart; six, a hundred times as large, change with
  # the light. Whitening finds the two.
  random = np.random.default_rng(0)
  groups = np.repeat(np.arange(60), 2)
  mixing = np.linalg.qr(random.normal(size=(8, 8)))[0]
  place = random.normal(size=(60, 2))[groups]
  light = 100 * random.normal(size=(120, 6))
  rows = np.hstack([place, light]) @ mixing + 5
  plain, number = global_head.recall(rows - rows.mean(0), groups)
  assert number == 120
  global_head_kernel, bias = global_head.whitening(
    rows[::2], rows[1::2], rows, 2, shrinkage=1e-9
  )
  white = rows @ global_head_kernel + bias
  assert plain < 0.2 * number
  assert global_head.recall(white, groups)[0] > 0.9 * number
  np.testing.assert_allclose(white.mean(0), 0, atol=1e-3)


def test_recall_counts_nearest_photos_of_the_group():
  rows = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0.0]])
  assert global_head.recall(rows, np.array([0, 0, 1, 1, 2])) == (4, 4)
  assert global_head.recall(rows, np.array([0, 1, 0, 1, 2])) == (0, 4)


def test_words_and_embedding_tell_places_apart():
  wholes = [skimage_data.astronaut(), skimage_data.coffee()]
  wholes += [skimage_data.chelsea(), skimage_data.rocket()]
  images = [
    np.ascontiguousarray(whole[y : y + 120, x : x + 120])
    for whole in wholes
    for y in (0, 150)
    for x in (0, 200)
  ]
  shown = [photos.Photo(str(i), image, i, i) for i, image in enumerate(images)]
  backbone = backbones.make("compact", words=4, embedding_layer_dim=8)
  global_head.fit(backbone, shown, [], seed=0)
  words = backbone.pool.words.numpy()
  np.testing.assert_allclose(np.linalg.norm(words, axis=1), 1, atol=1e-5)
  assert np.linalg.matrix_rank(words) == 4
  layer = backbone.embedding_layer
  # The first of the views that it was made from.
  rng = np.random.default_rng(0)
  views = [global_head._view(rng, image) for image in images]
  rows = np.concatenate(
    [global_head.pooled(backbone, each) for each in (images, views)]
  )
  embedded = rows @ layer.kernel.numpy() + layer.bias.numpy()
  np.testing.assert_allclose(embedded[: len(images)].mean(0), 0, atol=1e-2)
  groups = np.tile(np.arange(len(images)), 2)
  before, number = global_head.recall(rows, groups)
  assert before < 0.6 * number
  assert global_head.recall(embedded, groups)[0] > 0.9 * number
