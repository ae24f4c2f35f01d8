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

import dataclasses
import functools

import tensorflow as tf

from delf.base import errors
from delf.formats import network_files
from delf.networks import tensorflow_ops
from delf.python import feature_extractor
from delf.python.training.model import export_model_utils


class Network:
  """The calls of a model that extraction needs, each traced once.

  Attributes:
    full: Images [B, h, w, 3] float32 to descriptor, attention, features and,
      of a backbone that places its features, their offsets.
    local: The same without the descriptor, and without what only it needs.
    descriptor: Images to the descriptor alone.
    receptive: tensorflow_ops.Receptive of the feature map.
  """

  def __init__(self, model):
    backbone = model.backbone
    self.receptive = tensorflow_ops.Receptive(
      backbone.receptive_field,
      backbone.receptive_stride,
      backbone.receptive_padding,
    )
    images = tf.TensorSpec([None, None, None, 3], tf.float32)

    def traced_once(function):
      return tf.function(function, input_signature=[images], autograph=False)

    def with_offsets(call):
      def function(images):
        blocks = {}
        outputs = call(images, training=False, intermediates_dict=blocks)
        return (*outputs, *([blocks["offsets"]] if "offsets" in blocks else []))

      return traced_once(function)

    self.full = with_offsets(model.build_call)
    self.local = with_offsets(model.local_call)
    self.descriptor = traced_once(
      functools.partial(model.global_call, training=False)
    )


NETWORK, LOCAL = "network", "network_local"

# Output of `network` beside those of `network_files`: the settings as JSON.
_SETTINGS = "settings"

# In the order of a network; not each has the last one.
_MAPS = (network_files.ATTENTION, network_files.FEATURES, network_files.OFFSETS)

_NORMALIZED = tf.TensorSpec(
  [None, None, None, 3], tf.float32, network_files.IMAGES
)


def make(network: Network, settings: network_files.Settings) -> dict:
  """Returns the functions of normalised images that other formats are made of.

  Args:
    settings: Of the export; what the network says itself is filled in.

  Returns:
    dict of name to concrete function of [B, h, w, 3] float32. `network` gives
    all outputs of the form (see `network_files`) and the settings; of both
    forms `network_local` gives the local ones alone.
  """

  def local(images):
    return dict(zip(_MAPS, network.local(images), strict=False))

  def global_(images):
    return {network_files.DESCRIPTOR: network.descriptor(images)}

  def both(images):
    descriptor, *maps = network.full(images)
    named = dict(zip(_MAPS, maps, strict=False))
    return named | {network_files.DESCRIPTOR: descriptor}

  concrete = _concrete(_NORMALIZED)
  calls = {
    network_files.LOCAL: {NETWORK: local},
    network_files.GLOBAL: {NETWORK: global_},
    network_files.JOINT: {NETWORK: both, LOCAL: local},
  }[settings.form]
  calls = {name: concrete(call) for name, call in calls.items()}
  sizes = {}
  for call in calls.values():
    sizes |= {n: v.shape[-1] for n, v in call.structured_outputs.items()}
  is_local = settings.form != network_files.GLOBAL
  text = dataclasses.replace(
    settings,
    receptive=tuple(map(float, network.receptive)) if is_local else None,
    local_size=sizes.get(network_files.FEATURES),
    global_size=sizes.get(network_files.DESCRIPTOR),
    has_offsets=network_files.OFFSETS in sizes,
  ).text()

  def with_settings(images):
    return calls[NETWORK](images=images) | {_SETTINGS: tf.constant(text)}

  return calls | {NETWORK: concrete(with_settings)}


def read_settings(functions: dict, path) -> network_files.Settings:
  """Returns the settings of an export, from its functions by name.

  Raises:
    InputError: If it has no such function; names `path`.
  """
  found = functions.get(NETWORK)
  if found is None or _SETTINGS not in found.structured_outputs:
    raise errors.InputError(
      "an export of this version of delf (with a function `network`); export"
      " it again from its checkpoint",
      "one of another program or version",
      path,
    )
  # A constant, whatever the image.
  value = found(images=tf.zeros([1, 64, 64, 3]))[_SETTINGS]
  return network_files.parse(value.numpy(), path)


def without_settings(function):
  """Returns a tf.function of one image [1, h, w, 3] that omits the settings."""

  def call(images):
    found = function(images=images)
    return {name: found[name] for name in found if name != _SETTINGS}

  spec = tf.TensorSpec([1, None, None, 3], tf.float32, network_files.IMAGES)
  return tf.function(call, input_signature=[spec], autograph=False)


