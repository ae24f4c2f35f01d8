"""The embedding of the global descriptor, by the classes of photos."""

import dataclasses
import functools

import cv2
import faiss
import keras
import numpy as np
import tensorflow as tf
from keras import ops

from delf.base import progress
from delf.learning import synthetic_views
from delf.networks import heads
from delf.python.training.model import delg_model

# On held-out photos 0.02 to 0.3 did not differ.
_SHRINKAGE = 0.1

# Local features of a photo that words are made from.
_SAMPLES = 40

# Views that the whitening is made from, at most four of a photo.
_GLOBAL_HEAD_MOST_VIEWS = 8000


def pooled(backbone, images, longer_side=320):
  """Returns what the embedding layer gets, of each photo.

  Args:
    backbone: CompactBackbone.
    images: list of uint8 [H, W, 3], RGB.
    longer_side: Pixels that each is resized to.

  Returns:
    [N, C] float32.
  """
  function = functools.partial(backbone.pooled, training=False)
  return np.stack([rows[0] for rows in _outputs(function, images, longer_side)])


def _outputs(function, images, longer_side):
  """Yields what a function of pixels [1, H, W, 3] returns of each photo."""
  call = tf.function(
    function,
    input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)],
  )
  for image in progress.track(images, "pooling photos"):
    zoom = longer_side / max(image.shape[:2])
    image = cv2.resize(image, None, fx=zoom, fy=zoom)
    yield call((np.float32(image)[None] - 128) / 128).numpy()


def words(backbone, images, longer_side=320, seed=0):
  """Returns words for the pooling: spherical k-means of local features.

  Args:
    backbone: CompactBackbone, trained but for its global descriptor.
    images: list of uint8 [H, W, 3], RGB.
    longer_side: Pixels that each is resized to.
    seed: Of the choice of features.

  Returns:
    [W, C] float32 of unit length.
  """
  rng = np.random.default_rng(seed)

  def local(pixels):
    return backbone.cells_call(pixels, training=False)[0]

  rows = []
  for cells in _outputs(local, images, longer_side):
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


