"""Functions of an exported model, with their tensor names.

`serving_default` is the original's. The others compute parts or batches:

  local, global          one part of a model with both
  batch, batch_local, batch_global
                         the same for [B, H, W, 3] images of one size
  network, network_local the network at one scale, without the pyramid, for the
                         conversion to other formats: `network_functions`

Outputs for a batch of B images have B rows; local features are padded with
zeros, and `counts` [B] int32 is their number in each image.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from delf.base import errors
from delf.formats import network_files
from delf.networks import tensorflow_ops
from delf.python import feature_extractor
from delf.python.training.model import export_model_utils


class Network:
  """The calls of a model for extraction, each traced once.

  `full` maps images [B, h, w, 3] float32 to descriptor, attention, features
  and, with some backbones, offsets; `local` to all but the descriptor;
  `descriptor` to the descriptor. `receptive` is the field of a feature cell.
  """

  def __init__(self, model: keras.Model):
    backbone = model.backbone
    self.receptive = tensorflow_ops.Receptive(
      backbone.receptive_field,
      backbone.receptive_stride,
      backbone.receptive_padding,
    )
    images = tf.TensorSpec([None, None, None, 3], tf.float32)
    traced_once = tf.function(input_signature=[images], autograph=False)

    def with_offsets(call):
      def function(images):
        blocks: dict[str, tf.Tensor] = {}
        outputs = call(images, training=False, intermediates_dict=blocks)
        return (*outputs, *([blocks["offsets"]] if "offsets" in blocks else []))

      return traced_once(function)

    self.full = with_offsets(model.build_call)
    self.local = with_offsets(model.local_call)
    self.descriptor = traced_once(
      functools.partial(model.global_call, training=False)
    )


NETWORK, LOCAL = "network", "network_local"

# Output of `network` in addition to those of `network_files`: settings as JSON.
_SETTINGS = "settings"

# In the order of a network's outputs; some networks lack the last one.
_MAPS = (network_files.ATTENTION, network_files.FEATURES, network_files.OFFSETS)

_NORMALIZED = tf.TensorSpec(
  [None, None, None, 3], tf.float32, network_files.IMAGES
)


def network_functions(
  network: Network, settings: network_files.Settings
) -> dict[str, Any]:
  """Return the concrete functions for conversion to other formats, by name.

  They take normalised images [B, h, w, 3] float32. `network` returns all
  outputs of the form (see `network_files`) and the settings, completed by the
  network's own; in the joint form, `network_local` returns the local outputs.
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
  calls: dict[str, Any] = {
    network_files.LOCAL: {NETWORK: local},
    network_files.GLOBAL: {NETWORK: global_},
    network_files.JOINT: {NETWORK: both, LOCAL: local},
  }[settings.form]
  calls = {name: concrete(call) for name, call in calls.items()}
  sizes: dict[str, int] = {}
  for call in calls.values():
    sizes |= {n: v.shape[-1] for n, v in call.structured_outputs.items()}
  receptive = None
  if settings.form != network_files.GLOBAL:
    size, stride, padding = map(float, network.receptive)
    receptive = (size, stride, padding)
  text = dataclasses.replace(
    settings,
    receptive=receptive,
    local_size=sizes.get(network_files.FEATURES),
    global_size=sizes.get(network_files.DESCRIPTOR),
    has_offsets=network_files.OFFSETS in sizes,
  ).text()

  def with_settings(images):
    return calls[NETWORK](images=images) | {_SETTINGS: tf.constant(text)}

  return calls | {NETWORK: concrete(with_settings)}


def read_settings(
  functions: dict[str, Any], path: str | os.PathLike
) -> network_files.Settings:
  """Return the settings of an export; `path` is for error messages."""
  function = functions.get(NETWORK)
  if function is None or _SETTINGS not in function.structured_outputs:
    raise errors.InputError(
      "an export of another program or version of delf, without the function"
      " `network`: export it again from its checkpoint",
      path=path,
    )
  # A constant for any image.
  value = function(images=tf.zeros([1, 64, 64, 3]))[_SETTINGS]
  return network_files.parse(value.numpy(), path)


def without_settings(function: Callable) -> Any:
  """Return a tf.function of one image [1, h, w, 3] that omits the settings."""

  def call(images):
    outputs = function(images=images)
    return {name: outputs[name] for name in outputs if name != _SETTINGS}

  spec = tf.TensorSpec([1, None, None, 3], tf.float32, network_files.IMAGES)
  return tf.function(call, input_signature=[spec], autograph=False)


