"""Exports of models: SavedModels with names that users know, ONNX, TFLite."""

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
import shutil
import tempfile
import uuid
import warnings

import tensorflow as tf

from delf.base import errors, files
from delf.formats import checkpoints, network_files
from delf.networks import compact, model_checkpoints, signatures
from delf.python.training.model import delf_model, delg_model

_GRAPH = "saved_model.pb"


@contextlib.contextmanager
def destination(path: str | os.PathLike, overwrite: bool = False):
  """Yields a folder that does not exist yet and becomes `path` when complete.

  Args:
    path: Local folder, or a remote one (`gs://...`), which is yielded as it is.
    overwrite: Whether a finished export at `path` is replaced; it stays as it
      is until then.

  Raises:
    InputError: If there is something at `path` that is not to be replaced.
    OSError: As it is raised inside; of the folder it names `path`.
  """
  if not path:
    raise errors.InputError("a folder to export to", "none")
  if files.is_remote(path):
    if not overwrite and tf.io.gfile.exists(f"{path}/{_GRAPH}"):
      raise _exists(path)
    yield path
    return
  path = _local_folder(path)
  _check_free(path, overwrite)
  temporary, previous = (
    path.with_name(f".{path.name}.{uuid.uuid4().hex}") for _ in range(2)
  )
  try:
    yield temporary
    _check_free(path, overwrite)
    if path.exists():
      os.replace(path, previous)
    os.replace(temporary, path)
  except OSError as error:
    if error.errno is None or error.filename != str(temporary):
      raise
    raise OSError(error.errno, error.strerror, str(path)) from None
  finally:
    if previous.exists() and not path.exists():
      os.replace(previous, path)
    for folder in (temporary, previous):
      shutil.rmtree(folder, ignore_errors=True)


def _local_folder(path):
  """Returns the whole path of a folder to be, and makes the one it lies in."""
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
  """Refuses a path with something that is not to be replaced."""
  if not path.exists() or (path.is_dir() and not any(path.iterdir())):
    return
  if not (path / _GRAPH).is_file():
    received = "one with other files in it" if path.is_dir() else "a file"
    raise errors.InputError("a new folder to export to", received, path)
  if not overwrite:
    raise _exists(path)


def _exists(path):
  return errors.InputError(
    "a new folder to export to", "one with a finished export", path
  )


def export_local(
  model: delf_model.Delf,
  path: str | os.PathLike,
  iou: float = 1.0,
  overwrite: bool = False,
  variants: bool = True,
) -> None:
  """Exports the local features of a model.

  Args:
    model: Of any backbone. With an autoencoder the exported features are its
      codes.
    path: Folder to be; see `destination`.
    iou: Overlap of two receptive boxes over which the feature with less
      attention is dropped; 1.0 keeps all.
    overwrite: Whether a finished export at `path` is replaced.
    variants: Whether it also gets the functions for batches and for one part
      alone (see `signatures`); they make extraction faster, and the file of the
      graph larger: 3 MB in place of 1 MB for ResNet-50.

  Raises:
    InputError: If there is something at `path` that is not to be replaced.
  """
  _export(model, path, overwrite, signatures.local, iou, variants)


def export_global(
  model: delf_model.Delf,
  path: str | os.PathLike,
  input_scales: list | None = None,
  multi_scale_pool_type: str = "None",
  normalize_global_descriptor: bool = False,
  overwrite: bool = False,
  variants: bool = True,
) -> None:
  """Exports the global descriptor of a model; see `export_local`.

  Args:
    input_scales: Image scales to fix, so that the image is the only input; or
      None for scales that are inputs.
    multi_scale_pool_type: "None", "average" or "sum" over the scales.
    normalize_global_descriptor: Whether to L2-normalise the result.

  Raises:
    InputError: Also if a scale is not positive or is infinite.
  """
  for scale in input_scales or ():
    if not 0 < scale < math.inf:
      raise errors.InputError("positive input scales", list(input_scales))
  _export(
    model,
    path,
    overwrite,
    signatures.global_,
    input_scales or None,
    multi_scale_pool_type,
    normalize_global_descriptor,
    variants,
  )


def export_local_and_global(
  model: delf_model.Delf,
  path: str | os.PathLike,
  iou: float = 1.0,
  overwrite: bool = False,
  variants: bool = True,
) -> None:
  """Exports local features and the global descriptor; see `export_local`."""
  _export(model, path, overwrite, signatures.local_and_global, iou, variants)


def _export(model, path, overwrite, make, *arguments):
  with destination(path, overwrite) as folder, compact.folded(model):
    save(make(signatures.Network(model), *arguments), folder)


def save(functions: dict, path: str | os.PathLike) -> None:
  """Writes a SavedModel with just the variables that its functions use.

  Args:
    functions: Signature name to concrete function.
    path: Folder to be.

  Raises:
    OSError: If it cannot be written.
  """
  module = tf.Module()
  # Keras would store its layers, and classifiers that no function calls.
  module.weights = list(
    {id(v): v for f in functions.values() for v in f.graph.variables}.values()
  )
  with (
    checkpoints.writing("the SavedModel", path),
    _quiet("tensorflow"),  # It would name the temporary folder.
  ):
    tf.saved_model.save(module, os.fspath(path), signatures=functions)


