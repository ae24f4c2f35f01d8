"""The functions that an exported model carries, with their tensor names.

`serving_default` is what users of the original know. The others let a caller
pay only for what it asks for:

  local, global          of a model with both: one part alone
  batch, batch_local, batch_global
                         the same for [B, H, W, 3] images of one size

  network, network_local the network of one scale, without the pyramid, which
                         other formats are made of: `network_functions`

A batch of B images gives arrays with B rows, local features filled up with
zeros to the longest list, and `counts` [B] int32, how many each image has.
"""

import tensorflow as tf

from delf.python import feature_extractor, network_io
from delf.python.training.model import (
  export_model_utils,
  multi_scale,
  network_functions,
  selecting,
)

_IMAGE = tf.TensorSpec([None, None, 3], tf.uint8, "input_image")
_IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8, "input_images")
_SCALES = tf.TensorSpec([None], tf.float32, "input_scales")
_MOST = tf.TensorSpec([], tf.int32, "input_max_feature_num")
_THRESHOLD = tf.TensorSpec([], tf.float32, "input_abs_thres")
_INDICES = tf.TensorSpec([None], tf.int32, "input_global_scales_ind")

# Type of pooling over scales, and whether to normalise.
_NO_POOLING = ("None", False)


def local(network, iou, variants=True):
  """Makes the functions of a model for local features.

  Args:
    network: network.Network.
    iou: float, as in `export_model_utils.ExtractLocalFeatures`.
    variants: Whether there is more than `serving_default`.

  Returns:
    dict of name to concrete function.
  """
  functions = {"serving_default": _local(network, iou)}
  if variants:
    settings = network_io.Settings(network_io.LOCAL, iou=float(iou))
    functions["batch_local"] = _local(network, iou, batch=True)
    functions |= network_functions.make(network, settings)
  return functions


def global_(network, input_scales, pool_type, normalize, variants=True):
  """Makes the functions of a model for global descriptors.

  Args:
    network: network.Network.
    input_scales: Image scales to fix, or None for scales that are an input.
    pool_type: "None", "average" or "sum" over the scales.
    normalize: Whether to L2-normalise what is returned.
    variants: As for `local`.

  Returns:
    dict of name to concrete function.
  """
  pooling = (pool_type, normalize)
  functions = {"serving_default": _global(network, pooling, input_scales)}
  if variants:
    batch = _global(network, pooling, input_scales, batch=True)
    functions["batch_global"] = batch
    settings = network_io.Settings(
      network_io.GLOBAL,
      input_scales=tuple(input_scales) if input_scales else None,
      pool_type=pool_type,
      normalize=normalize,
    )
    functions |= network_functions.make(network, settings)
  return functions


def local_and_global(network, iou, variants=True):
  """Makes the functions of a model for both.

  Args:
    network: network.Network.
    iou: float, as in `export_model_utils.ExtractLocalFeatures`.
    variants: As for `local`.

  Returns:
    dict of name to concrete function.
  """
  functions = {"serving_default": _joint(network, iou)}
  if variants:
    functions |= {
      "local": _local(network, iou),
      "global": _global(network, _NO_POOLING),
      "batch": _joint(network, iou, batch=True),
      "batch_local": _local(network, iou, batch=True),
      "batch_global": _global(network, _NO_POOLING, batch=True),
    }
    settings = network_io.Settings(network_io.JOINT, iou=float(iou))
    functions |= network_functions.make(network, settings)
  return functions


def _concrete(*specs):
  """Turns a function into its concrete one for arguments of these specs."""

  def decorate(function):
    wrapped = tf.function(function, input_signature=specs, autograph=False)
    return wrapped.get_concrete_function()

  return decorate


def _local(network, iou, batch=False):
  @_concrete(_images(batch), _SCALES, _MOST, _THRESHOLD)
  def extract(images, scales, max_feature_num, abs_thres):
    selection = selecting.Selection(max_feature_num, abs_thres, iou)
    found = multi_scale.local(
      _pixels(images, batch),
      scales,
      selection,
      network.local,
      network.receptive,
    )
    number = tf.shape(images)[0] if batch else None
    return _selected(network, found, selection, number)

  return extract


def _joint(network, iou, batch=False):
  @_concrete(_images(batch), _SCALES, _MOST, _THRESHOLD, _INDICES)
  def extract(images, scales, max_feature_num, abs_thres, indices):
    selection = selecting.Selection(max_feature_num, abs_thres, iou)
    found, descriptors = multi_scale.local_and_global(
      _pixels(images, batch),
      scales,
      selection,
      indices,
      (network.full, network.local),
      network.receptive,
    )
    number = tf.shape(images)[0] if batch else None
    descriptors = descriptors if batch else descriptors[0]
    return _selected(network, found, selection, number) | _named_global(
      descriptors, "None", batch
    )

  return extract


def _global(network, pooling, fixed_scales=None, batch=False):
  """Returns the function; `pooling` is (type, whether to normalise)."""
  fixed = fixed_scales is not None
  specs = (_images(batch),) + (() if fixed else (_SCALES, _INDICES))

  @_concrete(*specs)
  def extract(images, scales=None, indices=None):
    if fixed:
      scales = tf.constant(fixed_scales, tf.float32)
      indices = tf.range(len(fixed_scales))
    descriptors = multi_scale.global_(
      _pixels(images, batch), scales, indices, network.descriptor
    )
    pooled = export_model_utils.pool_scales(descriptors, *pooling)
    return _named_global(pooled if batch else pooled[0], pooling[0], batch)

  return extract


def _images(batch):
  return _IMAGES if batch else _IMAGE


def _pixels(images, batch):
  """Returns a batch of normalised images."""
  pixels = feature_extractor.NormalizePixelValues(images)
  return pixels if batch else pixels[tf.newaxis]


def _selected(network, found, selection, number):
  """Returns the local outputs of a batch of a number, or, if None, of one."""
  values = (found.boxes, found.features, found.scales, found.scores)
  if number is None:
    rows = selecting.select(found, selection)
    boxes, features, scales, scores = (tf.gather(v, rows) for v in values)
    scores = scores[:, tf.newaxis]
    return _named_local(network, boxes, features, scales, scores)
  rows = tf.map_fn(
    lambda image: selecting.select(found, selection, image),
    tf.range(number),
    fn_output_signature=tf.RaggedTensorSpec([None], tf.int32),
  )
  boxes, features, scales, scores = (
    tf.gather(v, rows).to_tensor() for v in values
  )
  scores = scores[..., tf.newaxis]
  named = _named_local(network, boxes, features, scales, scores, batch=True)
  counts = tf.cast(rows.row_lengths(), tf.int32)
  return named | {"counts": tf.identity(counts, "counts")}


def _named_local(network, boxes, features, scales, scores, batch=False):
  channels = network.local.get_concrete_function().outputs[1].shape[-1]
  rows = [None, None] if batch else [None]
  return {
    "boxes": _named(boxes, "boxes", [*rows, 4]),
    "features": _named(features, "features", [*rows, channels]),
    "scales": _named(scales, "scales", rows),
    "scores": _named(scores, "scores", [*rows, 1]),
  }


def _named_global(descriptors, pool_type, batch=False):
  rows = [None] if batch else []
  if pool_type == "None":
    name, shape = "global_descriptors", [*rows, None, None]
  else:
    name, shape = "global_descriptor", [*rows, None]
  return {name: _named(descriptors, name, shape)}


def _named(value, name, shape):
  value.set_shape(shape)
  return tf.identity(value, name)
