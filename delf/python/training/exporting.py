"""Exporting of models to SavedModels with the tensor names users know."""

import contextlib
import logging
import math
import os

import tensorflow as tf

from delf.python import checkpoint_io, errors
from delf.python.training.model import (
  checkpoints,
  delf_model,
  delg_model,
  export_folder,
  folding,
  network,
  signatures,
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
    export_folder.destination(path, overwrite) as folder,
    folding.folded(model),
  ):
    functions = signatures.local(network.Network(model), iou, variants)
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
    export_folder.destination(path, overwrite) as folder,
    folding.folded(model),
  ):
    functions = signatures.global_(
      network.Network(model),
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
    export_folder.destination(path, overwrite) as folder,
    folding.folded(model),
  ):
    functions = signatures.local_and_global(
      network.Network(model), iou, variants
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
    checkpoint_io.writing("the SavedModel", path),
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
  unused = list(checkpoints.TRAINING_ONLY)
  missing = list(checkpoints.TRAINING_ONLY)
  if "local" not in parts:
    unused += ["attention", "autoencoder"]
    missing += ["attention"]
  if "global" not in parts:
    unused += ["backbone/embedding_layer"]
    missing += ["backbone/embedding_layer"]
  checkpoints.load_weights(model, ckpt_path, unused=unused, missing=missing)
