"""TensorFlow operations: normalisation, image pyramids, feature selection."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from delf.python import feature_extractor


def normalize(
  inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Normalise a batch [B, H, W, C] with its own statistics.

  Returns the batch, and float32 [C] mean and variance of its channels.
  """
  outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
    x=inputs,
    scale=tf.cast(gamma, tf.float32),
    offset=tf.cast(beta, tf.float32),
    mean=[],
    variance=[],
    epsilon=epsilon,
    is_training=True,
  )
  # TensorFlow returns the unbiased variance.
  number = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), tf.float32)
  return outputs, mean, variance * (number - 1.0) / number


class Receptive(NamedTuple):
  """Receptive field of one cell of the feature map, in pixels of its image."""

  size: int
  stride: int
  padding: int


# block3 of ResNet-50 without `block3_strides`.
RESNET = Receptive(291, 16, 145)


class Selection(NamedTuple):
  """Limits of the selected local features; an `iou` of 1.0 keeps overlaps."""

  max_feature_num: tf.Tensor
  abs_thres: tf.Tensor
  iou: float

  @property
  def keeps_overlaps(self) -> bool:
    """Whether features that overlap better ones are kept."""
    return not tf.is_tensor(self.iou) and self.iou >= 1.0


class LocalFeatures(NamedTuple):
  """Local features of all images of a batch, in one list of N."""

  boxes: tf.Tensor  # [N, 4] float32 (ymin, xmin, ymax, xmax) in pixels.
  features: tf.Tensor  # [N, D] float32.
  scales: tf.Tensor  # [N] float32, inverse of the image scale.
  scores: tf.Tensor  # [N] float32, attention.
  image: tf.Tensor  # [N] int32, position of the image in the batch.


def select(
  local: LocalFeatures, selection: Selection, image: tf.Tensor | None = None
) -> tf.Tensor:
  """Return [K] int32: positions in `local` to keep, best score first.

  Equal scores keep their order. NaN counts as the best score, so that callers
  can report it. `image` is the position in a batch, or None for a batch of one.
  """
  if image is None:
    return _suppress(local.boxes, local.scores, selection)
  rows = tf.cast(tf.where(local.image == image)[:, 0], tf.int32)
  boxes, scores = tf.gather(local.boxes, rows), tf.gather(local.scores, rows)
  return tf.gather(rows, _suppress(boxes, scores, selection))


def _suppress(boxes, scores, selection):
  if selection.keeps_overlaps:
    return _best(scores, selection.max_feature_num)
  return tf.image.non_max_suppression(
    boxes, _rank(scores), selection.max_feature_num, selection.iou
  )


def _best(scores, most):
  """Return [..., K] int32: positions of the K best; lower ones at ties."""
  number = tf.minimum(most, tf.shape(scores)[-1])
  return tf.math.top_k(_rank(scores), number).indices


def _rank(scores):
  return tf.where(tf.math.is_nan(scores), float("inf"), scores)


def candidates(
  maps: list[tf.Tensor],
  scale: tf.Tensor,
  selection: Selection,
  receptive: Receptive,
) -> LocalFeatures:
  """Return the local features of one scale that pass the threshold.

  They are ordered by image, then by score or, before suppression, by position.
  """
  attention, features, *offsets = maps
  shape = tf.shape(features)
  scores = tf.reshape(attention, [shape[0], -1])
  calculate = feature_extractor.CalculateReceptiveBoxes
  boxes = calculate(shape[1], shape[2], *receptive)
  if selection.keeps_overlaps:
    # The best of all scales are among the best of each scale.
    cells = _best(scores, selection.max_feature_num)
  else:
    cells = tf.broadcast_to(tf.range(tf.shape(scores)[1]), tf.shape(scores))
  ranked = tf.gather(scores, cells, batch_dims=1)
  # NaN must not be dropped silently; TensorFlow makes `>=` of `not <`.
  passes = (ranked >= selection.abs_thres) | tf.math.is_nan(ranked)
  image = tf.cast(tf.where(passes)[:, 0], tf.int32)
  cell = tf.boolean_mask(cells, passes)
  position = image * shape[1] * shape[2] + cell
  flat = tf.reshape(features, [-1, features.shape[-1] or shape[-1]])
  boxes = tf.gather(boxes, cell)
  if offsets:
    moves = tf.gather(tf.reshape(offsets[0], [-1, 2]), position)
    boxes += tf.tile(moves, [1, 2])
  return LocalFeatures(
    boxes=boxes / scale,
    features=tf.gather(flat, position),
    scales=tf.fill(tf.shape(cell), 1.0 / scale),
    scores=tf.boolean_mask(ranked, passes),
    image=image,
  )


def scaled_size(
  height: tf.Tensor, width: tf.Tensor, scale: tf.Tensor
) -> tf.Tensor:
  """Return int32 [2], size of an image at a scale, rounded half to even."""
  size = tf.cast(tf.stack([height, width]), tf.float32)
  return tf.cast(tf.round(size * scale), tf.int32)


