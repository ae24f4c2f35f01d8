"""Exporting of models to SavedModels with the tensor names users know."""

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
def destination(path, overwrite=False):
  """Yields a folder that becomes `path` when all is written.

  Args:
    path: Folder to be; local, or one that TensorFlow writes (`gs://...`).
    overwrite: Whether a finished export at `path` is replaced; it stays as it
      is until then.

  Yields:
    pathlib.Path of a folder that does not exist yet; of a remote one `path`.

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


def export_local(model, path, iou=1.0, overwrite=False, variants=True):
  """Exports the local features of a model.

  Args:
    model: delf_model.Delf of any backbone, or one with its calls. With an
      autoencoder the exported features are its codes.
    path: Folder to be; see `export_folder.destination`.
    iou: Overlap of two receptive boxes, over which the feature with less
      attention is dropped; 1.0 keeps all.
    overwrite: Whether a finished export at `path` is replaced.
    variants: Whether it also gets the functions for batches and for one part
      alone (see `signatures`); they make extraction faster, and the file of the
      graph larger: 3 MB in place of 1 MB for ResNet-50.

  Raises:
    InputError: If there is something at `path` that is not to be replaced.
  """
  with (
    destination(path, overwrite) as folder,
    compact.folded(model),
  ):
    functions = signatures.local(signatures.Network(model), iou, variants)
    save(functions, folder)


def export_global(
  model,
  path,
  input_scales=None,
  multi_scale_pool_type="None",
  normalize_global_descriptor=False,
  overwrite=False,
  variants=True,
):
  """Exports the global descriptor of a model.

  Args:
    model: As for `export_local`.
    path: As for `export_local`.
    input_scales: Image scales to fix, so that the image is the only input; or
      None for scales that are inputs.
    multi_scale_pool_type: "None", "average" or "sum" over the scales.
    normalize_global_descriptor: Whether to L2-normalise what is returned.
    overwrite: As for `export_local`.
    variants: As for `export_local`.

  Raises:
    InputError: As for `export_local`, or if a scale is not positive or is
      infinite.
  """
  for scale in input_scales or ():
    if not 0 < scale < math.inf:
      raise errors.InputError("positive input scales", list(input_scales))
  with (
    destination(path, overwrite) as folder,
    compact.folded(model),
  ):
    functions = signatures.global_(
      signatures.Network(model),
      input_scales or None,
      multi_scale_pool_type,
      normalize_global_descriptor,
      variants,
    )
    save(functions, folder)


def export_local_and_global(
  model, path, iou=1.0, overwrite=False, variants=True
):
  """Exports local features and the global descriptor of a model.

  Args:
    model: As for `export_local`.
    path: As for `export_local`.
    iou: As for `export_local`.
    overwrite: As for `export_local`.
    variants: As for `export_local`.

  Raises:
    InputError: As for `export_local`.
  """
  with (
    destination(path, overwrite) as folder,
    compact.folded(model),
  ):
    functions = signatures.local_and_global(
      signatures.Network(model), iou, variants
    )
    save(functions, folder)


def save(functions, path):
  """Writes a SavedModel with just the variables that its functions use.

  Args:
    functions: dict of signature name to concrete function.
    path: Folder to be.

  Raises:
    OSError: If it cannot be written.
  """
  module = tf.Module()
  variables = {
    id(variable): variable
    for function in functions.values()
    for variable in function.graph.variables
  }
  # Keras would store its layers, and classifiers that no function calls.
  module.weights = list(variables.values())
  with (
    checkpoints.writing("the SavedModel", path),
    _quiet(tf.get_logger()),  # It would name the temporary folder.
  ):
    tf.saved_model.save(module, os.fspath(path), signatures=functions)


@contextlib.contextmanager
def _quiet(logger):
  """Keeps a logger from saying what is no warning."""
  level = logger.level
  logger.setLevel(logging.WARNING)
  try:
    yield
  finally:
    logger.setLevel(level)


def load_model(  # noqa: PLR0913
  ckpt_path,
  delg=False,
  backbone="resnet50",
  block3_strides=True,
  use_autoencoder=False,
  autoencoder_dimensions=128,
  local_feature_map_channels=1024,
  gem_power=3.0,
  embedding_layer_dim=2048,
  parts=("local", "global"),
):
  """Makes a model and gives it the weights of a checkpoint.

  Args:
    ckpt_path: Checkpoint, this library's or the original's; see
      `checkpoints.load_weights`.
    delg: Whether it is a DELG model, with GeM pooling and an embedding.
    backbone: Name of a backbone; see `backbones`.
    block3_strides: Whether every second local feature is kept per direction.
    use_autoencoder: Whether local features are an autoencoder's codes.
    autoencoder_dimensions: Size of the codes.
    local_feature_map_channels: Channels of what the codes are expanded to.
    gem_power: Power of the GeM pooling.
    embedding_layer_dim: Size of the global descriptor.
    parts: What will be exported; weights for other parts alone are not needed.

  Returns:
    delf_model.Delf.

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
    options["gem_power"] = _power(gem_power)
    options["embedding_layer_dim"] = _size(
      "embedding layer", embedding_layer_dim
    )
  model = (delg_model.Delg if delg else delf_model.Delf)(**options)
  _load(model, ckpt_path, parts)
  return model


def _size(of, value):
  """Returns a number of dimensions as an int."""
  if not (value > 0 and float(value).is_integer()):
    raise errors.InputError(f"a whole number over 0 for the {of}", value)
  return int(value)


def _power(value):
  """Returns a power that a generalised mean can have."""
  if not 0 < value < math.inf:
    raise errors.InputError("a GeM power over 0", value)
  return value


def _load(model, ckpt_path, parts):
  """Loads the weights; those that no part uses may be other ones or missing."""
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
    settings: network_io.Settings.
  """

  def __init__(self, folder):
    """Loads it.

    Args:
      folder: Path of the SavedModel.

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

  def write_onnx(self, path, config=""):
    """Writes an ONNX file.

    Args:
      path: Path of a file that does not exist yet.
      config: Text of the DelfConfig to use unless another one is given.

    Raises:
      InputError: If `tf2onnx` is not installed.
    """
    convert = errors.load("tf2onnx.convert", "onnx")
    function = self.functions[signatures.NETWORK]
    # What it lacks shows when the file is loaded.
    with (
      _quiet_export_network("tf2onnx", logging.CRITICAL),
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

  def write_tflite(self, path, config="", precision=FLOAT32):
    """Writes a TFLite file for TFLite's own operators.

    Args:
      path: As for `write_onnx`.
      config: As for `write_onnx`.
      precision: How weights are kept; one of PRECISIONS.
    """
    with tempfile.TemporaryDirectory(prefix="delf_export") as folder:
      _save(self.functions, folder)
      with (
        _quiet_export_network("tensorflow"),
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


def _save(functions, folder):
  """Writes a SavedModel of functions for one image."""
  concrete = {n: f.get_concrete_function() for n, f in functions.items()}
  module = tf.Module()
  module.weights = list(
    {id(v): v for f in concrete.values() for v in f.graph.variables}.values()
  )
  with (
    checkpoints.writing("the SavedModel", folder),
    _quiet_export_network("tensorflow"),
  ):
    tf.saved_model.save(module, folder, signatures=concrete)


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


@contextlib.contextmanager
def _quiet_export_network(name, level=logging.WARNING):
  """Keeps a logger from saying what is under a level."""
  logger = logging.getLogger(name)
  before = logger.level
  logger.setLevel(level)
  try:
    yield
  finally:
    logger.setLevel(before)
