"""Keypoints inside the cells of a feature map of stride 8."""

import typing

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from delf.python import feature_extractor
from delf.python.normalization_layers import normalization

STRIDE = 8

# Positions in a cell, row by row.
PIXELS = STRIDE * STRIDE


def _positions():
  """Returns float32 [PIXELS, 2]: (y, x) from the centre of the cell."""
  one = np.arange(STRIDE, dtype=np.float32) - STRIDE / 2
  return np.stack(np.meshgrid(one, one, indexing="ij"), -1).reshape(-1, 2)


POSITIONS = _positions()

# Whether two positions are the same or touch.
_TOUCH = (np.abs(POSITIONS[:, None] - POSITIONS[None]).max(-1) < 1.5).astype(
  np.float32
)


def offsets(logits):
  """Returns where the keypoint of each cell is, finer than a pixel.

  The best position and those around it, weighted by their probabilities.

  Args:
    logits: float [..., PIXELS].

  Returns:
    float32 [..., 2], (y, x) from the centre of the cell, in pixels.
  """
  logits = ops.cast(logits, "float32")
  logits = logits - ops.max(logits, axis=-1, keepdims=True)
  # Not `argmax`, of which Keras makes operations that no other format has.
  best = ops.cast(ops.equal(logits, 0.0), "float32")
  near = ops.minimum(ops.matmul(best, ops.convert_to_tensor(_TOUCH)), 1.0)
  weights = near * ops.exp(logits)
  weights = weights / ops.sum(weights, axis=-1, keepdims=True)
  return ops.matmul(weights, ops.convert_to_tensor(POSITIONS))


def sample(cells, moves):
  """Interpolates a map of cells at a point of each cell.

  Args:
    cells: float [B, H, W, C].
    moves: float [B, H, W, 2], (y, x) from the centre of each cell in pixels.

  Returns:
    float [B, H, W, C].
  """
  shape = ops.shape(cells)
  height, width = shape[1], shape[2]
  rows = ops.expand_dims(ops.cast(ops.arange(height), "float32"), 1)
  columns = ops.expand_dims(ops.cast(ops.arange(width), "float32"), 0)
  y = rows + moves[..., 0] / STRIDE
  x = columns + moves[..., 1] / STRIDE
  points = ops.reshape(ops.stack([y, x], -1), [shape[0], height * width, 2])
  return ops.reshape(interpolate(cells, points), shape)


def interpolate(cells, points):
  """Interpolates a map of cells linearly; its edge goes on outside.

  Args:
    cells: float [B, H, W, C].
    points: float [B, N, 2], (row, column) in cells.

  Returns:
    float [B, N, C], NaN at points that are.
  """
  shape = ops.shape(cells)
  height, width = shape[1], shape[2]
  last = ops.cast(ops.stack([height - 1, width - 1]), "float32")
  points = ops.clip(ops.cast(points, "float32"), 0.0, last)
  low = ops.minimum(ops.floor(points), ops.maximum(last - 1.0, 0.0))
  share = ops.expand_dims(ops.cast(points - low, cells.dtype), -1)
  most = ops.stack([height - 1, width - 1])
  # A point that is no number is any integer: it must not be read outside of
  # the map, and its share makes the result none.
  low = ops.minimum(ops.maximum(ops.cast(low, "int32"), 0), most)
  high = ops.minimum(low + 1, most)
  # One list for all images, which is faster to gather from than one each.
  flat = ops.reshape(cells, [-1, cells.shape[-1]])
  start = ops.expand_dims(ops.arange(shape[0]) * height * width, 1)

  def at(rows, columns):
    return ops.take(flat, start + rows * width + columns, axis=0)

  top = _blend(
    at(low[..., 0], low[..., 1]), at(low[..., 0], high[..., 1]), share[:, :, 1]
  )
  bottom = _blend(
    at(high[..., 0], low[..., 1]),
    at(high[..., 0], high[..., 1]),
    share[:, :, 1],
  )
  return _blend(top, bottom, share[:, :, 0])


def _blend(first, second, share):
  return first + (second - first) * share


# Weight of the L2 regularisation of the attention's convolutions.
_DECAY = 1e-4

# Channels of the attention's first convolution: section 3.3 of DELF.
_ATTENTION_CHANNELS = 512
# From here on the softplus of a float32 is the number itself.
_SAME = 20.0


