import types

import keras
import numpy as np

from delf.python.training.self_supervised import class_head, global_head


def _backbone(rows):
  """A backbone whose images are numbers of rows of what is embedded."""
  layer = keras.layers.Dense(8)
  layer.build([None, rows.shape[1]])
  keras.utils.set_random_seed(0)
  layer.kernel.assign(np.eye(rows.shape[1], 8, dtype=np.float32))
  return types.SimpleNamespace(embedding_layer=layer)


def _recall(backbone, rows, labels):
  kernel, bias = backbone.embedding_layer.get_weights()
  return global_head.recall(rows @ kernel + bias, labels)[0]


def test_photos_of_a_class_come_nearer(monkeypatch):
  generator = np.random.default_rng(0)
  labels = np.repeat(np.arange(6), 20)
  rows = generator.normal(size=[120, 8])
  rows[:, 6:] *= 6.0  # What says nothing is loud.
  rows[:, :6] += 2.5 * np.eye(6)[labels]
  training = np.arange(120) % 4 > 0
  backbone = _backbone(rows)
  monkeypatch.setattr(
    class_head, "_views", lambda *_: (rows[training], labels[training])
  )
  before = _recall(backbone, rows[~training], labels[~training])
  first, last = class_head.fit(backbone, [], labels[training])
  assert last < 0.7 * first
  assert _recall(backbone, rows[~training], labels[~training]) > before + 3


def test_the_same_seed_gives_the_same_embedding(monkeypatch):
  generator = np.random.default_rng(1)
  rows, labels = generator.normal(size=[30, 8]), np.arange(30) % 3
  monkeypatch.setattr(class_head, "_views", lambda *_: (rows, labels))
  options = class_head.Options(steps=20, batch=8)
  kernels = []
  for _ in range(2):
    backbone = _backbone(rows)
    class_head.fit(backbone, [], labels, options)
    kernels.append(backbone.embedding_layer.get_weights()[0])
  np.testing.assert_array_equal(*kernels)
