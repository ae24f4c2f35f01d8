"""Choice of local features on a feature map, as TensorFlow code."""

import typing

import tensorflow as tf

from delf.python import feature_extractor


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
