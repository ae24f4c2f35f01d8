"""The compact model: training, global descriptor, weights and export."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import faiss
import keras
import numpy as np
import tensorflow as tf
from keras import ops

from delf.base import arrays as base_arrays
from delf.base import errors, files, progress
from delf.inference import zoo
from delf.learning import loop, view_pairs
from delf.networks import exporting, heads
from delf.python.normalization_layers import normalization
from delf.python.training.model import delg_model

# Points of a pair nearer than this, in pixels, are not each other's negatives.
NEAR = 12.0
# Divisor of the cosine similarities of descriptors.
TEMPERATURE = 0.06
# Standard deviation, in pixels, of the target around a keypoint.
KEYPOINT_SPREAD = 0.6

_MASKED = -1e4
_ATTENTION_WEIGHT, _KEYPOINT_WEIGHT = 0.5, 0.3


class CompactTrainer(loop.FileLearner):
  """Trains the compact model without its global head (see `whiten`).

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
    """Build all variables of a CompactBackbone and an AttentionModel.

    `rate` and `warm_up` are those of `loop.cosine_rate`, `side` is that of a
    view in pixels, and `held_out` are batches to measure with.
    """
    super().__init__(draw, path)
    self.backbone, self.attention = backbone, attention
    self._rate, self._warm_up, self._held_out = rate, warm_up, held_out
    backbone(np.zeros([1, side, side, 3], np.float32), training=False)
    cells = [1, 4, 4, backbone.local_channels]
    attention(np.zeros(cells, np.float32), training=False)
    head = backbone.pool.variables + backbone.embedding_layer.variables
    trainable = backbone.trainable_variables + attention.trainable_variables
    head_ids = {id(v) for v in head}
    self._trainable = [v for v in trainable if id(v) not in head_ids]
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

  `first` and `second` [P, K, C] are unit descriptors of points in the first and
  second views, at `points_1` and `points_2` [P, K, 2] in pixels; weights [P, K]
  are 0 for padding.

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
  nearest = true >= ops.max(logits, axis=1)
  nearest = nearest & (true >= ops.max(logits, axis=0))
  both = 0.5 * (rows + columns)
  results = -both, ops.exp(both), ops.cast(nearest, "float32")
  return tuple(ops.reshape(each, [pairs, number]) for each in results)


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


# File of the training weights in the folder of a model.
WEIGHTS = "weights.npz"
# Overlap of two boxes above which the weaker feature is dropped.
IOU = 0.4
# Values of the configuration, chosen on held-out photos
# (docs/EMBEDDED_MODEL.md): few scales, the finest of them enlarged, where
# locations are most exact.
SCALES = (0.3, 0.5, 0.85, 1.6)
GLOBAL_SCALES = (0.5, 0.85)
THRESHOLD = 0.4

_CONFIGURATION = """\
# The model that comes with the package: local features and a global descriptor.

model_path: {path}
{scales}
max_image_size: 1024
use_local_features: true
use_global_features: true
delf_local_config {{
  use_pca: false
  max_feature_num: 2000
  score_threshold: {threshold}
}}
delf_global_config {{
  use_pca: false
  {indices}
}}
is_tf2_exported: true
"""

_KIND = "the weights of a compact model"
_ARCHITECTURE, _COMPACT = "architecture", "compact"


def create(**options: Any) -> delg_model.Delg:
  """Create a compact model with random weights."""
  return delg_model.Delg(backbone="compact", block3_strides=False, **options)


def save(model: delg_model.Delg, folder: str | os.PathLike) -> None:
  """Write the weights of a model to a folder, kernels in half precision.

  Statistics remain in float32: they may be out of the range of float16.
  """
  arrays: dict[str, Any] = {_ARCHITECTURE: _COMPACT}
  for name, variable in _variables(model).items():
    array = keras.ops.convert_to_numpy(variable)
    fits = array.ndim > 1 and np.abs(array).max() < np.finfo(np.float16).max
    arrays[name] = array.astype(np.float16) if fits else array
  with files.atomic_path(pathlib.Path(folder, WEIGHTS)) as temporary:
    np.savez_compressed(temporary, **arrays)


