"""SavedModels for extraction, of TensorFlow 1 or 2.

Graphs of TensorFlow 1 have tensors of known names; exports of TensorFlow 2 have
functions, including `serving_default`. The kind is detected from the model.
"""

import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from delf.base import errors
from delf.inference import tensors

DEFAULT = "serving_default"


def resolve(device: str | None = None) -> str:
  """Return TensorFlow's name of a device, such as "/CPU:0".

  The device is "cpu", "GPU", "gpu:1" or "/GPU:0", for example, or None for the
  best one. InputError lists the available devices.
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
    raise errors.InputError(f"no device {device!r}: use one of {known}")
  return name


def describe(name: str) -> str:
  """Return a readable label of a device, "CPU" or "GPU:0 (NVIDIA ...)"."""
  kind, _, index = name.lstrip("/").partition(":")
  physical = tf.config.list_physical_devices(kind)
  if kind == "CPU" or int(index) >= len(physical):
    return kind
  details = tf.config.experimental.get_device_details(physical[int(index)])
  model = details.get("device_name")
  return f"{kind}:{index} ({model})" if model else f"{kind}:{index}"


def use_one_core_each(device: str | None = None) -> bool:
  """Limit each TensorFlow operation of this process to one core.

  With one image per core this is 1.1 times as fast (benchmarks/regions.py).
  Returns False, without effect, if there is a GPU, TensorFlow is initialised,
  or another number of threads is set.
  """
  is_cpu = "cpu" in str(device).lower()
  if not is_cpu and (device or tf.config.list_physical_devices("GPU")):
    return False
  get = tf.config.threading.get_intra_op_parallelism_threads
  if get() or os.environ.get("TF_NUM_INTRAOP_THREADS"):
    return get() == 1
  try:
    tf.config.threading.set_intra_op_parallelism_threads(1)
  except RuntimeError:  # TensorFlow is initialised.
    return False
  return True


class ExtractionModel:
  """A loaded model, with specs of its inputs and outputs by name."""

  def __init__(self, folder: pathlib.Path, loaded: Any, device: str):
    self.folder = folder
    self.device = device  # TensorFlow's name, such as "/CPU:0".
    self.device_label = describe(device)  # "GPU:0 (name)", for example.
    self._loaded = loaded
    self._functions = dict(loaded.signatures)
    self.inputs = graph_tensors(loaded, tensors.INPUTS)
    outputs = (*tensors.LOCAL_OUTPUTS, *tensors.GLOBAL_OUTPUTS)
    self.outputs = graph_tensors(loaded, outputs)
    # Whether it has functions; otherwise it is a graph of TensorFlow 1.
    self.is_tf2 = not (self.inputs and self.outputs)
    if self.is_tf2:
      self.inputs, self.outputs = specs_of(self._functions.get(DEFAULT))

  def output_size(self, name: str) -> int | None:
    """Return the last dimension of an output, or None if it is unknown."""
    shape = self.outputs[name].shape
    return shape[-1] if shape.rank else None

  def prepare(
    self, request: tensors.Request, batch: bool = False
  ) -> Callable | None:
    """Return a function that computes the requested features only.

    (TensorFlow 2 exports of the original compute local and global features
    together.) It maps an image [H, W, 3] uint8 to a dict of arrays: `boxes`
    [N, 4] float32 (ymin, xmin, ymax, xmax) in pixels, `features` [N, D],
    `scales` [N] and `scores` [N]; `global_descriptors` [G, D], or [1, D] if the
    model pools. With `batch`, it maps images [B, H, W, 3] to a list of these
    dicts; None if the model does not support batches.

    Raises InputError if the model lacks a tensor that the request needs; the
    returned function does so for an image that is too small.
    """
    function, inputs, outputs = None, self.inputs, self.outputs
    if self.is_tf2 or batch:
      function = self._signature(request, batch)
      if batch and function is None:
        return None
      inputs, outputs = specs_of(function)
    tensors.check(request, inputs, outputs, self.folder)
    names = tensors.fetches(request, outputs)
    feeds = {
      name: tf.constant(value)
      for name, value in tensors.feeds(inputs, request).items()
    }
    if function is None:
      function = prune(self._loaded, [tensors.IMAGE, *feeds], names)
    image_name = tensors.IMAGES if batch else tensors.IMAGE

    def extract(image):
      tensors.check_size(image, inputs, request)
      values = {image_name: tf.constant(image)} | feeds
      results = call(function, self.device, self.folder, **values)
      arrays = {name: results[name].numpy() for name in names}
      if not batch:
        return tensors.tidy(arrays, inputs, request)
      counts = [0] * len(image)
      if request.use_local:
        counts = results[tensors.COUNTS].numpy()
      rows = []
      for i, count in enumerate(counts):
        row = {name: array[i] for name, array in arrays.items()}
        row |= {n: row[n][:count] for n in tensors.LOCAL_OUTPUTS if n in row}
        rows.append(tensors.tidy(row, inputs, request))
      return rows

    return extract

  def _signature(self, request, batch):
    """Returns the cheapest function for a request, or None."""
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
        "%s: this export computes local and global features together; export"
        " it again with delf's exporters to compute the requested part only.",
        self.folder,
      )
    return self._functions.get(DEFAULT)


def load(
  folder: str | os.PathLike, device: str | None = None
) -> ExtractionModel:
  """Load an extraction model; arguments and errors are those of `read`."""
  return ExtractionModel(pathlib.Path(folder), *read(folder, device))


def read(
  folder: str | os.PathLike, device: str | None = None
) -> tuple[Any, str]:
  """Read a SavedModel of any kind onto a device (see `resolve`).

  Returns the result of `tf.saved_model.load`, and TensorFlow's device name.
  """
  folder = pathlib.Path(folder)
  if not folder.exists():
    raise FileNotFoundError(f"{folder}: no such folder")
  if not any(folder.glob("saved_model.pb*")):
    raise errors.InputError("not a SavedModel: no saved_model.pb", path=folder)
  device = resolve(device)
  try:
    with tf.device(device):
      return tf.saved_model.load(str(folder)), device
  except Exception as error:  # Damage leads to errors of many classes.
    message = f"the SavedModel cannot be read ({errors.one_line(error)})"
    raise errors.InputError(message, path=folder) from None


def graph_tensors(
  loaded: Any, names: Sequence[str]
) -> dict[str, tf.TensorSpec]:
  """Return the specs of the named tensors that a TensorFlow 1 graph has."""
  specs = {}
  for name in names if hasattr(loaded, "prune") else ():
    try:
      tensor = loaded.graph.get_tensor_by_name(f"{name}:0")
    except KeyError:
      continue
    specs[name] = tf.TensorSpec(tensor.shape, tensor.dtype, name)
  return specs


def prune(
  loaded: Any, inputs: Sequence[str], outputs: Sequence[str]
) -> Callable:
  """Return a function that runs the part of a graph between named tensors."""
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
  """Run a function on a device; InputError if it fails on the image."""
  try:
    with tf.device(device):
      return function(**values)
  except tf.errors.InvalidArgumentError as error:
    raise tensors.image_error(error, folder) from error


def specs_of(
  function: Any,
) -> tuple[dict[str, tf.TensorSpec], dict[str, tf.TensorSpec]]:
  """Return specs of a function's inputs and outputs by name; {} for None."""
  if function is None:
    return {}, {}
  inputs = function.structured_input_signature[1]
  return dict(inputs), dict(function.structured_outputs)
