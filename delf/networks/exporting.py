"""Exports of models: SavedModels with the original's names, ONNX, TFLite."""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import pathlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from delf.base import errors, files
from delf.formats import checkpoints, network_files
from delf.networks import compact, model_checkpoints, signatures
from delf.python.training.model import delf_model, delg_model

_GRAPH = "saved_model.pb"
_FINISHED = "the folder has a finished export: use a new one to export to"


@contextlib.contextmanager
def destination(
  path: files.Path, overwrite: bool = False
) -> Iterator[files.Path]:
  """Yield a temporary folder that becomes `path` when complete.

  A remote folder (`gs://...`) is yielded itself. `overwrite` replaces a
  finished export at the end; other files in the folder raise an InputError.
  """
  if not path:
    raise errors.InputError("the folder to export to is missing")
  if files.is_remote(path):
    if not overwrite and tf.io.gfile.exists(f"{path}/{_GRAPH}"):
      raise errors.InputError(_FINISHED, path=path)
    yield path
    return
  folder = pathlib.Path(path)
  if folder.is_symlink() and not folder.exists():
    message = "the folder to export to is a link without a target"
    raise errors.InputError(message, path=path)
  folder = folder.resolve()
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError):
    message = "the folder to export to is below a file"
    raise errors.InputError(message, path=path) from None
  check = functools.partial(_check_free, folder, overwrite)
  check()
  with files.atomic_folder(folder, check) as temporary:
    yield temporary


def _check_free(path, overwrite):
  """Raise InputError if a path exists that must not be replaced."""
  if not path.exists() or (path.is_dir() and not any(path.iterdir())):
    return
  if not (path / _GRAPH).is_file():
    content = "has other files" if path.is_dir() else "is a file"
    message = f"the folder to export to {content}: use a new one"
    raise errors.InputError(message, path=path)
  if not overwrite:
    raise errors.InputError(_FINISHED, path=path)


def export(
  model: delf_model.Delf,
  path: files.Path,
  form: str = network_files.JOINT,
  overwrite: bool = False,
  variants: bool = True,
  **options: Any,
) -> None:
  """Export the features of a model, of an autoencoder its codes, to a folder.

  Args:
    path: New folder; see `destination`.
    form: One of `network_files.FORMS`.
    variants: Whether to add the functions for batches and for single parts
      (see `signatures`): extraction is faster, and the graph larger, 3 MB in
      place of 1 MB for ResNet-50.
    **options: Fields of `network_files.Settings`: `iou`, and for the global
      descriptor alone `input_scales`, `pool_type` and `normalize`.
  """
  scales = options.pop("input_scales", None) or ()
  if not all(0 < scale < math.inf for scale in scales):
    message = f"input scales must be over 0 and finite, not {scales}"
    raise errors.InputError(message)
  fixed = tuple(scales) or None
  settings = network_files.Settings(form, input_scales=fixed, **options)
  with destination(path, overwrite) as folder, compact.folded(model):
    network = signatures.Network(model)
    save(signatures.functions(network, settings, variants), folder)


def save(functions: dict, path: files.Path) -> None:
  """Write a SavedModel of functions by name, with their variables only."""
  module = tf.Module()
  # Keras would also store its layers, and classifiers without a use.
  module.weights = list(
    {id(v): v for f in functions.values() for v in f.graph.variables}.values()
  )
  with (
    checkpoints.writing("the SavedModel", path),
    _quiet("tensorflow"),  # Its messages have the temporary folder.
  ):
    tf.saved_model.save(module, os.fspath(path), signatures=functions)


@contextlib.contextmanager
def _quiet(name, level=logging.WARNING):
  """Drop messages of a logger below a level."""
  logger = logging.getLogger(name)
  before = logger.level
  logger.setLevel(level)
  try:
    yield
  finally:
    logger.setLevel(before)