def weights_file(source: str | os.PathLike) -> pathlib.Path | None:
  """Return the file of weights at a path or in the folder there, or None."""
  path = pathlib.Path(source)
  if path.name == WEIGHTS:
    return path
  return path / WEIGHTS if (path / WEIGHTS).is_file() else None


def load(model: delg_model.Delg, path: str | os.PathLike) -> None:
  """Load the weights of a folder or file into a model, all of them or none.

  Raises InputError if the file is not readable, or of another architecture.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = path / WEIGHTS
  if not path.exists():
    raise FileNotFoundError(f"{path}: no such file: give {_KIND}")
  arrays = base_arrays.read_npz(path, _KIND, [_ARCHITECTURE])
  architecture = str(arrays.pop(_ARCHITECTURE))
  if architecture != _COMPACT:
    problem = f"not {_KIND}, but of {architecture[:40]!r}"
    raise errors.InputError(problem, path=path)
  variables = _variables(model)
  for name in sorted(set(arrays) | set(variables)):
    shape, stored = (
      tuple(each[name].shape) if name in each else "missing"
      for each in (variables, arrays)
    )
    if shape != stored:
      problem = f"{name} is {stored}, and must be {shape}"
      message = f"weights of another architecture: {problem}"
      raise errors.InputError(message, path=path)
    if not np.issubdtype(arrays[name].dtype, np.floating):
      problem = f"{name} must be of floating point, not {arrays[name].dtype}"
      raise errors.InputError(problem, path=path)
    base_arrays.check_finite(arrays[name], f"numbers as {name}", path)
  for name, variable in variables.items():
    variable.assign(arrays[name])


def _variables(model):
  """Return the variables by names that are independent of the model's name."""
  parts = {"backbone": model.backbone, "attention": model.attention}
  return {
    f"{name}/{variable.path.removeprefix(f'{layer.name}/')}": variable
    for name, layer in parts.items()
    for variable in layer.variables
  }


def from_checkpoint(path: str | os.PathLike) -> delg_model.Delg:
  """Create a model with the weights of a checkpoint of `CompactTrainer`.

  Raises InputError if it is another file, or a variable does not fit.
  """
  model = create()
  variables = model.backbone.variables + model.attention.variables
  loop.restore(variables, path)
  return model


def export(model: delg_model.Delg, folder: str | os.PathLike) -> None:
  """Export a model, with its configuration and training weights beside it.

  An existing export is replaced; Markdown files in the folder are kept.
  """
  folder = pathlib.Path(folder)
  settings = configuration(configured_path(folder)).encode()
  kept = {path.name: path.read_bytes() for path in folder.glob("*.md")}
  with exporting.destination(folder, overwrite=True) as new:
    exporting.export(model, new, iou=IOU)
    save(model, new)
    for name, data in (kept | {"config.pbtxt": settings}).items():
      files.write_bytes(pathlib.Path(new, name), data)


def configured_path(folder: pathlib.Path) -> str:
  """Return the `model_path` to configure for the model in a folder."""
  embedded = zoo.artefact(zoo.EMBEDDED)
  if folder.resolve() == zoo.folder(embedded).resolve():
    return embedded.name
  # Absolute: a relative path could be mistaken for the name of a known model.
  return os.fspath(folder.resolve())


def configuration(model_path: str) -> str:
  """Return the text of the DelfConfig of a model, given its name or path."""
  indices = [i for i, scale in enumerate(SCALES) if scale in GLOBAL_SCALES]
  return _CONFIGURATION.format(
    path=json.dumps(model_path, ensure_ascii=False),
    scales="\n".join(f"image_scales: {scale:.7g}" for scale in SCALES),
    threshold=THRESHOLD,
    indices="\n  ".join(f"image_scales_ind: {i}" for i in indices),
  )


# Added to the variances of pairs, as a share of their mean. Results on held-out
# photos are the same from 0.02 to 0.3.
_SHRINKAGE = 0.1
# Local features sampled from each photo to learn visual words.
_SAMPLES = 40
# Upper limits of views for the whitening, and for learning classes.
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
  seed: int = 0  # Of the views and of their order.


