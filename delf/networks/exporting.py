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

import tensorflow as tf

from delf.base import errors, files
from delf.formats import checkpoints, network_files
from delf.networks import compact, model_checkpoints, signatures
from delf.python.training.model import delf_model, delg_model

_GRAPH = "saved_model.pb"
_FINISHED = "a new folder to export to", "one with a finished export"


@contextlib.contextmanager
def destination(
  path: files.Path, overwrite: bool = False
) -> Iterator[files.Path]:
  """Yield a new folder that becomes `path` when complete.

  A remote one (`gs://...`) is yielded as it is. `overwrite` replaces a finished
  export, which stays until then; anything else there is an InputError.
  """
  if not path:
    raise errors.InputError("a folder to export to", "none")
  if files.is_remote(path):
    if not overwrite and tf.io.gfile.exists(f"{path}/{_GRAPH}"):
      raise errors.InputError(*_FINISHED, path)
    yield path
    return
  path = _local_folder(path)
  check = functools.partial(_check_free, path, overwrite)
  check()
  with files.atomic_folder(path, check) as temporary:
    yield temporary


def _local_folder(path):
  """Resolve the path of a new folder, and create its parent."""
  given, path = path, pathlib.Path(path)
  if path.is_symlink() and not path.exists():
    raise errors.InputError("a folder to export to", "a link to nothing", given)
  path = path.resolve()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError):
    raise errors.InputError(
      "a folder to export to", "a path below a file", given
    ) from None
  return path


def _check_free(path, overwrite):
  """Refuse a path whose content is not to be replaced."""
  if not path.exists() or (path.is_dir() and not any(path.iterdir())):
    return
  if not (path / _GRAPH).is_file():
    received = "one with other files in it" if path.is_dir() else "a file"
    raise errors.InputError("a new folder to export to", received, path)
  if not overwrite:
    raise errors.InputError(*_FINISHED, path)


def export_local(
  model: delf_model.Delf,
  path: files.Path,
  iou: float = 1.0,
  overwrite: bool = False,
  variants: bool = True,
) -> None:
  """Export the local features of a model, or the codes of its autoencoder.

  Args:
    path: New folder; see `destination`.
    iou: Overlap of two receptive boxes over which the feature with less
      attention is dropped; 1.0 keeps all.
    variants: Whether to add the functions for batches and for one part alone
      (see `signatures`): extraction is faster, and the graph larger, 3 MB in
      place of 1 MB for ResNet-50.
  """
  settings = network_files.Settings(network_files.LOCAL, iou=float(iou))
  _export(model, path, settings, overwrite, variants)


def export_global(
  model: delf_model.Delf,
  path: files.Path,
  input_scales: list[float] | None = None,
  multi_scale_pool_type: str = "None",
  normalize_global_descriptor: bool = False,
  overwrite: bool = False,
  variants: bool = True,
) -> None:
  """Export the global descriptor of a model; see `export_local`.

  Args:
    input_scales: Image scales to fix, so that the image is the only input; or
      None for scales that are inputs.
    multi_scale_pool_type: "None", "average" or "sum" over the scales.
    normalize_global_descriptor: Whether to L2-normalise the result.
  """
  for scale in input_scales or ():
    if not 0 < scale < math.inf:
      raise errors.InputError("positive input scales", list(input_scales))
  settings = network_files.Settings(
    network_files.GLOBAL,
    input_scales=tuple(input_scales) if input_scales else None,
    pool_type=multi_scale_pool_type,
    normalize=normalize_global_descriptor,
  )
  _export(model, path, settings, overwrite, variants)


def export_local_and_global(
  model: delf_model.Delf,
  path: files.Path,
  iou: float = 1.0,
  overwrite: bool = False,
  variants: bool = True,
) -> None:
  """Export local features and the global descriptor; see `export_local`."""
  settings = network_files.Settings(network_files.JOINT, iou=float(iou))
  _export(model, path, settings, overwrite, variants)


def _export(model, path, settings, overwrite, variants):
  with destination(path, overwrite) as folder, compact.folded(model):
    network = signatures.Network(model)
    save(signatures.functions(network, settings, variants), folder)