def load_model(  # noqa: PLR0913
  ckpt_path: files.Path,
  delg: bool = False,
  backbone: str = "resnet50",
  block3_strides: bool = True,
  use_autoencoder: bool = False,
  autoencoder_dimensions: int = 128,
  local_feature_map_channels: int = 1024,
  gem_power: float = 3.0,
  embedding_layer_dim: int = 2048,
  parts: Sequence[str] = ("local", "global"),
) -> delf_model.Delf:
  """Create a model with the weights of a checkpoint of delf or the original.

  Args:
    delg: Whether it is a DELG model, with GeM pooling and an embedding.
    block3_strides: Whether every second local feature is kept per direction.
    local_feature_map_channels: Channels of the features decoded from codes.
    parts: "local", "global" or both: weights for other parts may be missing.
  """
  options: dict[str, Any] = {
    "backbone": backbone,
    "block3_strides": block3_strides,
    "use_dim_reduction": use_autoencoder,
    "reduced_dimension": _size("autoencoder", autoencoder_dimensions),
    "dim_expand_channels": _size("feature map", local_feature_map_channels),
  }
  if delg:
    if not 0 < gem_power < math.inf:
      message = f"the GeM power must be over 0 and finite, not {gem_power}"
      raise errors.InputError(message)
    options["gem_power"] = gem_power
    size = _size("embedding layer", embedding_layer_dim)
    options["embedding_layer_dim"] = size
  model = (delg_model.Delg if delg else delf_model.Delf)(**options)
  # Weights without a use in these parts may differ in shape or be missing.
  uses = {"local": "attention", "global": "backbone/embedding_layer"}
  optional = [layer for part, layer in uses.items() if part not in parts]
  optional += model_checkpoints.TRAINING_ONLY
  unused = optional if "local" in parts else [*optional, "autoencoder"]
  load = model_checkpoints.load_weights
  load(model, ckpt_path, unused=unused, missing=optional)
  return model


def _size(name, value):
  if not (value > 0 and float(value).is_integer()):
    message = f"the size of the {name} must be an integer over 0, not {value}"
    raise errors.InputError(message)
  return int(value)


# Types of the weights in a TFLite file, in TFLite's terms.
FLOAT32, FLOAT16, DYNAMIC = "float32", "float16", "dynamic-range"

# Operators of ONNX of 2022, which recent runtimes have.
_OPSET = 18

# Characters: messages of converters fill pages; their start names the cause.
_LONGEST_REASON = 300


class NetworkSource:
  """The network of a SavedModel of this version's exporters, to be converted.

  `functions` are tf.functions of one image, without settings, by name.
  """

  def __init__(self, folder: files.Path):
    self._folder = folder
    try:
      self._loaded = tf.saved_model.load(os.fspath(folder))
    except Exception as error:  # Damage leads to errors of many classes.
      message = f"the SavedModel cannot be read ({errors.one_line(error)})"
      raise errors.InputError(message, path=folder) from None
    functions = self._loaded.signatures
    self.settings = signatures.read_settings(functions, folder)
    self.functions = {
      name: signatures.without_settings(functions[name])
      for name in (signatures.NETWORK, signatures.LOCAL)
      if name in functions
    }

  def write_onnx(self, path: files.Path, config: str = "") -> None:
    """Write an ONNX file; `config` is the text of its default DelfConfig."""
    convert: Any = errors.load("tf2onnx.convert", "onnx")
    function = self.functions[signatures.NETWORK]
    # Unsupported operations fail when the file is loaded.
    with _converting("ONNX", self._folder, "tf2onnx", logging.CRITICAL):
      model, _ = convert.from_function(
        function, function.input_signature, opset=_OPSET
      )
    settings = dataclasses.replace(self.settings, config=config)
    # Without the converter's metadata, which has local paths.
    del model.metadata_props[:]
    model.metadata_props.add(key=network_files.KEY, value=settings.text())
    model.producer_name, model.doc_string = "delf", ""
    pathlib.Path(path).write_bytes(model.SerializeToString(deterministic=True))

  def write_tflite(
    self, path: files.Path, config: str = "", precision: str = FLOAT32
  ) -> None:
    """Write a TFLite file with weights of FLOAT32, FLOAT16 or DYNAMIC type."""
    with tempfile.TemporaryDirectory(prefix="delf_export") as folder:
      items = self.functions.items()
      save({name: f.get_concrete_function() for name, f in items}, folder)
      with _converting("TFLite", self._folder, "tensorflow", logging.WARNING):
        converter = tf.lite.TFLiteConverter.from_saved_model(
          folder, signature_keys=sorted(self.functions)
        )
        if precision != FLOAT32:
          converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == FLOAT16:
          converter.target_spec.supported_types = [tf.float16]
        data = converter.convert()
    settings = dataclasses.replace(
      self.settings, config=config, precision=precision
    )
    pathlib.Path(path).write_bytes(data)
    network_files.add_tflite_settings(path, settings)


@contextlib.contextmanager
def _converting(name, path, logger, level):
  """Turn errors of a converter into InputErrors, and silence its messages."""
  try:
    with _quiet(logger, level), warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  except Exception as error:  # They raise errors of many classes.
    reason = " ".join(str(error).split())[:_LONGEST_REASON]
    message = f"the network cannot be converted to {name}: {reason}"
    raise errors.InputError(message, path=path) from error
