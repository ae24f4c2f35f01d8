"""The embedding of the global descriptor, by the classes of photos."""

import dataclasses

import cv2
import keras
import numpy as np
import tensorflow as tf

from delf.python.training.model import delg_model
from delf.python.training.self_supervised import global_head, warps

# Photos of this size and their views are described, at most so many in all.
_SIDE = 320
_MOST_VIEWS = 4000


@dataclasses.dataclass(frozen=True)
class Options:
  """How the embedding is learnt.

  Attributes:
    steps: Steps of Adam.
    batch: Views in a step.
    rate: Learning rate.
    scale: What cosines are multiplied by.
    margin: Angle in radians (ArcFace, Deng et al., arXiv:1801.07698).
    decay: Weight of the squared change of the embedding.
    seed: Of the views and of the order.
  """

  steps: int = 300
  batch: int = 256
  rate: float = 1e-3
  scale: float = 16.0
  margin: float = 0.2
  decay: float = 0.01
  seed: int = 0


def fit(backbone, images, labels, options=None):
  """Turns the embedding layer so that photos of one class are near.

  The rest of the backbone stays, so that local features do not change. The
  embedding e becomes e + T e, where T starts at 0: with few photos it stays
  near what it was.

  Args:
    backbone: CompactBackbone, whose embedding is set already.
    images: list of [H, W, 3] uint8, RGB.
    labels: [N] int, the class of each, 0 to C - 1.
    options: Options, or None.

  Returns:
    (float, float): ArcFace's loss at the first and last tenth of the steps.
  """
  options = options or Options()
  inputs, labels = _views(backbone, images, np.asarray(labels), options.seed)
  layer = backbone.embedding_layer
  kernel = keras.ops.convert_to_numpy(layer.kernel)
  bias = keras.ops.convert_to_numpy(layer.bias)
  embedded = np.float32(inputs @ kernel + bias)
  # Its length is not what the rate is for.
  embedded /= np.sqrt(np.mean(np.square(embedded))) + 1e-12
  turn, losses = _learn(embedded, labels, options)
  turn = np.eye(len(turn), dtype=np.float32) + turn
  layer.kernel.assign(kernel @ turn)
  layer.bias.assign(bias @ turn)
  tenth = max(1, len(losses) // 10)
  return float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))


def _views(backbone, images, labels, seed):
  """Returns what the embedding gets of photos and views, and their classes."""
  times = int(np.clip(_MOST_VIEWS // len(images) - 1, 1, 7))
  generator = np.random.default_rng(seed)

  def each():
    for _ in range(times):
      for image in images:
        yield _view(generator, image)

  rows = [global_head.pooled(backbone, images, _SIDE)]
  rows.append(global_head.pooled(backbone, _Sized(each, times * len(images))))
  return np.concatenate(rows), np.tile(labels, 1 + times)


class _Sized:
  """Views as they are asked for, so that one is in memory at a time."""

  def __init__(self, make, number):
    self._make, self._number = make, number

  def __iter__(self):
    return self._make()

  def __len__(self):
    return self._number


def _view(generator, image):
  """Returns a random view of most of a photo."""
  height, width = image.shape[:2]
  side = min(height, width)
  middle = np.array([width, height]) * generator.uniform(0.4, 0.6, 2)
  zoom = _SIDE / side * generator.uniform(0.7, 1.3)
  homography = warps.random_view(generator, middle, _SIDE, zoom, 0.4)
  view = warps.render(image, homography, _SIDE)
  return warps.change_pixels(generator, cv2.resize(view, (side, side)), 0.6)


def _learn(embedded, labels, options):
  """Returns T [D, D] float32, and the loss of each step."""
  number = int(labels.max()) + 1
  size = embedded.shape[1]
  turn = tf.Variable(tf.zeros([size, size]))
  means = np.zeros([size, number], np.float32)
  np.add.at(means.T, labels, embedded)
  weights = tf.Variable(means / (np.linalg.norm(means, axis=0) + 1e-12))
  optimizer = keras.optimizers.Adam(options.rate)
  optimizer.build([turn, weights])

  @tf.function
  def step(rows, classes):
    with tf.GradientTape() as tape:
      logits = delg_model.cosine_classifier_logits(
        rows + tf.matmul(rows, turn),
        classes,
        number,
        weights,
        options.scale,
        options.margin,
      )
      loss = tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
      )
      total = loss + options.decay * tf.reduce_sum(tf.square(turn))
    gradients = tape.gradient(total, [turn, weights])
    optimizer.apply_gradients(zip(gradients, [turn, weights], strict=True))
    return loss

  generator = np.random.default_rng((options.seed, 1))
  batch = min(options.batch, len(labels))
  losses = []
  for _ in range(options.steps):
    some = generator.choice(len(labels), batch, replace=False)
    losses.append(float(step(embedded[some], np.int32(labels[some]))))
  return turn.numpy(), losses