_IMAGE = tf.TensorSpec([None, None, 3], tf.uint8, "input_image")
_IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8, "input_images")
_SCALES = tf.TensorSpec([None], tf.float32, "input_scales")
_MOST = tf.TensorSpec([], tf.int32, "input_max_feature_num")
_THRESHOLD = tf.TensorSpec([], tf.float32, "input_abs_thres")
_INDICES = tf.TensorSpec([None], tf.int32, "input_global_scales_ind")


def functions(
  network: Network, settings: network_files.Settings, variants: bool = True
) -> dict[str, Any]:
  """Return the functions of an export by name; see `exporting.export`.

  Without variants it is only `serving_default`.
  """
  form = settings.form
  local = functools.partial(_local, network, settings.iou)
  joint = functools.partial(local, joint=True)
  overall = functools.partial(_global, network, settings)
  forms = {
    network_files.LOCAL: local,
    network_files.GLOBAL: overall,
    network_files.JOINT: joint,
  }
  made = {"serving_default": forms[form]()}
  if not variants:
    return made
  if form == network_files.JOINT:
    made |= {"local": local(), "global": overall(), "batch": joint(batch=True)}
  if form != network_files.GLOBAL:
    made["batch_local"] = local(batch=True)
  if form != network_files.LOCAL:
    made["batch_global"] = overall(batch=True)
  return made | network_functions(network, settings)


def _concrete(*specs):
  """Decorate a function: make it concrete for arguments with these specs."""

  def decorate(function):
    wrapped = tf.function(function, input_signature=specs, autograph=False)
    return wrapped.get_concrete_function()

  return decorate


def _local(network, iou, batch=False, joint=False):
  """Return the function for local features, or for both parts."""
  specs = (_IMAGES if batch else _IMAGE, _SCALES, _MOST, _THRESHOLD)

  @_concrete(*specs, *([_INDICES] if joint else []))
  def extract(images, scales, max_feature_num, abs_thres, indices=None):
    selection = tensorflow_ops.Selection(max_feature_num, abs_thres, iou)
    pixels = _pixels(images, batch)
    if joint:
      candidates, descriptors = tensorflow_ops.local_and_global(
        pixels,
        scales,
        selection,
        indices,
        (network.full, network.local),
        network.receptive,
      )
    else:
      candidates = tensorflow_ops.local(
        pixels, scales, selection, network.local, network.receptive
      )
    number = tf.shape(images)[0] if batch else None
    outputs = _local_outputs(network, candidates, selection, number)
    if joint:
      outputs |= _global_output(descriptors, "None", batch)
    return outputs

  return extract


def _global(network, settings, batch=False):
  fixed, pool_type = settings.input_scales, settings.pool_type

  @_concrete(
    _IMAGES if batch else _IMAGE, *([] if fixed else [_SCALES, _INDICES])
  )
  def extract(images, scales=None, indices=None):
    if fixed:
      scales, indices = tf.constant(fixed, tf.float32), tf.range(len(fixed))
    descriptors = tensorflow_ops.global_(
      _pixels(images, batch), scales, indices, network.descriptor
    )
    pooled = export_model_utils.pool_scales(
      descriptors, pool_type, settings.normalize
    )
    return _global_output(pooled, pool_type, batch)

  return extract


def _pixels(images, batch):
  """Return a batch of normalised images."""
  pixels = feature_extractor.NormalizePixelValues(images)
  return pixels if batch else pixels[tf.newaxis]


def _local_outputs(network, candidates, selection, number):
  """Return the outputs of a batch of `number` images, or of one if None."""
  if number is None:
    batch, rows = [], tensorflow_ops.select(candidates, selection)
  else:
    batch = [None]
    rows = tf.map_fn(
      lambda image: tensorflow_ops.select(candidates, selection, image),
      tf.range(number),
      fn_output_signature=tf.RaggedTensorSpec([None], tf.int32),
    )

  def gather(values):
    chosen = tf.gather(values, rows)
    return chosen if number is None else chosen.to_tensor()

  channels = network.local.get_concrete_function().outputs[1].shape[-1]
  outputs = {}
  for name, values, shape in (
    ("boxes", candidates.boxes, [4]),
    ("features", candidates.features, [channels]),
    ("scales", candidates.scales, []),
    ("scores", candidates.scores[:, tf.newaxis], [1]),
  ):
    outputs[name] = _named(gather(values), name, [*batch, None, *shape])
  if number is not None:
    counts = tf.cast(rows.row_lengths(), tf.int32)
    outputs["counts"] = tf.identity(counts, "counts")
  return outputs


def _global_output(descriptors, pool_type, batch):
  name, shape = "global_descriptors", [None, None]
  if pool_type != "None":
    name, shape = "global_descriptor", [None]
  if batch:
    return {name: _named(descriptors, name, [None, *shape])}
  return {name: _named(descriptors[0], name, shape)}


def _named(value, name, shape):
  value.set_shape(shape)
  return tf.identity(value, name)