def resize(images: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
  """Return images [B, H, W, 3] at a scale, float32, bilinear."""
  shape = tf.shape(images)
  return tf.image.resize(images, scaled_size(shape[1], shape[2], scale))


def local(
  images: tf.Tensor,
  image_scales: tf.Tensor,
  selection: Selection,
  model_fn: Callable,
  receptive: Receptive = RESNET,
) -> LocalFeatures:
  """Return the local features of all scales [S], before the last selection.

  Images are [B, H, W, 3] float32, normalised. `model_fn` maps images
  [B, h, w, 3] to attention [B, y, x, 1], features [B, y, x, D] and optionally
  offsets [B, y, x, 2]: (y, x) from the centre of a feature's cell, in pixels.
  """

  def step(index, arrays):
    maps = model_fn(resize(images, image_scales[index]))
    features = candidates(maps, image_scales[index], selection, receptive)
    return _write(arrays, index, features)

  number = tf.size(image_scales)
  arrays = _loop(number, step, _arrays(number, _LOCAL_TYPES))
  return LocalFeatures(*(array.concat() for array in arrays))


def global_(
  images: tf.Tensor,
  image_scales: tf.Tensor,
  indices: tf.Tensor,
  model_fn: Callable,
) -> tf.Tensor:
  """Return [B, G, D] float32: global descriptors, in the order of the scales.

  Images are those of `local`; `model_fn` returns [B, D]. `indices` are
  positions in `image_scales`, at least one, in any order; repeated ones count
  once.
  """
  used = tf.where(_is_used(image_scales, indices))[:, 0]
  scales = tf.gather(image_scales, used)

  def step(index, arrays):
    return _write(arrays, index, [model_fn(resize(images, scales[index]))])

  number = tf.size(scales)
  (array,) = _loop(number, step, _arrays(number, [tf.float32]))
  return _stack(array, indices)


def local_and_global(
  images: tf.Tensor,
  image_scales: tf.Tensor,
  selection: Selection,
  indices: tf.Tensor,
  model_fns: tuple[Callable, Callable],
  receptive: Receptive = RESNET,
) -> tuple[LocalFeatures, tf.Tensor]:
  """Return the results of `local` and `global_`, running the network once.

  The first function returns a descriptor [B, D'], attention, features and
  optionally offsets; the second one, for scales without a descriptor, the rest.
  """
  full_fn, local_fn = model_fns
  is_used = _is_used(image_scales, indices)
  # Position of each used scale among the used ones.
  positions = tf.cumsum(tf.cast(is_used, tf.int32), exclusive=True)

  def step(index, arrays):
    scaled = resize(images, image_scales[index])
    *local_arrays, descriptors = arrays

    def with_global():
      descriptor, *maps = full_fn(scaled)
      return (*maps, descriptors.write(positions[index], descriptor))

    *maps, written = tf.cond(
      is_used[index], with_global, lambda: (*local_fn(scaled), descriptors)
    )
    features = candidates(maps, image_scales[index], selection, receptive)
    return (*_write(local_arrays, index, features), written)

  number = tf.size(image_scales)
  used = tf.reduce_sum(tf.cast(is_used, tf.int32))
  start = (*_arrays(number, _LOCAL_TYPES), *_arrays(used, [tf.float32]))
  *arrays, descriptors = _loop(number, step, start)
  local_features = LocalFeatures(*(array.concat() for array in arrays))
  return local_features, _stack(descriptors, indices)


def _is_used(image_scales, indices):
  """Return [S] bool: whether each scale is among the indices."""
  positions = tf.range(tf.size(image_scales))
  indices = tf.convert_to_tensor(indices, tf.int32)
  return tf.reduce_any(positions[:, None] == indices[None, :], axis=1)


def _loop(number, step, arrays):
  """Call `step(index, arrays) -> arrays` for each index in turn."""
  _, arrays = tf.while_loop(
    lambda index, _: index < number,
    lambda index, arrays: (index + 1, step(index, arrays)),
    (tf.constant(0), tuple(arrays)),
    # One scale keeps the processor busy, and more take more memory.
    parallel_iterations=1,
  )
  return arrays


_LOCAL_TYPES = (tf.float32, tf.float32, tf.float32, tf.float32, tf.int32)


def _arrays(number, types):
  return tuple(tf.TensorArray(t, number, infer_shape=False) for t in types)


def _write(arrays, index, values):
  return tuple(
    array.write(index, value)
    for array, value in zip(arrays, values, strict=True)
  )


def _stack(array, indices):
  """Return [B, G, D] of descriptors [B, D] by scale."""
  check = tf.debugging.assert_positive(
    tf.size(indices), "global descriptors need at least one global scale"
  )
  with tf.control_dependencies([check] if check is not None else []):
    return tf.transpose(array.stack(), [1, 0, 2])
