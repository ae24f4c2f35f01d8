"""Extraction models on disk, whichever way they were exported.

Two generations are in use. Those of TensorFlow 1 are graphs whose tensors have
known names; those of TensorFlow 2 carry functions, `serving_default` among
them. What a model is shows in the model; no flag is needed.
"""

import os
import pathlib
import re

import tensorflow as tf
from absl import logging

from delf.base import errors
from delf.inference import tensors

# TensorFlow's variable for the cores of an operation.
_THREADS = "TF_NUM_INTRAOP_THREADS"


def resolve(device=None):
  """Returns TensorFlow's name of a device.

  Args:
    device: Words such as "cpu", "GPU", "gpu:1" or "/GPU:0", or None for the
      first GPU where there is one, else the CPU.

  Returns:
    str such as "/CPU:0".

  Raises:
    InputError: If there is no such device; it lists those that there are.
  """
  found = [
    re.sub(r".*device:", "/", d.name) for d in tf.config.list_logical_devices()
  ]
  if device is None:
    gpus = [name for name in found if name.startswith("/GPU")]
    return gpus[0] if gpus else "/CPU:0"
  match = re.fullmatch(r"/?(?:device:)?(\w+?)(?::(\d+))?", str(device).strip())
  name = f"/{match[1].upper()}:{match[2] or 0}" if match else None
  if name not in found:
    known = ", ".join(name.lstrip("/") for name in found)
    raise errors.InputError(f"a device, one of {known}", repr(device))
  return name


def describe(name):
  """Returns words for a device, such as "CPU" or "GPU:0 (NVIDIA ...)"."""
  kind, _, index = name.lstrip("/").partition(":")
  physical = tf.config.list_physical_devices(kind)
  if kind == "CPU" or int(index) >= len(physical):
    return kind
  details = tf.config.experimental.get_device_details(physical[int(index)])
  model = details.get("device_name")
  return f"{kind}:{index} ({model})" if model else f"{kind}:{index}"


def use_one_core_each(device=None):
  """Has each operation of TensorFlow run on one core, in the whole process.

  Many images side by side, one per core, then do not wait for each other inside
  of operations: two cores do 1.1 times as much (benchmarks/regions.py). What is
  there already stays: a GPU, TensorFlow that has begun, a number that was set.

  Args:
    device: As of `resolve`.

  Returns:
    Whether it is so now.
  """
  is_cpu = "cpu" in str(device).lower()
  if not is_cpu and (device or tf.config.list_physical_devices("GPU")):
    return False
  get = tf.config.threading.get_intra_op_parallelism_threads
  if get() or os.environ.get(_THREADS):
    return get() == 1
  try:
    tf.config.threading.set_intra_op_parallelism_threads(1)
  except RuntimeError:  # TensorFlow has begun.
    return False
  return True


DEFAULT = "serving_default"

# Errors of TensorFlow go on for pages; the first words say what happened.
_LONGEST_REASON = 300