def save(functions: dict, path: files.Path) -> None:
  """Write a SavedModel with exactly the variables of its functions, by name."""
  module = tf.Module()
  # Keras would store its layers, and classifiers that no function calls.
  module.weights = list(
    {id(v): v for f in functions.values() for v in f.graph.variables}.values()
  )
  with (
    checkpoints.writing("the SavedModel", path),
    _quiet("tensorflow"),  # Its messages name the temporary folder.
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
  """Create a model with the weights of a checkpoint, ours or the original's.

  Args:
    delg: Whether it is a DELG model, with GeM pooling and an embedding.
    block3_strides: Whether every second local feature is kept per direction.
    local_feature_map_channels: Channels of the features that codes expand to.
    parts: "local", "global" or both: weights for other parts may be missing.
  """
  options = {
    "backbone": backbone,
    "block3_strides": block3_strides,
    "use_dim_reduction": use_autoencoder,
    "reduced_dimension": _size("autoencoder", autoencoder_dimensions),
    "dim_expand_channels": _size("feature map", local_feature_map_channels),
  }
  if delg:
    if not 0 < gem_power < math.inf:
      raise errors.InputError("a GeM power over 0", gem_power)
    options["gem_power"] = gem_power
    size = _size("embedding layer", embedding_layer_dim)
    options["embedding_layer_dim"] = size
  model = (delg_model.Delg if delg else delf_model.Delf)(**options)
  # Weights that no exported part uses may be of other shapes or missing.
  optional = list(model_checkpoints.TRAINING_ONLY)
  if "local" not in parts:
    optional.append("attention")
  if "global" not in parts:
    optional.append("backbone/embedding_layer")
  unused = optional if "local" in parts else [*optional, "autoencoder"]
  model_checkpoints.load_weights(
    model, ckpt_path, unused=unused, missing=optional
  )
  return model


def _size(of, value):
  if not (value > 0 and float(value).is_integer()):
    raise errors.InputError(f"a whole number over 0 for the {of}", value)
  return int(value)


# Types of the weights in a TFLite file, in TFLite's terms.
FLOAT32, FLOAT16, DYNAMIC = "float32", "float16", "dynamic-range"

# Operators of ONNX as of 2022, which recent runtimes have.
_OPSET = 18

# Characters; errors of converters take pages, and their start says the reason.
_LONGEST_REASON = 300


class NetworkSource:
  """The network of a SavedModel of this library, to be converted.

  `functions` are tf.functions of one image, without settings, by name.
  """

  def __init__(self, folder: files.Path):
    """Load a SavedModel of this version's exporters."""
    self._folder = folder
    try:
      self._loaded = tf.saved_model.load(os.fspath(folder))
    except Exception as error:  # Damage may lead to any error.
      reason = " ".join(str(error).split())
      raise errors.InputError(
        "a whole SavedModel", f"one that cannot be read ({reason})", folder
      ) from None
    functions = self._loaded.signatures
    self.settings = signatures.read_settings(functions, folder)
    self.functions = {
      name: signatures.without_settings(functions[name])
      for name in (signatures.NETWORK, signatures.LOCAL)
      if name in functions
    }

  def write_onnx(self, path: files.Path, config: str = "") -> None:
    """Write an ONNX file; `config` is the text of its default DelfConfig."""
    convert = errors.load("tf2onnx.convert", "onnx")
    function = self.functions[signatures.NETWORK]
    # Unsupported operations fail when the file is loaded.
    with _converting("ONNX", self._folder, "tf2onnx", logging.CRITICAL):
      model, _ = convert.from_function(
        function, function.input_signature, opset=_OPSET
      )
    settings = dataclasses.replace(self.settings, config=config)
    # All metadata goes, so that the file does not tell where it was made.
    del model.metadata_props[:]
    model.metadata_props.add(key=network_files.KEY, value=settings.text())
    model.producer_name, model.doc_string = "delf", ""
    pathlib.Path(path).write_bytes(model.SerializeToString(deterministic=True))

  def write_tflite(
    self, path: files.Path, config: str = "", precision: str = FLOAT32
  ) -> None:
    """Write a TFLite file with weights of that precision."""
    with tempfile.TemporaryDirectory(prefix="delf_export") as folder:
      save(
        {n: f.get_concrete_function() for n, f in self.functions.items()},
        folder,
      )
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
  """Turn any error of a converter into an InputError, and silence the rest."""
  try:
    with _quiet(logger, level), warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  except Exception as error:  # They raise anything.
    reason = " ".join(str(error).split())[:_LONGEST_REASON]
    raise errors.InputError(
      f"a network of operations that {name} has", reason, path
    ) from error
