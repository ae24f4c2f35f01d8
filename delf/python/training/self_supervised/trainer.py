"""Trains the compact model for a given time, from where it left off."""

import dataclasses
import math
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from delf.python import errors, files
from delf.python.normalization_layers import normalization
from delf.python.training.model import keypoints
from delf.python.training.self_supervised import array_file, losses

# What `Trainer.learn` returns, by place.
TERMS = ("local", "attention", "keypoint", "found", "score")


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How long and how fast to learn.

  Attributes:
    minutes: Time budget, over all runs that continue each other.
    rate: Highest learning rate; it falls to a hundredth along a cosine.
    warm_up: Steps until it is reached.
    save_minutes: Between checkpoints.
    attention_weight: Of the attention's loss.
    keypoint_weight: Of the loss of the keypoints in cells.
  """

  minutes: float = 75.0
  rate: float = 1.5e-3
  warm_up: int = 200
  save_minutes: float = 3.0
  attention_weight: float = 0.5
  keypoint_weight: float = 0.3


class Trainer:
  """The model, its optimizer and what it remembers.

  Attributes:
    backbone: CompactBackbone.
    attention: local_heads.AttentionModel.
    step: Steps made.
    seconds: Time spent.
  """

  def __init__(self, backbone, attention, schedule, side=192):
    """Builds all variables.

    Args:
      backbone: CompactBackbone.
      attention: local_heads.AttentionModel.
      schedule: Schedule.
      side: Pixels of a view's side.
    """
    self.backbone, self.attention = backbone, attention
    self.schedule = schedule
    self.step, self.seconds = 0, 0.0
    backbone(np.zeros([1, side, side, 3], np.float32), training=False)
    cells = [1, 4, 4, backbone.local_channels]
    attention(np.zeros(cells, np.float32), training=False)
    # What only the global descriptor needs is set afterwards (global_head).
    others = (backbone.pool, backbone.embedding_layer)
    others = {id(v) for layer in others for v in layer.variables}
    self._trainable = [
      v
      for v in backbone.trainable_variables + attention.trainable_variables
      if id(v) not in others
    ]
    self._optimizer = keras.optimizers.AdamW(
      schedule.rate, weight_decay=1e-4, global_clipnorm=5.0
    )
    self._optimizer.build(self._trainable)
    self._graph = tf.function(self._learn, reduce_retracing=True)
    self._measure = tf.function(self._measured, reduce_retracing=True)

  def resume(self, path):
    """Goes on from a checkpoint, if there is one."""
    if path.exists():
      self.restore(path)
      logging.info("continues at step %d, %.0f s", self.step, self.seconds)

  def fit(self, batches, path):
    """Learns until the time is up.

    Args:
      batches: Iterator of data.Batch.
      path: pathlib.Path of the checkpoint that is written on the way.
    """
    budget = 60 * self.schedule.minutes
    saved, recent = self.seconds, []
    last = time.monotonic()
    while self.seconds < budget:
      recent.append(self.learn(next(batches), self.seconds / budget))
      now = time.monotonic()
      self.seconds, last = self.seconds + now - last, now
      if self.step % 50 == 0:
        self._report(np.mean(recent, axis=0))
        recent = []
      if self.seconds - saved > 60 * self.schedule.save_minutes:
        saved = self.seconds
        self.save(path)
    self.save(path)

  def learn(self, batch, progress):
    """Makes one step.

    Args:
      batch: data.Batch.
      progress: Share of the time that is over, in [0, 1].

    Returns:
      [5] float32, TERMS: loss of descriptors, of attention and of keypoints,
      share of points that are mutual nearest neighbours, and mean attention.
    """
    rate = 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))
    rate *= min(1.0, (self.step + 1) / self.schedule.warm_up)
    self._optimizer.learning_rate.assign(self.schedule.rate * rate)
    self.step += 1
    return self._graph(*_parts(batch)).numpy()

  def evaluate(self, batch):
    """Returns what `learn` returns, as the model is: nothing is learnt."""
    return self._measure(*_parts(batch)).numpy()

  def _measured(self, *parts):
    return tf.stack(self._terms(*parts, training=False))

  def _learn(self, images, points, weights, corners):
    with tf.GradientTape() as tape:
      terms = self._terms(images, points, weights, corners)
      total = terms[0] + self.schedule.attention_weight * terms[1]
      total += self.schedule.keypoint_weight * terms[2]
    gradients = tape.gradient(total, self._trainable)
    self._optimizer.apply_gradients(
      zip(gradients, self._trainable, strict=True)
    )
    return tf.stack(terms)

  def _terms(self, images, points, weights, corners, training=True):
    """Returns the five numbers of `learn`."""
    pairs = weights.shape[0]
    pixels = (tf.cast(images, tf.float32) - 128.0) / 128.0
    cells, logits = self.backbone.cells_call(pixels, training=training)
    at = points[..., ::-1] / keypoints.STRIDE
    raw = tf.cast(keypoints.interpolate(cells, at), tf.float32)
    chosen = normalization.l2_normalize(raw, axis=-1, epsilon=1e-6)
    loss, probability, nearest = losses.descriptor_loss(
      chosen[:pairs], chosen[pairs:], points[:pairs], points[pairs:], weights
    )
    _, scores, _ = self.attention(raw[:, :, None], training=training)
    scores = tf.cast(scores[:, :, 0, 0], tf.float32)
    target = tf.stop_gradient(probability)
    sure = 0.2 + target
    descriptor = losses.mean(loss, weights * sure)
    attention = losses.attention_loss(
      scores, tf.concat([target, target], 0), tf.concat([weights, weights], 0)
    )
    mean_score = losses.mean(scores[:pairs], weights)
    found = losses.mean(nearest, weights)
    keypoint = losses.keypoint_loss(logits, *corners)
    return [descriptor, attention, keypoint, found, mean_score]

  def _report(self, values):
    text = " ".join(f"{n} {v:.3f}" for n, v in zip(TERMS, values, strict=True))
    logging.info("step %d, %.0f s: %s", self.step, self.seconds, text)

  def _variables(self):
    models = self.backbone.variables + self.attention.variables
    return {
      f"{i:03d}/{v.path}": v
      for i, v in enumerate(models + self._optimizer.variables)
    }

  def save(self, path):
    """Writes all variables, of the models first, to an `.npz` file."""
    arrays = {name: v.numpy() for name, v in self._variables().items()}
    arrays["step"] = np.int64(self.step)
    arrays["seconds"] = np.float64(self.seconds)
    with files.atomic_path(path) as temporary:
      np.savez(temporary, **arrays)

  def restore(self, path):
    """Reads what `save` wrote; a file of another model is an InputError."""
    arrays = read(path)
    assign(list(self._variables().values()), arrays, path)
    self.step = int(arrays["step"])
    self.seconds = float(arrays["seconds"])


def _parts(batch):
  """Returns what `Trainer._terms` takes of a data.Batch."""
  corners = (batch.offsets, batch.sureness)
  return batch.images, batch.points, batch.weights, corners


def read(path):
  """Returns the arrays of a checkpoint by name; a bad one is an InputError."""
  return array_file.read(path, "a checkpoint of training", ["step", "seconds"])


def assign(variables, arrays, path):
  """Gives variables the values of a checkpoint.

  Args:
    variables: The first variables of those that were saved, in that order.
    arrays: dict of the checkpoint; keys are `<number>/<path of the variable>`.
    path: Of the checkpoint, for errors.

  Raises:
    InputError: If a variable is missing, or of another shape or name.
  """
  names = {name.split("/")[0]: name for name in arrays}
  for i, variable in enumerate(variables):
    name = names.get(f"{i:03d}", "nothing")
    same = name.rsplit("/", 1)[-1] == variable.path.rsplit("/", 1)[-1]
    if not same or arrays[name].shape != tuple(variable.shape):
      raise errors.InputError(
        f"{variable.path} {tuple(variable.shape)} as variable {i}", name, path
      )
    variable.assign(arrays[name])
