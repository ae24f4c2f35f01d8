"""Self-supervised training of the compact model: losses and learner."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from delf.learning import loop, view_pairs
from delf.networks import heads
from delf.python.normalization_layers import normalization

# Points of a pair nearer than this, in pixels, are not each other's negatives.
NEAR = 12.0

# Divisor of the cosine similarities of descriptors.
TEMPERATURE = 0.06

# Standard deviation, in pixels, of the target around a keypoint.
KEYPOINT_SPREAD = 0.6

_MASKED = -1e4
_ATTENTION_WEIGHT, _KEYPOINT_WEIGHT = 0.5, 0.3


class CompactTrainer(loop.FileLearner):
  """Trains the compact model without its global head (see `compact_model`).

  Metrics of a step are the losses of descriptors, attention and keypoints, the
  share of points that are mutual nearest neighbours (`found`), and the mean
  attention (`score`).
  """

  terms = ("local", "attention", "keypoint", "found", "score")

  def __init__(  # noqa: PLR0913
    self,
    backbone: Any,
    attention: Any,
    draw: Callable[[int], view_pairs.Batch] | None = None,
    path: str | os.PathLike | None = None,
    rate: float = 1.5e-3,
    warm_up: int = 200,
    side: int = 192,
    held_out: Sequence[view_pairs.Batch] = (),
  ):
    """Build all variables; see `FileLearner`.

    Args:
      backbone: compact.CompactBackbone.
      attention: heads.AttentionModel.
      draw: Function that draws the batch of a step.
      path: File of the checkpoint.
      rate: Highest learning rate; it falls to 0.01 of it along a cosine.
      warm_up: Steps over which the rate rises.
      side: Side of a view in pixels.
      held_out: Batches to measure with.
    """
    super().__init__(draw, path)
    self.backbone, self.attention = backbone, attention
    self._rate, self._warm_up, self._held_out = rate, warm_up, held_out
    backbone(np.zeros([1, side, side, 3], np.float32), training=False)
    cells = [1, 4, 4, backbone.local_channels]
    attention(np.zeros(cells, np.float32), training=False)
    head = backbone.pool.variables + backbone.embedding_layer.variables
    head_ids = {id(v) for v in head}
    self._trainable = [
      v
      for v in backbone.trainable_variables + attention.trainable_variables
      if id(v) not in head_ids
    ]
    self._optimizer = keras.optimizers.AdamW(
      rate, weight_decay=1e-4, global_clipnorm=5.0
    )
    self._optimizer.build(self._trainable)
    self._train = tf.function(self._step, reduce_retracing=True)
    self._evaluate = tf.function(
      lambda *parts: tf.stack(self._terms(False, *parts)),
      reduce_retracing=True,
    )

  def variables(self) -> list:
    """Return the variables of the models, then those of the optimizer."""
    models = self.backbone.variables + self.attention.variables
    return models + self._optimizer.variables

  def learn(self, batch: view_pairs.Batch, spent: float) -> dict[str, float]:
    """Make one step."""
    rate = loop.cosine_rate(spent, self.step, self._warm_up)
    self._optimizer.learning_rate.assign(self._rate * rate)
    self.step += 1
    return self.metrics(self._train(*_parts(batch)))

  def evaluate(self, batch: view_pairs.Batch) -> dict[str, float]:
    """Return the metrics of a batch, without a training step."""
    return self.metrics(self._evaluate(*_parts(batch)))

  def measure(self) -> dict[str, float]:
    """Return the share of mutual nearest neighbours in held-out batches."""
    if not self._held_out:
      return {}
    shares = [self.evaluate(batch)["found"] for batch in self._held_out]
    return {"held_out": float(np.mean(np.array(shares, np.float32)))}

  def _step(self, *parts):
    with tf.GradientTape() as tape:
      terms = self._terms(True, *parts)
      total = terms[0] + _ATTENTION_WEIGHT * terms[1]
      total += _KEYPOINT_WEIGHT * terms[2]
    gradients = tape.gradient(total, self._trainable)
    self._optimizer.apply_gradients(
      zip(gradients, self._trainable, strict=True)
    )
    return tf.stack(terms)

  def _terms(self, training, images, points, weights, corners):
    pairs = weights.shape[0]
    pixels = (tf.cast(images, tf.float32) - 128.0) / 128.0
    cells, logits = self.backbone.cells_call(pixels, training=training)
    at = points[..., ::-1] / heads.STRIDE
    raw = tf.cast(heads.interpolate(cells, at), tf.float32)
    descriptors: Any = normalization.l2_normalize(raw, axis=-1, epsilon=1e-6)
    loss, probability, nearest = descriptor_loss(
      descriptors[:pairs],
      descriptors[pairs:],
      points[:pairs],
      points[pairs:],
      weights,
    )
    _, scores, _ = self.attention(raw[:, :, None], training=training)
    scores = tf.cast(scores[:, :, 0, 0], tf.float32)
    target = tf.stop_gradient(probability)
    attention = attention_loss(
      scores, tf.concat([target, target], 0), tf.concat([weights, weights], 0)
    )
    return [
      _mean(loss, weights * (0.2 + target)),
      attention,
      keypoint_loss(logits, *corners),
      _mean(nearest, weights),
      _mean(scores[:pairs], weights),
    ]


def _parts(batch):
  corners = (batch.offsets, batch.sureness)
  return batch.images, batch.points, batch.weights, corners


def descriptor_loss(
  first: Any, second: Any, points_1: Any, points_2: Any, weights: Any
) -> tuple[Any, Any, Any]:
  """Contrast each correspondence with all others of the batch.

  The negative logarithm of the softmax over rows and over columns of the
  similarity matrix (InfoNCE, van den Oord et al. 2018, in both directions).
  Points of one pair within NEAR pixels of each other are not negatives.

  Args:
    first: [P, K, C], unit descriptors in the first views.
    second: [P, K, C], descriptors of the same points in the second views.
    points_1: [P, K, 2], positions in the first views, in pixels.
    points_2: [P, K, 2], positions in the second views.
    weights: [P, K], 0 for padding.

  Returns:
    Three tensors [P, K]: the loss of each point; the probability of its match,
    a geometric mean of both directions; 1 for mutual nearest neighbours.
  """
  pairs, number, channels = first.shape
  total = pairs * number
  first = ops.reshape(first, [total, channels])
  second = ops.reshape(second, [total, channels])
  logits = ops.matmul(first, ops.transpose(second)) / TEMPERATURE
  ignored = _ignored(points_1, points_2, weights)
  logits = ops.where(ignored, _MASKED, logits)
  true = ops.diagonal(logits)
  rows = true - ops.logsumexp(logits, axis=1)
  columns = true - ops.logsumexp(logits, axis=0)
  nearest = (true >= ops.max(logits, axis=1)) & (
    true >= ops.max(logits, axis=0)
  )
  shape = [pairs, number]
  return (
    ops.reshape(-0.5 * (rows + columns), shape),
    ops.reshape(ops.exp(0.5 * (rows + columns)), shape),
    ops.reshape(ops.cast(nearest, "float32"), shape),
  )


def _ignored(points_1, points_2, weights):
  """Return a mask of entries that are neither matches nor negatives."""
  pairs, number = weights.shape
  total = pairs * number
  near = ops.zeros([pairs, number, number], dtype="bool")
  for points in (points_1, points_2):
    gap = ops.expand_dims(points, 2) - ops.expand_dims(points, 1)
    near = near | (ops.sum(ops.square(gap), axis=-1) < NEAR**2)
  near = ops.cast(near, "float32")
  same = ops.reshape(ops.eye(pairs), [pairs, 1, pairs, 1])
  near = ops.reshape(ops.expand_dims(near, 2) * same, [total, total])
  padding = ops.reshape(weights, [total]) < 0.5
  either = ops.expand_dims(padding, 0) | ops.expand_dims(padding, 1)
  either = ops.cast(either, "float32")
  return (near + either) * (1.0 - ops.eye(total)) > 0.5


def attention_loss(scores: Any, target: Any, weights: Any) -> Any:
  """Return the mean cross entropy of attention with match probabilities.

  Scores [P, K] are outputs of softplus, so that 1 - exp(-score) is the logistic
  function of the logit; `target` is [P, K].
  """
  positive = -ops.log(1.0 - ops.exp(-scores) + 1e-6)
  entropy = target * positive + (1.0 - target) * scores
  return _mean(entropy, weights)


def keypoint_loss(logits: Any, offsets: Any, weights: Any) -> Any:
  """Return the mean cross entropy of the keypoint's pixel in each cell.

  Logits are [B, H, W, PIXELS], offsets [B, H W, 2], (y, x) of the keypoint from
  the centre of its cell in pixels, row by row, weights [B, H W] in [0, 1].
  """
  shape = ops.shape(logits)
  flat = ops.reshape(logits, [shape[0], shape[1] * shape[2], logits.shape[-1]])
  positions = ops.convert_to_tensor(heads.POSITIONS)
  away = ops.expand_dims(offsets, 2) - positions
  target = ops.softmax(
    -0.5 * ops.sum(ops.square(away), -1) / KEYPOINT_SPREAD**2, axis=-1
  )
  true = ops.sum(target * flat, axis=-1)
  return _mean(ops.logsumexp(flat, axis=-1) - true, weights)


def _mean(values, weights):
  return ops.sum(values * weights) / (ops.sum(weights) + 1e-6)