class AttentionModel(keras.Model):
  """Scores of local features, and the mean feature that they weight."""

  foldable = (("conv1", "bn_conv1"),)

  def __init__(self, kernel_size=1, decay=_DECAY, name="attention"):
    """Creates the model.

    Args:
      kernel_size: Side of the convolutions' kernels in positions.
      decay: Weight of their L2 regularisation (see `losses`).
      name: Name of the model.
    """
    super().__init__(name=name)
    self.conv1 = layers.Conv2D(
      _ATTENTION_CHANNELS,
      kernel_size,
      padding="same",
      kernel_regularizer=keras.regularizers.L2(decay),
      name="attn_conv1",
    )
    self.bn_conv1 = normalization.BatchNormalization(axis=3, name="bn_conv1")
    self.conv2 = layers.Conv2D(
      1,
      kernel_size,
      padding="same",
      kernel_regularizer=keras.regularizers.L2(decay),
      name="attn_conv2",
    )

  def build(self, input_shape):
    """Makes the variables for local features of this shape."""
    self.conv1.build(input_shape)
    hidden_shape = (*input_shape[:3], _ATTENTION_CHANNELS)
    self.bn_conv1.build(hidden_shape)
    self.conv2.build(hidden_shape)

  def call(self, inputs, training=True):
    """Scores local features.

    Args:
      inputs: Float [B, H, W, C], local features.
      training: Whether batch normalisation uses the statistics of the batch.

    Returns:
      Tuple of float [B, C], the mean of the features at unit length times their
      probabilities; float [B, H, W, 1] >= 0, the "probabilities", which are the
      softplus of the scores; and float [B, H, W, 1], the scores.
    """
    x = self.bn_conv1(self.conv1(inputs), training=training)
    score = self.conv2(ops.relu(x))
    probability = _softplus(score)
    units = normalization.l2_normalize(inputs, axis=-1)
    feature = ops.mean(units * probability, axis=(1, 2))
    return feature, probability, score


def _softplus(score):
  """Returns the softplus, to the bit, without e to the power of a high score.

  TFLite's own is infinite from 89 on, and scores of trained models go to 1000.
  """
  low = ops.softplus(ops.minimum(score, _SAME))
  return ops.where(score > _SAME, score, low)


class AutoencoderModel(keras.Model):
  """Short codes of local features, and the features back from them."""

  def __init__(
    self, reduced_dimension, expand_dimension, kernel_size=1, name="autoencoder"
  ):
    """Creates the model.

    Args:
      reduced_dimension: Channels of the codes.
      expand_dimension: Channels of the features.
      kernel_size: Side of the convolutions' kernels in positions.
      name: Name of the model.
    """
    super().__init__(name=name)
    self.conv1 = layers.Conv2D(
      reduced_dimension, kernel_size, padding="same", name="autoenc_conv1"
    )
    self.conv2 = layers.Conv2D(
      expand_dimension,
      kernel_size,
      padding="same",
      activation="relu",
      name="autoenc_conv2",
    )

  def build(self, input_shape):
    """Makes the variables for local features of this shape."""
    self.conv1.build(input_shape)
    self.conv2.build((*input_shape[:3], self.conv1.filters))

  def call(self, inputs):
    """Codes local features.

    Args:
      inputs: Float [B, H, W, C], local features.

    Returns:
      Tuple of float [B, H, W, expand_dimension], the features back from the
      codes, and float [B, H, W, reduced_dimension], the codes.
    """
    reduced = self.conv1(inputs)
    return self.conv2(reduced), reduced


class Receptive(typing.NamedTuple):
  """Receptive field of one cell of the feature map, in pixels of its image."""

  size: int
  stride: int
  padding: int


# block3 of ResNet-50 without `block3_strides`.
RESNET = Receptive(291, 16, 145)


class Selection(typing.NamedTuple):
  """Which local features to keep.

  Attributes:
    max_feature_num: int32 [], the most per image.
    abs_thres: float32 [], the least attention.
    iou: float, overlap of two boxes above which the weaker one goes; from 1.0
      on, all stay.
  """

  max_feature_num: tf.Tensor
  abs_thres: tf.Tensor
  iou: float


class Local(typing.NamedTuple):
  """Local features of a batch, in one list.

  Attributes:
    boxes: [N, 4] float32, receptive boxes (ymin, xmin, ymax, xmax) in pixels.
    features: [N, D] float32.
    scales: [N] float32, inverse of the image scale.
    scores: [N] float32, attention.
    image: [N] int32, position of the image in the batch.
  """

  boxes: tf.Tensor
  features: tf.Tensor
  scales: tf.Tensor
  scores: tf.Tensor
  image: tf.Tensor


