"""The global descriptor of the compact model: whitening, and classes."""

import dataclasses
import functools
from collections.abc import Iterable

import cv2
import faiss
import keras
import numpy as np
import tensorflow as tf

from delf.base import progress
from delf.learning import synthetic_views
from delf.python.training.model import delg_model

# Added to the variances of pairs, as a share of their mean. On held-out photos
# 0.02 to 0.3 did not differ.
_SHRINKAGE = 0.1

# Local features of a photo that visual words are made from.
_SAMPLES = 40

# Views that the whitening is made from, and that classes are learnt from.
_MOST_WHITENED_VIEWS, _MOST_VIEWS = 8000, 4000

# Longer side, in pixels, at which photos are described.
_SIDE = 320


@dataclasses.dataclass(frozen=True)
class ClassOptions:
  """Options of learning classes (ArcFace, Deng et al., arXiv:1801.07698)."""

  steps: int = 300
  batch: int = 256
  rate: float = 1e-3
  scale: float = 16.0
  margin: float = 0.2  # Radians.
  decay: float = 0.01  # Weight of the squared change of the embedding.
  seed: int = 0  # Of the views and of the order.


def whiten(backbone, photos: list, pairs: list, seed: int = 0) -> None:
  """Set the layers of the global descriptor from photos of the same places.

  Visual words by clustering; then the embedding whitens the differences of
  photos and random views of them, and of the pairs of photos of one place.
  """
  rng = np.random.default_rng(seed)
  images = [photo.image for photo in photos]
  backbone.pool.words.assign(_visual_words(backbone, images, seed))
  rows = pooled(backbone, images)
  times = int(np.clip(_MOST_WHITENED_VIEWS // len(images), 1, 4))
  views = [
    pooled(backbone, [_view(rng, image, (0.8, 1.5)) for image in images])
    for _ in range(times)
  ]
  first = np.concatenate([rows] * times + [rows[[p.first for p in pairs]]])
  second = np.concatenate([*views, rows[[p.second for p in pairs]]])
  layer = backbone.embedding_layer
  kernel, bias = whitening(first, second, rows, layer.units)
  layer.kernel.assign(kernel)
  layer.bias.assign(bias)


def _visual_words(backbone, images, seed):
  """Cluster local features (spherical k-means); return unit rows [W, C]."""
  rng = np.random.default_rng(seed)
  rows = []

  def local(pixels):
    return backbone.cells_call(pixels, training=False)[0]

  for cells in _outputs(local, images):
    cells = cells.reshape(-1, cells.shape[-1])
    lengths = np.linalg.norm(cells, axis=1)
    # Short ones are of what has no texture, and count little.
    longer = np.argsort(-lengths)[: max(1, len(cells) // 2)]
    chosen = rng.choice(longer, min(_SAMPLES, len(longer)), replace=False)
    rows.append(cells[chosen] / (lengths[chosen, None] + 1e-6))
  rows = np.concatenate(rows)
  number = backbone.pool.number
  # Fewer features than words: some words are the same.
  rows = np.resize(rows, [max(len(rows), number), rows.shape[1]])
  clustering = faiss.Kmeans(
    rows.shape[1], number, niter=20, spherical=True, seed=1 + seed
  )
  clustering.cp.min_points_per_centroid = 1
  clustering.train(rows)
  return clustering.centroids


def pooled(
  backbone, images: Iterable[np.ndarray], number: int | None = None
) -> np.ndarray:
  """Return the inputs of the embedding layer for N images, float32 [N, C]."""
  function = functools.partial(backbone.pooled, training=False)
  return np.stack([rows[0] for rows in _outputs(function, images, number)])


def _outputs(function, images, number=None):
  """Yield the output of a function of pixels [1, H, W, 3] for each photo."""
  call = tf.function(
    function,
    input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)],
  )
  for image in progress.track(images, "pooling photos", number):
    zoom = _SIDE / max(image.shape[:2])
    image = cv2.resize(image, None, fx=zoom, fy=zoom)
    yield call((np.float32(image)[None] - 128) / 128).numpy()


def _view(rng, image, zooms, rendered=None):
  """Draw a square view of most of a photo, about as large as the photo.

  It is rendered with a side of `rendered` pixels, if given, and then resized.
  """
  height, width = image.shape[:2]
  side = min(height, width)
  middle = np.array([width, height]) * rng.uniform(0.4, 0.6, 2)
  rendered = rendered or side
  zoom = rendered / side * rng.uniform(*zooms)
  homography = synthetic_views.random_view(rng, middle, rendered, zoom, 0.4)
  view = synthetic_views.render(image, homography, rendered)
  return synthetic_views.change_pixels(rng, cv2.resize(view, (side, side)), 0.6)


def whitening(
  first: np.ndarray,
  second: np.ndarray,
  everything: np.ndarray,
  dimension: int,
  shrinkage: float = _SHRINKAGE,
) -> tuple[np.ndarray, np.ndarray]:
  """Return a dense layer that whitens the differences of photos of one place.

  The projection of Mikolajczyk and Matas (ICCV 2007), as Radenovic et al.
  (PAMI 2018) use it: differences of matching pairs are made white, then the
  directions in which photos vary most are kept.

  Args:
    first: [N, C], one photo of each matching pair.
    second: [N, C], the other.
    everything: [M, C], all photos.
    dimension: Directions to keep, at most C.
    shrinkage: Added to the variances of pairs, as a share of their mean.

  Returns:
    Kernel [C, dimension] and bias [dimension], float32.
  """
  mean = everything.mean(0)
  within = np.cov((first - second).T, bias=True) / 2
  values, vectors = np.linalg.eigh(within)
  values = np.maximum(values, 0) + shrinkage * values.mean()
  inverse = vectors / np.sqrt(values) @ vectors.T
  _, directions = np.linalg.eigh(np.cov(((everything - mean) @ inverse).T))
  kernel = inverse @ directions[:, ::-1][:, :dimension]
  kernel /= np.sqrt(np.mean(np.square((everything - mean) @ kernel)))
  return kernel.astype(np.float32), (-mean @ kernel).astype(np.float32)


def learn_classes(
  backbone, images: list[np.ndarray], labels, options=ClassOptions()
) -> tuple[float, float]:
  """Turn the embedding layer so that photos of one class are near.

  The rest of the backbone stays, so that local features do not change. The
  embedding e becomes e + T e, where T starts at 0: with few photos it stays
  near what it was.

  Returns:
    ArcFace's loss at the first and at the last tenth of the steps.
  """
  inputs, labels = _views(backbone, images, np.asarray(labels), options.seed)
  layer = backbone.embedding_layer
  kernel = keras.ops.convert_to_numpy(layer.kernel)
  bias = keras.ops.convert_to_numpy(layer.bias)
  embedded = np.float32(inputs @ kernel + bias)
  # The rate is not meant for their length.
  embedded /= np.sqrt(np.mean(np.square(embedded))) + 1e-12
  turn, losses = _learn(embedded, labels, options)
  turn = np.eye(len(turn), dtype=np.float32) + turn
  layer.kernel.assign(kernel @ turn)
  layer.bias.assign(bias @ turn)
  tenth = max(1, len(losses) // 10)
  return float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))


def _views(backbone, images, labels, seed):
  """Return the inputs of the embedding of photos and views, and the classes."""
  times = int(np.clip(_MOST_VIEWS // len(images) - 1, 1, 7))
  rng = np.random.default_rng(seed)
  # One view is in memory at a time.
  views = (
    _view(rng, image, (0.7, 1.3), _SIDE)
    for _ in range(times)
    for image in images
  )
  rows = [pooled(backbone, images)]
  rows.append(pooled(backbone, views, times * len(images)))
  return np.concatenate(rows), np.tile(labels, 1 + times)


def _learn(embedded, labels, options):
  """Return T, float32 [D, D], and the loss of each step."""
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

  rng = np.random.default_rng((options.seed, 1))
  batch = min(options.batch, len(labels))
  losses = []
  for _ in range(options.steps):
    chosen = rng.choice(len(labels), batch, replace=False)
    losses.append(float(step(embedded[chosen], np.int32(labels[chosen]))))
  return turn.numpy(), losses
