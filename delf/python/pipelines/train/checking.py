"""A quick measure of held-out photos while a model learns."""

import numpy as np

_BATCHES, _PAIRS = 2, 4


def make(backbone, side, view, seed):
  """Returns a function that measures a backbone as it is.

  Args:
    backbone: CompactBackbone.
    side: collecting.Side of held-out photos.
    view: Pixels of a view's side.
    seed: Of the views.

  Returns:
    Function of no arguments: the share of points of fixed pairs of views that
    are each other's nearest among those of their pair.
  """
  import tensorflow as tf

  from delf.python.training.self_supervised import data

  number = min(_PAIRS, side.batch())
  batches = [
    data.Source(
      side.photos,
      side.pairs,
      data.Options(pairs=number, side=view, seed=(seed, 2, i)),
    ).batch()
    for i in range(_BATCHES)
  ]

  @tf.function
  def call(images):
    pixels = (tf.cast(images, tf.float32) - 128.0) / 128.0
    return backbone.local_call(pixels, training=False)

  def check():
    found = [_share(call(batch.images).numpy(), batch) for batch in batches]
    return float(np.mean(found))

  return check


def _share(local, batch):
  """Returns the share of points that are mutual nearest neighbours."""
  flat = local.reshape(len(local), -1, local.shape[-1])
  chosen = np.take_along_axis(flat, batch.cells[:, :, np.newaxis], axis=1)
  chosen = chosen / (np.linalg.norm(chosen, axis=2, keepdims=True) + 1e-9)
  right = total = 0
  for i, weights in enumerate(batch.weights):
    points = weights > 0
    one, two = chosen[i][points], chosen[i + len(batch.weights)][points]
    scores, rows = one @ two.T, np.arange(len(one))
    mutual = (scores.argmax(0) == rows) & (scores.argmax(1) == rows)
    right, total = right + mutual.sum(), total + len(one)
  return right / max(1, total)
