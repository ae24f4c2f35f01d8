"""What only TensorFlow does: fused normalisation and selection of features."""

import typing

import tensorflow as tf

from delf.python import feature_extractor


def normalize(inputs, gamma, beta, epsilon):
  """Normalises a batch [B, H, W, C] with its own statistics.

  Returns:
    The batch, and float32 [C] mean and variance of its channels.
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
  # It divides the variance by one less than the number of values.
  number = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), tf.float32)
  return outputs, mean, variance * (number - 1.0) / number


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


def select(found: Local, selection: Selection, image=None):
  """Returns [K] int32: positions in `found` that stay, best score first.

  Equal scores keep their order. A score that is not a number counts as the
  best, so that it is seen. `image` is the position in a batch, or None for a
  batch of one.
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
  """Returns the Local features of all scales, before the last selection.

  Args:
    images: [B, H, W, 3] float32, normalised.
    image_scales: [S] float32.
    model_fn: Function of [B, h, w, 3] images that gives attention [B, y, x, 1],
      features [B, y, x, D] and perhaps offsets [B, y, x, 2].
    receptive: Receptive of the feature map.
  """

  def step(index, arrays):
    maps = model_fn(resize(images, image_scales[index]))
    found = candidates(maps, image_scales[index], selection, receptive)
    return _write(arrays, index, found)

  number = tf.size(image_scales)
  return _concatenate(_loop(number, step, _arrays(number)))


def global_(images, image_scales, indices, model_fn):
  """Returns [B, G', D] float32: global descriptors, by scale.

  Args:
    images: [B, H, W, 3] float32, normalised.
    image_scales: [S] float32.
    indices: [G] int32, positions in `image_scales`, at least one. Their order
      and repetitions do not matter.
    model_fn: Function of [B, h, w, 3] images that gives [B, D].
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
  images, image_scales, selection, indices, model_fns, receptive=RESNET
):
  """Returns what `local` and `global_` return, running the network once.

  Args:
    model_fns: Two functions of [B, h, w, 3] images: one gives (descriptor
      [B, D'], attention, features and perhaps offsets), the other the same
      without the descriptor, for the scales that need none.
  """
  full_fn, local_fn = model_fns
  is_used = _is_used(image_scales, indices)
  # Position of each used scale among those used.
  positions = tf.cumsum(tf.cast(is_used, tf.int32), exclusive=True)

  def step(index, arrays):
    scaled = resize(images, image_scales[index])
    *local_arrays, descriptors = arrays

    def with_global(outputs):
      descriptor, *maps = outputs
      return (*maps, descriptors.write(positions[index], descriptor))

    *maps, written = tf.cond(
      is_used[index],
      lambda: with_global(full_fn(scaled)),
      lambda: (*local_fn(scaled), descriptors),
    )
    found = candidates(maps, image_scales[index], selection, receptive)
    return (*_write(local_arrays, index, found), written)

  number = tf.size(image_scales)
  used = tf.reduce_sum(tf.cast(is_used, tf.int32))
  start = (*_arrays(number), _descriptor_array(used))
  *arrays, descriptors = _loop(number, step, start)
  return _concatenate(arrays), _stack(descriptors, indices)


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