def select(found, selection, image=None):
  """Returns the positions in `found` that stay, best score first.

  Equal scores keep their order. A score that is not a number counts as the
  best, so that it is seen.

  Args:
    found: Local.
    selection: Selection.
    image: int32 [], position in the batch, or None for a batch of one.

  Returns:
    [K] int32.
  """
  if image is None:
    return _suppress(found.boxes, found.scores, selection)
  mine = tf.cast(tf.where(found.image == image)[:, 0], tf.int32)
  boxes, scores = tf.gather(found.boxes, mine), tf.gather(found.scores, mine)
  return tf.gather(mine, _suppress(boxes, scores, selection))


def _suppress(boxes, scores, selection):
  if _keeps_overlaps(selection):
    return _best(scores, selection.max_feature_num)
  return tf.image.non_max_suppression(
    boxes, _rank(scores), selection.max_feature_num, selection.iou
  )


def _keeps_overlaps(selection):
  return not tf.is_tensor(selection.iou) and selection.iou >= 1.0


def _best(scores, most):
  """Returns [..., K] int32: positions of the K best; lower ones at ties."""
  number = tf.minimum(most, tf.shape(scores)[-1])
  return tf.math.top_k(_rank(scores), number).indices


def _rank(scores):
  return tf.where(tf.math.is_nan(scores), float("inf"), scores)


def candidates(maps, scale, selection, receptive):
  """Returns the local features of one scale that pass the threshold.

  Args:
    maps: Attention, [B, y, x, 1] float32; features, [B, y, x, D] float32; and
      perhaps offsets, [B, y, x, 2] float32: (y, x) of each feature from the
      centre of its cell, in pixels.
    scale: float32 [], image scale.
    selection: Selection.
    receptive: Receptive of the feature map.

  Returns:
    Local, by image, then by score or by position.
  """
  attention, features, *offsets = maps
  shape = tf.shape(features)
  scores = tf.reshape(attention, [shape[0], -1])
  boxes = feature_extractor.CalculateReceptiveBoxes(
    shape[1], shape[2], *receptive
  )
  if _keeps_overlaps(selection):
    # What is not among the best of its scale is not among the best of all.
    cells = _best(scores, selection.max_feature_num)
  else:
    cells = tf.broadcast_to(tf.range(tf.shape(scores)[1]), tf.shape(scores))
  ranked = tf.gather(scores, cells, batch_dims=1)
  # What is not a number would else be dropped in silence; `not <` does not do,
  # as TensorFlow makes `>=` of it.
  passes = (ranked >= selection.abs_thres) | tf.math.is_nan(ranked)
  image = tf.cast(tf.where(passes)[:, 0], tf.int32)
  cell = tf.boolean_mask(cells, passes)
  position = image * shape[1] * shape[2] + cell
  flat = tf.reshape(features, [-1, features.shape[-1] or shape[-1]])
  boxes = tf.gather(boxes, cell)
  if offsets:
    moves = tf.gather(tf.reshape(offsets[0], [-1, 2]), position)
    boxes += tf.tile(moves, [1, 2])
  return Local(
    boxes=boxes / scale,
    features=tf.gather(flat, position),
    scales=tf.fill(tf.shape(cell), 1.0 / scale),
    scores=tf.boolean_mask(ranked, passes),
    image=image,
  )


def scaled_size(height, width, scale):
  """Returns int32 [2], size of an image at a scale, rounded half to even."""
  size = tf.cast(tf.stack([height, width]), tf.float32)
  return tf.cast(tf.round(size * scale), tf.int32)


def resize(images, scale):
  """Returns [B, H', W', 3] float32: images at a scale, bilinear."""
  shape = tf.shape(images)
  return tf.image.resize(images, scaled_size(shape[1], shape[2], scale))


def local(images, image_scales, selection, model_fn, receptive=RESNET):
  """Returns the local features of all scales, before the last selection.

  Args:
    images: [B, H, W, 3] float32, normalised.
    image_scales: [S] float32.
    selection: Selection.
    model_fn: Function of [B, h, w, 3] images that gives attention [B, y, x, 1],
      features [B, y, x, D] and perhaps offsets [B, y, x, 2].
    receptive: Receptive of the feature map.

  Returns:
    Local.
  """

  def step(index, arrays):
    maps = model_fn(resize(images, image_scales[index]))
    found = candidates(maps, image_scales[index], selection, receptive)
    return _write(arrays, index, found)

  number = tf.size(image_scales)
  return _concatenate(_loop(number, step, _arrays(number)))