def whitening(first, second, everything, dimension, shrinkage=_SHRINKAGE):
  """Returns a dense layer that whitens what differs in photos of one place.

  The projection of Mikolajczyk and Matas (ICCV 2007), as Radenovic et al.
  (PAMI 2018) use it: differences of matching pairs are made white, then the
  directions in which photos vary most are kept.

  Args:
    first: [N, C] float, one photo of each matching pair.
    second: [N, C] float, the other.
    everything: [M, C] float, all photos.
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


def fit_global_head(backbone, photos, pairs, seed=0):
  """Sets what only the global descriptor needs from photos of the same places.

  Words by clustering; then the embedding whitens the differences of photos and
  random views of them, and of the pairs of photos of one place.

  Args:
    backbone: CompactBackbone, trained but for this.
    photos: list of photos.Photo.
    pairs: list of real_pairs.Pair that index `photos`.
    seed: Of the random views.
  """
  rng = np.random.default_rng(seed)
  images = [photo.image for photo in photos]
  backbone.pool.words.assign(words(backbone, images, seed=seed))
  rows = pooled(backbone, images)
  times = int(np.clip(_GLOBAL_HEAD_MOST_VIEWS // len(images), 1, 4))
  views = [
    pooled(backbone, [_view_global_head(rng, image) for image in images])
    for _ in range(times)
  ]
  first = np.concatenate([rows] * times + [rows[[p.first for p in pairs]]])
  second = np.concatenate([*views, rows[[p.second for p in pairs]]])
  layer = backbone.embedding_layer
  kernel, bias = whitening(first, second, rows, layer.units)
  layer.kernel.assign(kernel)
  layer.bias.assign(bias)


def _view_global_head(rng, image):
  """Returns a random view of a photo, square and about as large."""
  height, width = image.shape[:2]
  side = min(height, width)
  middle = np.array([width, height]) * rng.uniform(0.4, 0.6, 2)
  homography = synthetic_views.random_view(
    rng, middle, side, rng.uniform(0.8, 1.5), 0.4
  )
  return synthetic_views.change_pixels(
    rng, synthetic_views.render(image, homography, side), 0.6
  )


def recall(descriptors, groups):
  """Counts the photos whose nearest other photo is of their group.

  Args:
    descriptors: [N, D] float.
    groups: [N] int; photos alone in their group are no queries.

  Returns:
    Tuple of int, how many, and int, of how many queries.
  """
  units = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
  similarity = units @ units.T
  np.fill_diagonal(similarity, -np.inf)
  nearest = groups[similarity.argmax(1)]
  queries = np.array([(groups == g).sum() > 1 for g in groups])
  return int((nearest == groups)[queries].sum()), int(queries.sum())


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

  rows = [pooled(backbone, images, _SIDE)]
  rows.append(pooled(backbone, _Sized(each, times * len(images))))
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
  homography = synthetic_views.random_view(generator, middle, _SIDE, zoom, 0.4)
  view = synthetic_views.render(image, homography, _SIDE)
  return synthetic_views.change_pixels(
    generator, cv2.resize(view, (side, side)), 0.6
  )


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


# Two points of one pair nearer than this are not told apart, in pixels.
NEAR = 12.0

# Of the cosine similarities of descriptors.
LOCAL_TEMPERATURE = 0.06

# Of the pixels about a keypoint, in pixels.
KEYPOINT_SPREAD = 0.6

_NEVER = -1e4


def descriptor_loss(first, second, points_1, points_2, weights):
  """Contrasts each correspondence with every other one of the batch.

  The negative logarithm of the softmax over rows and over columns of the
  similarity matrix (InfoNCE, van den Oord et al. 2018, both ways). Points of
  the same pair that lie within NEAR pixels of each other are not negatives.

  Args:
    first: [P, K, C] float, descriptors in the first views, of length 1.
    second: [P, K, C] float, of the same points in the second views.
    points_1: [P, K, 2] float, where they are, in pixels.
    points_2: [P, K, 2] float.
    weights: [P, K] float, 0 for padding.

  Returns:
    Three tensors: the loss of each point [P, K]; the probability [P, K] that it
    is matched, both ways; whether it is the nearest neighbour both ways [P, K].
  """
  pairs, number, channels = first.shape
  total = pairs * number
  first = ops.reshape(first, [total, channels])
  second = ops.reshape(second, [total, channels])
  logits = ops.matmul(first, ops.transpose(second)) / LOCAL_TEMPERATURE
  ignored = _ignored(points_1, points_2, weights)
  logits = ops.where(ignored, _NEVER, logits)
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
  """Returns which entries of the similarity matrix say nothing, bool."""
  pairs, number = weights.shape
  total = pairs * number
  near = ops.zeros([pairs, number, number], dtype="bool")
  for points in (points_1, points_2):
    gap = ops.expand_dims(points, 2) - ops.expand_dims(points, 1)
    near = near | (ops.sum(ops.square(gap), axis=-1) < NEAR**2)
  near = ops.cast(near, "float32")
  same = ops.reshape(ops.eye(pairs), [pairs, 1, pairs, 1])
  near = ops.reshape(ops.expand_dims(near, 2) * same, [total, total]) * (
    1.0 - ops.eye(total)
  )
  padding = ops.reshape(weights, [total]) < 0.5
  either = ops.expand_dims(padding, 0) | ops.expand_dims(padding, 1)
  either = ops.cast(either, "float32") * (1.0 - ops.eye(total))
  return (near + either) > 0.5


def attention_loss(scores, target, weights):
  """Teaches attention how likely a cell is to be matched.

  With probability 1 - exp(-score), which for a softplus score is the logistic
  function, the cross entropy with `target`.

  Args:
    scores: [P, K] float, of softplus, in each view.
    target: [P, K] float, in [0, 1].
    weights: [P, K] float, 0 for padding.

  Returns:
    Scalar, the mean.
  """
  positive = -ops.log(1.0 - ops.exp(-scores) + 1e-6)
  entropy = target * positive + (1.0 - target) * scores
  return mean(entropy, weights)


def keypoint_loss(logits, offsets, weights):
  """Teaches each cell which of its pixels is the keypoint.

  Args:
    logits: [B, H, W, PIXELS] float.
    offsets: [B, H W, 2] float, (y, x) of the keypoint from the centre of its
      cell, in pixels, row by row.
    weights: [B, H W] float, how sure it is.

  Returns:
    Scalar, the mean cross entropy with pixels about the keypoint.
  """
  shape = ops.shape(logits)
  flat = ops.reshape(logits, [shape[0], shape[1] * shape[2], logits.shape[-1]])
  positions = ops.convert_to_tensor(heads.POSITIONS)
  away = ops.expand_dims(offsets, 2) - positions
  target = ops.softmax(
    -0.5 * ops.sum(ops.square(away), -1) / KEYPOINT_SPREAD**2, axis=-1
  )
  true = ops.sum(target * flat, axis=-1)
  return mean(ops.logsumexp(flat, axis=-1) - true, weights)


def mean(values, weights):
  """Returns the weighted mean of `values`, a scalar."""
  return ops.sum(values * weights) / (ops.sum(weights) + 1e-6)
