"""The network of one scale as functions of an export, for other formats."""

import dataclasses

import tensorflow as tf

from delf.python import errors, network_io

NETWORK, LOCAL = "network", "network_local"

# Output of `network` beside those of `network_io`: the settings as JSON.
_SETTINGS = "settings"

# In the order of a network; not each has the last one.
_MAPS = (network_io.ATTENTION, network_io.FEATURES, network_io.OFFSETS)

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, network_io.IMAGES)


def make(network, settings):
  """Makes the functions that an export carries for them.

  Args:
    network: network.Network.
    settings: network_io.Settings; what the network says itself is filled in.

  Returns:
    dict of name to concrete function of normalised images, [B, h, w, 3]
    float32. `network` gives all outputs that the form has (see `network_io`)
    and the settings; of both forms `network_local` gives the local ones alone.
  """
  calls = _calls(network, settings.form)
  sizes = {}
  for call in calls.values():
    sizes |= {n: v.shape[-1] for n, v in call.structured_outputs.items()}
  is_local = settings.form != network_io.GLOBAL
  settings = dataclasses.replace(
    settings,
    receptive=tuple(map(float, network.receptive)) if is_local else None,
    local_size=sizes.get(network_io.FEATURES),
    global_size=sizes.get(network_io.DESCRIPTOR),
    has_offsets=network_io.OFFSETS in sizes,
  )
  text = settings.text()

  def with_settings(images):
    return calls[NETWORK](images=images) | {_SETTINGS: tf.constant(text)}

  return calls | {NETWORK: _concrete(with_settings)}


def read_settings(functions, path):
  """Returns the network_io.Settings of an export.

  Args:
    functions: dict of name to function, as `tf.saved_model.load` gives them.
    path: Of the export, for errors.

  Raises:
    InputError: If it has no such function.
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
  return network_io.parse(value.numpy(), path)


def without_settings(function):
  """Returns a tf.function of one image that leaves the settings away.

  Args:
    function: One of `make`, or as it was loaded.

  Returns:
    tf.function of images [1, h, w, 3] that returns a dict.
  """

  def call(images):
    found = function(images=images)
    return {name: found[name] for name in found if name != _SETTINGS}

  spec = tf.TensorSpec([1, None, None, 3], tf.float32, network_io.IMAGES)
  return tf.function(call, input_signature=[spec], autograph=False)


def _calls(network, form):
  """Returns the functions of a form, without settings."""

  def local(images):
    return dict(zip(_MAPS, network.local(images), strict=False))

  def global_(images):
    return {network_io.DESCRIPTOR: network.descriptor(images)}

  def both(images):
    descriptor, *maps = network.full(images)
    named = dict(zip(_MAPS, maps, strict=False))
    return named | {network_io.DESCRIPTOR: descriptor}

  calls = {
    network_io.LOCAL: {NETWORK: local},
    network_io.GLOBAL: {NETWORK: global_},
    network_io.JOINT: {NETWORK: both, LOCAL: local},
  }[form]
  return {name: _concrete(call) for name, call in calls.items()}


def _concrete(call):
  function = tf.function(call, input_signature=[_IMAGES], autograph=False)
  return function.get_concrete_function()