@contextlib.contextmanager
def _quiet(name: str, level: int = logging.WARNING):
  """Keeps a logger from saying what is under a level."""
  logger = logging.getLogger(name)
  before = logger.level
  logger.setLevel(level)
  try:
    yield
  finally:
    logger.setLevel(before)


def load_model(  # noqa: PLR0913
  ckpt_path: str | os.PathLike,
  delg: bool = False,
  backbone: str = "resnet50",
  block3_strides: bool = True,
  use_autoencoder: bool = False,
  autoencoder_dimensions: int = 128,
  local_feature_map_channels: int = 1024,
  gem_power: float = 3.0,
  embedding_layer_dim: int = 2048,
  parts: tuple = ("local", "global"),
) -> delf_model.Delf:
  """Makes a model with the weights of a checkpoint, ours or the original's.

  Args:
    delg: Whether it is a DELG model, with GeM pooling and an embedding.
    block3_strides: Whether every second local feature is kept per direction.
    use_autoencoder: Whether local features are an autoencoder's codes.
    local_feature_map_channels: Channels of what the codes are expanded to.
    parts: What will be exported; weights for other parts alone are not needed.

  Raises:
    FileNotFoundError: If there is no checkpoint.
    InputError: If it does not fit (it lists what), or if a size or power is not
      over 0.
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
    options["embedding_layer_dim"] = _size(
      "embedding layer", embedding_layer_dim
    )
  model = (delg_model.Delg if delg else delf_model.Delf)(**options)
  # Weights that no exported part uses may be of other shapes or missing.
  unused = list(model_checkpoints.TRAINING_ONLY)
  missing = list(model_checkpoints.TRAINING_ONLY)
  if "local" not in parts:
    unused += ["attention", "autoencoder"]
    missing += ["attention"]
  if "global" not in parts:
    unused += ["backbone/embedding_layer"]
    missing += ["backbone/embedding_layer"]
  model_checkpoints.load_weights(
    model, ckpt_path, unused=unused, missing=missing
  )
  return model


def _size(of, value):
  if not (value > 0 and float(value).is_integer()):
    raise errors.InputError(f"a whole number over 0 for the {of}", value)
  return int(value)


# How weights of a TFLite file may be kept, in TFLite's words.
FLOAT32, FLOAT16, DYNAMIC = "float32", "float16", "dynamic-range"
PRECISIONS = (FLOAT32, FLOAT16, DYNAMIC)

# Operators of ONNX as of 2022, which runtimes of the last years have.
_OPSET = 18

# Errors of converters go on for pages; the first words say what happened.
_LONGEST_REASON = 300


class NetworkSource:
  """The network of a SavedModel of this library, to be written elsewhere.

  Attributes:
    settings: network_files.Settings.
    functions: Name to tf.function of one image, without settings.
  """

  def __init__(self, folder: str | os.PathLike):
    """Loads a SavedModel.

    Raises:
      InputError: If it cannot be read, or is not of this version's exporters.
    """
    self._folder = folder
    try:
      self._loaded = tf.saved_model.load(os.fspath(folder))
    except Exception as error:  # TensorFlow raises whatever damage leads to.
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

  def write_onnx(self, path: str | os.PathLike, config: str = "") -> None:
    """Writes an ONNX file; `config` is the text of its default DelfConfig.

    Raises:
      InputError: If `tf2onnx` is not installed.
    """
    convert = errors.load("tf2onnx.convert", "onnx")
    function = self.functions[signatures.NETWORK]
    # What it lacks shows when the file is loaded.
    with (
      _quiet("tf2onnx", logging.CRITICAL),
      _converting("ONNX", self._folder),
    ):
      model, _ = convert.from_function(
        function, function.input_signature, opset=_OPSET
      )
    settings = dataclasses.replace(self.settings, config=config)
    # Of all metadata, so that the file says nothing of where it was made.
    del model.metadata_props[:]
    model.metadata_props.add(key=network_files.KEY, value=settings.text())
    model.producer_name, model.doc_string = "delf", ""
    pathlib.Path(path).write_bytes(model.SerializeToString(deterministic=True))

  def write_tflite(
    self, path: str | os.PathLike, config: str = "", precision: str = FLOAT32
  ) -> None:
    """Writes a TFLite file for TFLite's own operators.

    Args:
      precision: How weights are kept; one of PRECISIONS.
    """
    with tempfile.TemporaryDirectory(prefix="delf_export") as folder:
      save(
        {n: f.get_concrete_function() for n, f in self.functions.items()},
        folder,
      )
      with (
        _quiet("tensorflow"),
        warnings.catch_warnings(),
        _converting("TFLite", self._folder),
      ):
        warnings.simplefilter("ignore")
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
def _converting(name, path):
  """Turns what a converter raises into an InputError."""
  try:
    yield
  except Exception as error:  # They raise whatever they have.
    reason = " ".join(str(error).split())[:_LONGEST_REASON]
    raise errors.InputError(
      f"a network of operations that {name} has", reason, path
    ) from error