def whiten(
  backbone: Any,
  photos: Sequence[view_pairs.Photo],
  pairs: Sequence[view_pairs.Pair],
  seed: int = 0,
) -> None:
  """Learn the layers of the global descriptor from photos of the same places.

  Visual words are clustered; then the embedding whitens differences between
  photos and random views of them, and between pairs of photos of one place.
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
  for cells in _outputs(lambda cells: cells, backbone, images):
    cells = cells.reshape(-1, cells.shape[-1])
    lengths = np.linalg.norm(cells, axis=1)
    # Short features have little texture, and little weight.
    longer = np.argsort(-lengths)[: max(1, len(cells) // 2)]
    chosen = rng.choice(longer, min(_SAMPLES, len(longer)), replace=False)
    rows.append(cells[chosen] / (lengths[chosen, None] + 1e-6))
  points = np.concatenate(rows)
  number = backbone.pool.number
  # With fewer features than words, some words are equal.
  points = np.resize(points, [max(len(points), number), points.shape[1]])
  clustering = faiss.Kmeans(
    points.shape[1], number, niter=20, spherical=True, seed=1 + seed
  )
  clustering.cp.min_points_per_centroid = 1
  clustering.train(points)
  return clustering.centroids


def pooled(
  backbone: Any, images: Iterable[np.ndarray], number: int | None = None
) -> np.ndarray:
  """Return the inputs of the embedding layer for N images, float32 [N, C]."""
  rows = _outputs(backbone.pool, backbone, images, number)
  return np.concatenate(list(rows))


def _outputs(function, backbone, images, number=None):
  """Yield a function of the backbone's cells [1, H, W, C] for each image."""
  call = tf.function(
    lambda pixels: function(backbone.cells_call(pixels, training=False)[0]),
    input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)],
  )
  for image in progress.track(images, "pooling photos", number):
    zoom = _SIDE / max(image.shape[:2])
    image = cv2.resize(image, None, fx=zoom, fy=zoom)
    yield call((image.astype(np.float32)[None] - 128) / 128).numpy()


def _view(rng, image, zooms, rendered=None):
  """Draw a square view of most of a photo, about as large as the photo.

  It is rendered with a side of `rendered` pixels, if given, and then resized.
  """
  height, width = image.shape[:2]
  side = min(height, width)
  middle = np.array([width, height]) * rng.uniform(0.4, 0.6, 2)
  rendered = rendered or side
  zoom = rendered / side * rng.uniform(*zooms)
  homography = view_pairs.random_view(rng, middle, rendered, zoom, 0.4)
  view = view_pairs.render(image, homography, rendered)
  return view_pairs.change_pixels(rng, cv2.resize(view, (side, side)), 0.6)


def whitening(
  first: np.ndarray,
  second: np.ndarray,
  everything: np.ndarray,
  dimension: int,
  shrinkage: float = _SHRINKAGE,
) -> tuple[np.ndarray, np.ndarray]:
  """Return a dense layer that whitens differences of photos of one place.

  The projection of Mikolajczyk and Matas (ICCV 2007), as in Radenovic et al.
  (PAMI 2018): whiten the differences of matching pairs, `first` and `second`
  [N, C], and keep the directions of largest variance of `everything` [M, C].

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
  backbone: Any,
  images: list[np.ndarray],
  labels: Any,
  options: ClassOptions = ClassOptions(),
) -> tuple[float, float]:
  """Train the embedding layer so that photos of one class are near.

  The rest of the backbone, and so local features, do not change. The embedding
  e becomes e + T e, where T starts at 0: with few photos it changes little.

  Returns:
    ArcFace's loss at the first and at the last tenth of the steps.
  """
  inputs, labels = _views(backbone, images, np.asarray(labels), options.seed)
  layer = backbone.embedding_layer
  kernel = keras.ops.convert_to_numpy(layer.kernel)
  bias = keras.ops.convert_to_numpy(layer.bias)
  embedded = np.float32(inputs @ kernel + bias)
  # The learning rate is meant for embeddings of unit variance.
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
  # Only one view is in memory at a time.
  repeated = (image for _ in range(times) for image in images)
  views = (_view(rng, image, (0.7, 1.3), _SIDE) for image in repeated)
  rows = pooled(backbone, images)
  rows = np.concatenate([rows, pooled(backbone, views, times * len(images))])
  return rows, np.tile(labels, 1 + times)


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
