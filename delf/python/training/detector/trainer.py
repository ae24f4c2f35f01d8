"""Steps of training a detector, and its checkpoints."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from delf.python import files
from delf.python.training.detector import losses
from delf.python.training.self_supervised import array_file
from delf.python.training.self_supervised import trainer as checkpoint

# What `DetectorTrainer.learn` returns, by place.
TERMS = ("score", "box", "overlap")

_WARM_UP = 50
_BOX_WEIGHT = 0.5
_NUMBERS = ("step", "seconds")


@dataclasses.dataclass(frozen=True)
class Batch:
  """Photos with known boxes.

  Attributes:
    images: uint8 [B, S, S, 3], RGB.
    boxes: float32 [B, M, 4], (ymin, xmin, ymax, xmax) in [0, 1]; boxes of no
      area fill up.
    weights: float32 [B], how far each photo is believed.
    pools: list of B numbers, which photo each is.
  """

  images: np.ndarray
  boxes: np.ndarray
  weights: np.ndarray
  pools: list


class DetectorTrainer:
  """A detector that learns, its optimizers, and what it remembers.

  Attributes:
    detector: network.Detector.
    step: Steps made.
    seconds: Time spent, by whoever counts it.
  """

  def __init__(self, detector, rate, backbone_rate=0.0):
    """Builds all variables.

    Args:
      detector: network.Detector.
      rate: Highest learning rate of the head; it falls to a hundredth along a
        cosine.
      backbone_rate: The same of the backbone; 0 leaves it as it is.
    """
    self.detector = detector
    self.step, self.seconds = 0, 0.0
    # By part: variables, optimizer, highest rate.
    self._parts = [_part(detector.head.trainable_variables, rate)]
    if backbone_rate:
      variables = detector.backbone_variables()
      self._parts.append(_part(variables, backbone_rate))
    self._graph = tf.function(self._learn, reduce_retracing=True)

  def learn(self, batch, spent):
    """Makes one step.

    Args:
      batch: Batch.
      spent: Share of the budget that is over, in [0, 1].

    Returns:
      [3] float32, TERMS: losses of scores and of boxes, and the mean overlap.
    """
    rate = 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, spent)))
    rate *= min(1.0, (self.step + 1) / _WARM_UP)
    for _, optimizer, highest in self._parts:
      optimizer.learning_rate.assign(highest * rate)
    self.step += 1
    return self._graph(batch.images, batch.boxes, batch.weights).numpy()

  def _learn(self, images, boxes, weights):
    with tf.GradientTape() as tape:
      logits, found = self.detector(images, training=True)
      terms = losses.loss(
        logits, found, self.detector.head.cells, boxes, weights
      )
      total = terms[0] + _BOX_WEIGHT * terms[1]
    gradients = tape.gradient(total, [part[0] for part in self._parts])
    for (variables, optimizer, _), some in zip(
      self._parts, gradients, strict=True
    ):
      optimizer.apply_gradients(zip(some, variables, strict=True))
    return tf.stack(terms)

  def _variables(self):
    # A backbone that does not learn is as it was: it is not kept.
    every = list(self.detector.head.variables)
    if len(self._parts) > 1:
      every += self._parts[1][0]
    for _, optimizer, _ in self._parts:
      every += optimizer.variables
    return {f"{i:03d}/{v.path}": v for i, v in enumerate(every)}

  def save(self, path):
    """Writes head, optimizer and counters to an `.npz` file."""
    arrays = {name: v.numpy() for name, v in self._variables().items()}
    arrays["step"] = np.int64(self.step)
    arrays["seconds"] = np.float64(self.seconds)
    with files.atomic_path(path) as temporary:
      np.savez(temporary, **arrays)

  def resume(self, path):
    """Goes on from what `save` wrote, if it is there.

    Raises:
      InputError: If the file is of something else.
    """
    if not path.exists():
      return
    arrays = array_file.read(path, "a checkpoint of a detector", _NUMBERS)
    checkpoint.assign(list(self._variables().values()), arrays, path)
    self.step = int(arrays["step"])
    self.seconds = float(arrays["seconds"])


def _part(variables, rate):
  """Returns variables, their optimizer and its highest rate."""
  optimizer = keras.optimizers.AdamW(
    rate, weight_decay=1e-3, global_clipnorm=5.0
  )
  optimizer.build(variables)
  return variables, optimizer, rate
