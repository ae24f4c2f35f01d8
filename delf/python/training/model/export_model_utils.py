"""Features of one image at several scales, with the original's names."""

from collections.abc import Callable

import tensorflow as tf

from delf.networks import tensorflow_ops
from delf.python import feature_extractor

# Smallest squared norm of a descriptor to divide by.
_EPSILON = 1e-12


def ExtractLocalFeatures(  # noqa: PLR0913
  image: tf.Tensor,
  image_scales: tf.Tensor,
  max_feature_num: tf.Tensor,
  abs_thres: tf.Tensor,
  iou: float,
  attention_model_fn: Callable,
  stride_factor: float,
  receptive: tensorflow_ops.Receptive = tensorflow_ops.RESNET,
) -> tuple[tf.Tensor, ...]:
  """Extract local features at several scales.

  Args:
    image: [H, W, 3] uint8.
    image_scales: [S] float32.
    max_feature_num: int32 [], the largest number of features.
    abs_thres: float32 [], the smallest attention of a feature.
    iou: Overlap of two boxes above which the one with less attention is
      dropped; 1.0 keeps all.
    attention_model_fn: Function of images [1, h, w, 3] float32 that returns
      attention [1, y, x, 1] and features [1, y, x, D].
    stride_factor: Factor on the stride of `receptive`.

  Returns:
    boxes [N, 4] float32, (ymin, xmin, ymax, xmax) in pixels of `image`;
    features [N, D] float32; scales [N] float32, inverse image scales; scores
    [N, 1] float32. Scores descend; ties are ordered by scale, row and column.
  """
  selection = tensorflow_ops.Selection(max_feature_num, abs_thres, iou)
  local = tensorflow_ops.local(
    feature_extractor.NormalizePixelValues(image)[tf.newaxis],
    image_scales,
    selection,
    attention_model_fn,
    _strided(receptive, stride_factor),
  )
  return _selected(local, selection)


@tf.function
def ExtractGlobalFeatures(
  image: tf.Tensor,
  image_scales: tf.Tensor,
  global_scales_ind: tf.Tensor,
  model_fn: Callable,
  multi_scale_pool_type: str = "None",
  normalize_global_descriptor: bool = False,
) -> tf.Tensor:
  """Extract global descriptors at several scales.

  Args:
    image: [H, W, 3] uint8.
    image_scales: [S] float32.
    global_scales_ind: [G] int32, one or more indices of `image_scales`; used in
      ascending order, each once.
    model_fn: Function of images [1, h, w, 3] float32 that returns [1, D].
    multi_scale_pool_type: "None", "average" or "sum" over the scales.

  Returns:
    [G, D] float32 if `multi_scale_pool_type` is "None", else [D].
  """
  descriptors = tensorflow_ops.global_(
    feature_extractor.NormalizePixelValues(image)[tf.newaxis],
    image_scales,
    global_scales_ind,
    model_fn,
  )
  return pool_scales(
    descriptors[0], multi_scale_pool_type, normalize_global_descriptor
  )


@tf.function
def ExtractLocalAndGlobalFeatures(  # noqa: PLR0913
  image: tf.Tensor,
  image_scales: tf.Tensor,
  max_feature_num: tf.Tensor,
  abs_thres: tf.Tensor,
  global_scales_ind: tf.Tensor,
  iou: float,
  model_fn: Callable,
  stride_factor: float,
  receptive: tensorflow_ops.Receptive = tensorflow_ops.RESNET,
  local_model_fn: Callable | None = None,
) -> tuple[tf.Tensor, ...]:
  """Extract local features at all scales and global descriptors at some.

  For other arguments see ExtractLocalFeatures and ExtractGlobalFeatures.

  Args:
    model_fn: Function of images [1, h, w, 3] float32 that returns a global
      descriptor [1, D'], attention [1, y, x, 1] and features [1, y, x, D].
    local_model_fn: Function that returns only attention and features, for
      scales without a global descriptor; by default it is derived from
      `model_fn`, whose descriptor TensorFlow prunes if possible.

  Returns:
    boxes, features, scales and scores of ExtractLocalFeatures, and global
    descriptors [G, D'] float32.
  """
  selection = tensorflow_ops.Selection(max_feature_num, abs_thres, iou)
  local, descriptors = tensorflow_ops.local_and_global(
    feature_extractor.NormalizePixelValues(image)[tf.newaxis],
    image_scales,
    selection,
    global_scales_ind,
    (model_fn, local_model_fn or (lambda images: model_fn(images)[1:])),
    _strided(receptive, stride_factor),
  )
  return (*_selected(local, selection), descriptors[0])


def pool_scales(
  descriptors: tf.Tensor, pool_type: str, normalize: bool
) -> tf.Tensor:
  """Pool descriptors [..., G, D] over the scales, unless the type is "None"."""
  if pool_type == "average":
    descriptors = tf.reduce_mean(descriptors, axis=-2)
  elif pool_type == "sum":
    descriptors = tf.reduce_sum(descriptors, axis=-2)
  elif pool_type != "None":
    raise ValueError(
      f"multi_scale_pool_type must be None, average or sum, not {pool_type}"
    )
  if normalize:
    descriptors = tf.math.l2_normalize(descriptors, -1, epsilon=_EPSILON)
  return descriptors


def _strided(receptive, stride_factor):
  size, stride, padding = receptive
  return tensorflow_ops.Receptive(size, stride * stride_factor, padding)


def _selected(local, selection):
  kept = tensorflow_ops.select(local, selection)
  return (
    tf.gather(local.boxes, kept),
    tf.gather(local.features, kept),
    tf.gather(local.scales, kept),
    tf.gather(local.scores, kept)[:, tf.newaxis],
  )