class ExtractionModel:
  """A model that was loaded.

  Attributes:
    folder: pathlib.Path of the SavedModel.
    device: TensorFlow's name of the device it is on, such as "/CPU:0".
    device_words: Words for it, such as "CPU" or "GPU:0 (name)".
    is_tf2: Whether it carries functions; else it is a graph of TensorFlow 1.
    inputs: dict of name to tf.TensorSpec of what extraction can feed.
    outputs: dict of name to tf.TensorSpec of what it can ask for.
    signatures: Names of the functions it carries.
  """

  def __init__(self, folder, loaded, device):
    """Wraps what `tf.saved_model.load` returned."""
    self.folder = folder
    self.device = device
    self.device_words = describe(device)
    self._loaded = loaded
    self._functions = dict(loaded.signatures)
    self.signatures = sorted(self._functions)
    self.inputs = graph_tensors(loaded, tensors.INPUTS)
    self.outputs = graph_tensors(
      loaded, (*tensors.LOCAL_OUTPUTS, *tensors.GLOBAL_OUTPUTS)
    )
    self.is_tf2 = not (self.inputs and self.outputs)
    if self.is_tf2:
      default = self._functions.get(DEFAULT)
      self.inputs, self.outputs = inputs_of(default), outputs_of(default)

  def output_size(self, name):
    """Returns the last dimension of an output, or None if it is not known."""
    shape = self.outputs[name].shape
    return shape[-1] if shape.rank else None

  def prepare(self, request, batch=False):
    """Finds what the model must run for a request, and no more.

    Of exports of TensorFlow 2 for local and global features together, only
    those of delf's exporters have functions for one part alone. Of others, as
    of the original's exporter, both parts are computed where one is asked for.

    Args:
      request: tensors.Request.
      batch: Whether for several images of one size.

    Returns:
      Function of an image, [H, W, 3] uint8, that returns a dict of arrays:
      `boxes` [N, 4] float32 (ymin, xmin, ymax, xmax) in pixels, `features`
      [N, D], `scales` [N] and `scores` [N]; `global_descriptors` [G, D], or
      [1, D] where the model pools. For a batch, of images [B, H, W, 3], that
      returns a list of such dicts; or None if the model has no such function.

    Raises:
      InputError: If the model lacks what the request needs, or it for the
        model; from the function, if an image is too small for it.
    """
    if self.is_tf2 or batch:
      function = self._signature(request, batch)
      if batch and function is None:
        return None
      inputs, outputs = inputs_of(function), outputs_of(function)
    else:
      function, inputs, outputs = None, self.inputs, self.outputs
    tensors.check(request, inputs, outputs, self.folder)
    wanted = tensors.wanted(request, outputs)
    feeds = {
      name: tf.constant(value)
      for name, value in tensors.feeds(inputs, request).items()
    }
    if function is None:
      function = self._prune(feeds, wanted)
    image_name = tensors.IMAGES if batch else tensors.IMAGE

    def extract(image):
      tensors.check_size(image, inputs, request)
      values = {image_name: tf.constant(image)} | feeds
      found = call(function, self.device, self.folder, **values)
      arrays = {name: found[name].numpy() for name in wanted}
      if not batch:
        return tensors.tidy(arrays, inputs, request)
      counts = (
        found[tensors.COUNTS].numpy() if request.use_local else [0] * len(image)
      )
      return [
        tensors.tidy(tensors.row(arrays, i, count), inputs, request)
        for i, count in enumerate(counts)
      ]

    return extract

  def _signature(self, request, batch):
    """Returns the function that computes the least, or None."""
    parts = ["batch"] if batch else []
    if not request.use_global:
      parts.append("local")
    elif not request.use_local:
      parts.append("global")
    special = self._functions.get("_".join(parts))
    if special is not None or batch:
      return special
    has_both = set(tensors.LOCAL_OUTPUTS) | set(tensors.GLOBAL_OUTPUTS[:1])
    if parts and has_both <= set(self.outputs):
      logging.info(
        "%s: this export computes local and global features together; export "
        "it again with delf's exporters to save the part not asked for.",
        self.folder,
      )
    return self._functions.get(DEFAULT)

  def _prune(self, feeds, wanted):
    """Returns a function that runs a part of a TensorFlow 1 graph."""
    names = [tensors.IMAGE, *feeds]
    pruned = self._loaded.prune(
      [f"{name}:0" for name in names], [f"{name}:0" for name in wanted]
    )

    def call(**values):
      results = pruned(*(values[name] for name in names))
      return dict(zip(wanted, results, strict=True))

    return call


def load(folder, device=None):
  """Loads an extraction model.

  Args:
    folder: Its folder.
    device: As in `devices.resolve`.

  Returns:
    ExtractionModel.

  Raises:
    FileNotFoundError: As `read`.
    InputError: As `read`.
  """
  folder = pathlib.Path(folder)
  return ExtractionModel(folder, *read(folder, device))


def read(folder, device=None):
  """Reads a SavedModel of any kind.

  Args:
    folder: Its folder.
    device: As in `devices.resolve`.

  Returns:
    What `tf.saved_model.load` returned, and TensorFlow's name of the device.

  Raises:
    FileNotFoundError: If there is no such folder.
    InputError: If it is no SavedModel, or one that cannot be read, or there is
      no such device.
  """
  folder = pathlib.Path(folder)
  if not folder.exists():
    raise FileNotFoundError(f"{folder}: expected a folder, found none")
  if not any(folder.glob("saved_model.pb*")):
    raise errors.InputError(
      "a SavedModel (a folder with saved_model.pb)", "another one", folder
    )
  device = resolve(device)
  try:
    with tf.device(device):
      return tf.saved_model.load(str(folder)), device
  except Exception as error:  # TensorFlow raises whatever damage leads to.
    reason = " ".join(str(error).split())
    raise errors.InputError(
      "a whole SavedModel", f"one that cannot be read ({reason})", folder
    ) from None


def graph_tensors(loaded, names):
  """Returns {name: tf.TensorSpec} of what a TensorFlow 1 graph has of names."""
  found = {}
  for name in names if hasattr(loaded, "prune") else ():
    try:
      tensor = loaded.graph.get_tensor_by_name(f"{name}:0")
    except KeyError:
      continue
    found[name] = tf.TensorSpec(tensor.shape, tensor.dtype, name)
  return found


def call(function, device, folder, **values):
  """Runs a function of a model on a device.

  Raises:
    InputError: If the model does not take the image; it names the folder.
  """
  try:
    with tf.device(device):
      return function(**values)
  except tf.errors.InvalidArgumentError as error:
    reason = " ".join(str(error).split())[:_LONGEST_REASON]
    raise errors.InputError(
      "an image that the model takes", f"another ({reason})", folder
    ) from error


def inputs_of(function):
  """Returns {name: tf.TensorSpec} of what a function takes by name."""
  if function is None:
    return {}
  return dict(function.structured_input_signature[1])


def outputs_of(function):
  """Returns {name: tf.TensorSpec} of what a function returns."""
  return {} if function is None else dict(function.structured_outputs)