_IMAGE = tf.TensorSpec([None, None, 3], tf.uint8, "input_image")
_IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8, "input_images")
_SCALES = tf.TensorSpec([None], tf.float32, "input_scales")
_MOST = tf.TensorSpec([], tf.int32, "input_max_feature_num")
_THRESHOLD = tf.TensorSpec([], tf.float32, "input_abs_thres")
_INDICES = tf.TensorSpec([None], tf.int32, "input_global_scales_ind")

# Type of pooling over scales, and whether to normalise.
_NO_POOLING = ("None", False)


def local(network: Network, iou: float, variants: bool = True) -> dict:
  """Returns the functions of a model for local features, by name.

  Args:
    iou: As in `export_model_utils.ExtractLocalFeatures`.
    variants: Whether there is more than `serving_default`.
  """
  functions = {"serving_default": _local(network, iou)}
  if variants:
    settings = network_files.Settings(network_files.LOCAL, iou=float(iou))
    functions["batch_local"] = _local(network, iou, batch=True)
    functions |= make(network, settings)
  return functions


def global_(
  network: Network,
  input_scales: list | None,
  pool_type: str,
  normalize: bool,
  variants: bool = True,
) -> dict:
  """Returns the functions of a model for global descriptors, by name.

  Args:
    input_scales: Image scales to fix, or None for scales that are an input.
    pool_type: "None", "average" or "sum" over the scales.
    normalize: Whether to L2-normalise the result.
  """
  pooling = (pool_type, normalize)
  functions = {"serving_default": _global(network, pooling, input_scales)}
  if variants:
    batch = _global(network, pooling, input_scales, batch=True)
    functions["batch_global"] = batch
    settings = network_files.Settings(
      network_files.GLOBAL,
      input_scales=tuple(input_scales) if input_scales else None,
      pool_type=pool_type,
      normalize=normalize,
    )
    functions |= make(network, settings)
  return functions


def local_and_global(
  network: Network, iou: float, variants: bool = True
) -> dict:
  """Returns the functions of a model for both, by name; see `local`."""
  functions = {"serving_default": _joint(network, iou)}
  if variants:
    functions |= {
      "local": _local(network, iou),
      "global": _global(network, _NO_POOLING),
      "batch": _joint(network, iou, batch=True),
      "batch_local": _local(network, iou, batch=True),
      "batch_global": _global(network, _NO_POOLING, batch=True),
    }
    settings = network_files.Settings(network_files.JOINT, iou=float(iou))
    functions |= make(network, settings)
  return functions


def _concrete(*specs):
  """Turns a function into its concrete one for arguments of these specs."""

  def decorate(function):
    wrapped = tf.function(function, input_signature=specs, autograph=False)
    return wrapped.get_concrete_function()

  return decorate


def _local(network, iou, batch=False):
  @_concrete(_IMAGES if batch else _IMAGE, _SCALES, _MOST, _THRESHOLD)
  def extract(images, scales, max_feature_num, abs_thres):
    selection = tensorflow_ops.Selection(max_feature_num, abs_thres, iou)
    found = tensorflow_ops.local(
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
  @_concrete(_IMAGES if batch else _IMAGE, _SCALES, _MOST, _THRESHOLD, _INDICES)
  def extract(images, scales, max_feature_num, abs_thres, indices):
    selection = tensorflow_ops.Selection(max_feature_num, abs_thres, iou)
    found, descriptors = tensorflow_ops.local_and_global(
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
  specs = (_IMAGES if batch else _IMAGE,)
  specs += () if fixed else (_SCALES, _INDICES)

  @_concrete(*specs)
  def extract(images, scales=None, indices=None):
    if fixed:
      scales = tf.constant(fixed_scales, tf.float32)
      indices = tf.range(len(fixed_scales))
    descriptors = tensorflow_ops.global_(
      _pixels(images, batch), scales, indices, network.descriptor
    )
    pooled = export_model_utils.pool_scales(descriptors, *pooling)
    return _named_global(pooled if batch else pooled[0], pooling[0], batch)

  return extract


def _pixels(images, batch):
  """Returns a batch of normalised images."""
  pixels = feature_extractor.NormalizePixelValues(images)
  return pixels if batch else pixels[tf.newaxis]


def _selected(network, found, selection, number):
  """Returns the local outputs of a batch of a number, or, if None, of one."""
  values = (found.boxes, found.features, found.scales, found.scores)
  if number is None:
    rows = tensorflow_ops.select(found, selection)
    boxes, features, scales, scores = (tf.gather(v, rows) for v in values)
    scores = scores[:, tf.newaxis]
    return _named_local(network, boxes, features, scales, scores)
  rows = tf.map_fn(
    lambda image: tensorflow_ops.select(found, selection, image),
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
