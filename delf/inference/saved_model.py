"""SavedModels for extraction, of TensorFlow 1 or 2.

Graphs of TensorFlow 1 have tensors of known names; exports of TensorFlow 2
carry functions, `serving_default` among them. The model shows which it is.
"""

import os
import pathlib
import re
import typing
from collections.abc import Callable, Sequence

import tensorflow as tf
from absl import logging

from delf.base import errors
from delf.inference import tensors

DEFAULT = "serving_default"


def resolve(device: str | None = None) -> str:
  """Return TensorFlow's name of a device, such as "/CPU:0".

  A device is such as "cpu", "GPU", "gpu:1" or "/GPU:0"; None for the best. An
  InputError lists the available ones.
  """
  names = [
    re.sub(r".*device:", "/", d.name) for d in tf.config.list_logical_devices()
  ]
  if device is None:
    gpus = [name for name in names if name.startswith("/GPU")]
    return gpus[0] if gpus else "/CPU:0"
  match = re.fullmatch(r"/?(?:device:)?(\w+?)(?::(\d+))?", str(device).strip())
  name = f"/{match[1].upper()}:{match[2] or 0}" if match else None
  if name not in names:
    known = ", ".join(name.lstrip("/") for name in names)
    raise errors.InputError(f"a device, one of {known}", repr(device))
  return name


def describe(name: str) -> str:
  """Return a device for people, such as "CPU" or "GPU:0 (NVIDIA ...)"."""
  kind, _, index = name.lstrip("/").partition(":")
  physical = tf.config.list_physical_devices(kind)
  if kind == "CPU" or int(index) >= len(physical):
    return kind
  details = tf.config.experimental.get_device_details(physical[int(index)])
  model = details.get("device_name")
  return f"{kind}:{index} ({model})" if model else f"{kind}:{index}"


def use_one_core_each(device: str | None = None) -> bool:
  """Run each operation of TensorFlow on one core, in the whole process.

  With an image per core that is 1.1 times as fast (benchmarks/regions.py).
  Returns False with a GPU, after TensorFlow has begun, or if another number was
  set.
  """
  is_cpu = "cpu" in str(device).lower()
  if not is_cpu and (device or tf.config.list_physical_devices("GPU")):
    return False
  get = tf.config.threading.get_intra_op_parallelism_threads
  if get() or os.environ.get("TF_NUM_INTRAOP_THREADS"):
    return get() == 1
  try:
    tf.config.threading.set_intra_op_parallelism_threads(1)
  except RuntimeError:  # TensorFlow has begun.
    return False
  return True


class ExtractionModel:
  """A loaded model, with specs of its inputs and outputs by name."""

  def __init__(self, folder: pathlib.Path, loaded: typing.Any, device: str):
    self.folder = folder
    self.device = device  # TensorFlow's name, such as "/CPU:0".
    self.device_words = describe(device)  # Such as "GPU:0 (name)".
    self._loaded = loaded
    self._functions = dict(loaded.signatures)
    self.inputs = graph_tensors(loaded, tensors.INPUTS)
    self.outputs = graph_tensors(
      loaded, (*tensors.LOCAL_OUTPUTS, *tensors.GLOBAL_OUTPUTS)
    )
    # Whether it carries functions; else it is a graph of TensorFlow 1.
    self.is_tf2 = not (self.inputs and self.outputs)
    if self.is_tf2:
      default = self._functions.get(DEFAULT)
      self.inputs, self.outputs = specs_of(default)

  def output_size(self, name: str) -> int | None:
    """Return the last dimension of an output, or None if it is not known."""
    shape = self.outputs[name].shape
    return shape[-1] if shape.rank else None

  def prepare(
    self, request: tensors.Request, batch: bool = False
  ) -> Callable | None:
    """Return a function that runs what a request needs, and no more.

    TensorFlow 2 exports of the original compute local and global features
    together; those of delf's exporters also each part alone.

    The function is of an image, [H, W, 3] uint8, and returns a dict of arrays:
    `boxes` [N, 4] float32 (ymin, xmin, ymax, xmax) in pixels, `features`
    [N, D], `scales` [N] and `scores` [N]; `global_descriptors` [G, D], or
    [1, D] where the model pools. For a batch, of images [B, H, W, 3], it
    returns a list of such dicts; None if the model takes no batches. InputError
    if model and request do not fit, or (later) an image is too small.
    """
    function, inputs, outputs = None, self.inputs, self.outputs
    if self.is_tf2 or batch:
      function = self._signature(request, batch)
      if batch and function is None:
        return None
      inputs, outputs = specs_of(function)
    tensors.check(request, inputs, outputs, self.folder)
    wanted = tensors.wanted(request, outputs)
    feeds = {
      name: tf.constant(value)
      for name, value in tensors.feeds(inputs, request).items()
    }
    if function is None:
      function = prune(self._loaded, [tensors.IMAGE, *feeds], wanted)
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
      results = []
      for i, count in enumerate(counts):
        row = {name: array[i] for name, array in arrays.items()}
        row |= {n: row[n][:count] for n in tensors.LOCAL_OUTPUTS if n in row}
        results.append(tensors.tidy(row, inputs, request))
      return results

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


def load(
  folder: str | os.PathLike, device: str | None = None
) -> ExtractionModel:
  """Load an extraction model, with arguments and errors as of `read`."""
  return ExtractionModel(pathlib.Path(folder), *read(folder, device))


def read(
  folder: str | os.PathLike, device: str | None = None
) -> tuple[typing.Any, str]:
  """Read a SavedModel of any kind onto a device (as of `resolve`).

  Returns what `tf.saved_model.load` does, and TensorFlow's name of the device.
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
    reason = f"one that cannot be read ({errors.one_line(error)})"
    raise errors.InputError("a whole SavedModel", reason, folder) from None


def graph_tensors(
  loaded: typing.Any, names: Sequence[str]
) -> dict[str, tf.TensorSpec]:
  """Return those of the named tensors that a TensorFlow 1 graph has."""
  specs = {}
  for name in names if hasattr(loaded, "prune") else ():
    try:
      tensor = loaded.graph.get_tensor_by_name(f"{name}:0")
    except KeyError:
      continue
    specs[name] = tf.TensorSpec(tensor.shape, tensor.dtype, name)
  return specs


def prune(
  loaded: typing.Any, inputs: Sequence[str], outputs: Sequence[str]
) -> Callable:
  """Return a function of named inputs that runs part of a graph."""
  pruned = loaded.prune(
    [f"{name}:0" for name in inputs], [f"{name}:0" for name in outputs]
  )

  def run(**values):
    results = pruned(*(values[name] for name in inputs))
    return dict(zip(outputs, results, strict=True))

  return run


def call(
  function: Callable, device: str, folder: pathlib.Path, **values: tf.Tensor
) -> dict[str, tf.Tensor]:
  """Run a function on a device; InputError if it does not take the image."""
  try:
    with tf.device(device):
      return function(**values)
  except tf.errors.InvalidArgumentError as error:
    raise tensors.refused(error, folder) from error


def specs_of(
  function: typing.Any,
) -> tuple[dict[str, tf.TensorSpec], dict[str, tf.TensorSpec]]:
  """Return the inputs and the outputs of a function by name; {} for None."""
  if function is None:
    return {}, {}
  inputs = function.structured_input_signature[1]
  return dict(inputs), dict(function.structured_outputs)