def global_(images, image_scales, indices, model_fn):
  """Returns global descriptors at some scales.

  Args:
    images: [B, H, W, 3] float32, normalised.
    image_scales: [S] float32.
    indices: [G] int32, positions in `image_scales`, at least one. Their order
      and repetitions do not matter.
    model_fn: Function of [B, h, w, 3] images that gives [B, D].

  Returns:
    [B, G', D] float32, a descriptor per scale in the order of `image_scales`.
  """
  used = tf.where(_is_used(image_scales, indices))[:, 0]
  scales = tf.gather(image_scales, used)

  def step(index, arrays):
    (array,) = arrays
    return (array.write(index, model_fn(resize(images, scales[index]))),)

  number = tf.size(scales)
  (array,) = _loop(number, step, (_descriptor_array(number),))
  return _stack(array, indices)


def local_and_global(
  images,
  image_scales,
  selection,
  indices,
  model_fns,
  receptive=RESNET,
):
  """Returns local features of all scales and global descriptors of some.

  The network runs once per scale, and its global part only where it is used.

  Args:
    images: [B, H, W, 3] float32, normalised.
    image_scales: [S] float32.
    selection: Selection.
    indices: [G] int32, as in `global_`.
    model_fns: Two functions of [B, h, w, 3] images: one gives (descriptor
      [B, D'], attention [B, y, x, 1], features [B, y, x, D] and perhaps offsets
      [B, y, x, 2]), the other the same without the descriptor.
    receptive: Receptive of the feature map.

  Returns:
    Local, and descriptors as `global_` returns them.
  """
  full_fn, local_fn = model_fns
  is_used = _is_used(image_scales, indices)
  # Position of each used scale among those used.
  positions = tf.cumsum(tf.cast(is_used, tf.int32), exclusive=True)

  def step(index, arrays):
    scaled = resize(images, image_scales[index])
    *local_arrays, descriptors = arrays
    *maps, descriptors = tf.cond(
      is_used[index],
      lambda: _with_global(full_fn(scaled), descriptors, positions[index]),
      lambda: (*local_fn(scaled), descriptors),
    )
    found = candidates(maps, image_scales[index], selection, receptive)
    return (*_write(local_arrays, index, found), descriptors)

  number = tf.size(image_scales)
  used = tf.reduce_sum(tf.cast(is_used, tf.int32))
  start = (*_arrays(number), _descriptor_array(used))
  *arrays, descriptors = _loop(number, step, start)
  return _concatenate(arrays), _stack(descriptors, indices)


def _with_global(outputs, descriptors, position):
  descriptor, *maps = outputs
  return (*maps, descriptors.write(position, descriptor))


def _is_used(image_scales, indices):
  """Returns [S] bool: whether each scale is among the indices."""
  positions = tf.range(tf.size(image_scales))
  indices = tf.convert_to_tensor(indices, tf.int32)
  return tf.reduce_any(positions[:, None] == indices[None, :], axis=1)


def _loop(number, step, arrays):
  """Calls `step(index, arrays) -> arrays` for each index in turn."""
  _, arrays = tf.while_loop(
    lambda index, _: index < number,
    lambda index, arrays: (index + 1, step(index, arrays)),
    (tf.constant(0), tuple(arrays)),
    # One scale keeps the processor busy, and takes the memory of one.
    parallel_iterations=1,
  )
  return arrays


def _arrays(number):
  """Returns a tf.TensorArray for each field of Local, filled by scale."""
  return tuple(
    tf.TensorArray(dtype, number, infer_shape=False)
    for dtype in (tf.float32, tf.float32, tf.float32, tf.float32, tf.int32)
  )


def _write(arrays, index, values):
  return tuple(
    array.write(index, value)
    for array, value in zip(arrays, values, strict=True)
  )


def _concatenate(arrays):
  return Local(*(array.concat() for array in arrays))


def _descriptor_array(number):
  return tf.TensorArray(tf.float32, number, infer_shape=False)


def _stack(array, indices):
  """Returns [B, G, D] of descriptors [B, D] by scale."""
  check = tf.debugging.assert_positive(
    tf.size(indices), "expected at least one global scale, received none"
  )
  with tf.control_dependencies([check] if check is not None else []):
    return tf.transpose(array.stack(), [1, 0, 2])
