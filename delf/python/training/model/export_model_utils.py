"""Features of one image over several scales, with the names of the original."""

import tensorflow as tf

from delf.networks import tensorflow_ops
from delf.python import feature_extractor

# Under this the squared norm of a descriptor counts as zero.
_EPSILON = 1e-12


def ExtractLocalFeatures(  # noqa: PLR0913
  image,
  image_scales,
  max_feature_num,
  abs_thres,
  iou,
  attention_model_fn,
  stride_factor,
  receptive=tensorflow_ops.RESNET,
):
  """Extracts local features at several scales.

  Args:
    image: [H, W, 3] uint8.
    image_scales: [S] float32.
    max_feature_num: int32 [], the most features to return.
    abs_thres: float32 [], the least attention of a feature.
    iou: float, overlap of two boxes above which the one with less attention
      goes; 1.0 keeps all.
    attention_model_fn: Function of images [1, h, w, 3] float32 that returns
      attention [1, y, x, 1] and features [1, y, x, D], for any D.
    stride_factor: float, by which the receptive stride is multiplied.
    receptive: (size, stride, padding) of the feature map's receptive field, in
      pixels.

  Returns:
    boxes [N, 4] float32, (ymin, xmin, ymax, xmax) in pixels of `image`;
    features [N, D] float32; scales [N] float32, inverse image scales; scores
    [N, 1] float32. The best score is first; of equal ones, that of the earlier
    scale, then the upper one, then the left one.
  """
  selection = tensorflow_ops.Selection(max_feature_num, abs_thres, iou)
  found = tensorflow_ops.local(
    feature_extractor.NormalizePixelValues(image)[tf.newaxis],
    image_scales,
    selection,
    attention_model_fn,
    _strided(receptive, stride_factor),
  )
  return _selected(found, selection)


@tf.function
def ExtractGlobalFeatures(
  image,
  image_scales,
  global_scales_ind,
  model_fn,
  multi_scale_pool_type="None",
  normalize_global_descriptor=False,
):
  """Extracts global descriptors at several scales.

  Args:
    image: [H, W, 3] uint8.
    image_scales: [S] float32.
    global_scales_ind: [G] int32, positions of the scales to use. They are taken
      in the order of `image_scales`, each once.
    model_fn: Function of images [1, h, w, 3] float32 that returns [1, D].
    multi_scale_pool_type: "None", "average" or "sum" over the scales.
    normalize_global_descriptor: Whether to L2-normalise what is returned.

  Returns:
    [G, D] float32 if `multi_scale_pool_type` is "None", else [D].

  Raises:
    ValueError: If `multi_scale_pool_type` is none of these.
    tf.errors.InvalidArgumentError: If `global_scales_ind` is empty.
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
  image,
  image_scales,
  max_feature_num,
  abs_thres,
  global_scales_ind,
  iou,
  model_fn,
  stride_factor,
  receptive=tensorflow_ops.RESNET,
  local_model_fn=None,
):
  """Extracts local features at all scales and global descriptors at some.

  Args:
    image: [H, W, 3] uint8.
    image_scales: [S] float32.
    max_feature_num: int32 [], the most local features to return.
    abs_thres: float32 [], the least attention of a local feature.
    global_scales_ind: [G] int32, as in ExtractGlobalFeatures.
    iou: float, as in ExtractLocalFeatures.
    model_fn: Function of images [1, h, w, 3] float32 that returns a global
      descriptor [1, D'], attention [1, y, x, 1] and features [1, y, x, D].
    stride_factor: float, by which the receptive stride is multiplied.
    receptive: As in ExtractLocalFeatures.
    local_model_fn: Function that returns the last two alone, for the scales
      without a global descriptor; by default `model_fn`, whose descriptor is
      then not computed as far as TensorFlow can tell that nothing needs it.

  Returns:
    boxes, features, scales, scores as ExtractLocalFeatures returns them, and
    global descriptors [G, D'] float32.

  Raises:
    tf.errors.InvalidArgumentError: If `global_scales_ind` is empty.
  """
  selection = tensorflow_ops.Selection(max_feature_num, abs_thres, iou)
  found, descriptors = tensorflow_ops.local_and_global(
    feature_extractor.NormalizePixelValues(image)[tf.newaxis],
    image_scales,
    selection,
    global_scales_ind,
    (model_fn, local_model_fn or (lambda images: model_fn(images)[1:])),
    _strided(receptive, stride_factor),
  )
  return (*_selected(found, selection), descriptors[0])


def pool_scales(descriptors, pool_type, normalize):
  """Combines the descriptors of several scales.

  Args:
    descriptors: [..., G, D] float32.
    pool_type: "None", "average" or "sum".
    normalize: Whether to L2-normalise what is returned.

  Returns:
    [..., G, D] float32 if `pool_type` is "None", else [..., D].

  Raises:
    ValueError: If `pool_type` is none of these.
  """
  if pool_type == "average":
    descriptors = tf.reduce_mean(descriptors, axis=-2)
  elif pool_type == "sum":
    descriptors = tf.reduce_sum(descriptors, axis=-2)
  elif pool_type != "None":
    raise ValueError(
      "expected multi_scale_pool_type None, average or sum, received"
      f" {pool_type}"
    )
  if normalize:
    descriptors = tf.math.l2_normalize(descriptors, -1, epsilon=_EPSILON)
  return descriptors


def _strided(receptive, stride_factor):
  size, stride, padding = receptive
  return tensorflow_ops.Receptive(size, stride * stride_factor, padding)


def _selected(found, selection):
  kept = tensorflow_ops.select(found, selection)
  return (
    tf.gather(found.boxes, kept),
    tf.gather(found.features, kept),
    tf.gather(found.scales, kept),
    tf.gather(found.scores, kept)[:, tf.newaxis],
  )
