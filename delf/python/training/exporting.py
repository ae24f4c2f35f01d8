"""Exporting of models to SavedModels with the tensor names users know."""

import contextlib
import os
import pathlib
import shutil
import uuid

import tensorflow as tf

from delf.python import errors, files
from delf.python.training.model import (
  checkpoints,
  delf_model,
  delg_model,
  folding,
  network,
  signatures,
)

_GRAPH = "saved_model.pb"


def export_local(model, path, iou=1.0, overwrite=False, variants=True):
  """Exports the local features of a model.

  Args:
    model: delf_model.Delf of any backbone, or one with its calls. With an
      autoencoder the exported features are its codes.
    path: Folder to be; see `save`.
    iou: Overlap of two receptive boxes, over which the feature with less
      attention is dropped; 1.0 keeps all.
    overwrite: Whether a finished export at `path` is replaced.
    variants: Whether it also gets the functions for batches and for one part
      alone (see `signatures`); they make extraction faster, and the file of the
      graph larger: 3 MB in place of 1 MB for ResNet-50.

  Raises:
    InputError: If there is something at `path` that is not to be replaced.
  """
  with _destination(path, overwrite) as folder, folding.folded(model):
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
    InputError: As for `export_local`, or if a scale is not positive.
  """
  if input_scales is not None and not all(s > 0 for s in input_scales):
    raise errors.InputError("positive input scales", list(input_scales))
  with _destination(path, overwrite) as folder, folding.folded(model):
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
  with _destination(path, overwrite) as folder, folding.folded(model):
    functions = signatures.local_and_global(
      network.Network(model), iou, variants
    )
    save(functions, folder)


def save(functions, path):
  """Writes a SavedModel with just the variables that its functions use.

  Args:
    functions: dict of signature name to concrete function.
    path: Folder to be.
  """
  module = tf.Module()
  variables = {
    id(variable): variable
    for function in functions.values()
    for variable in function.graph.variables
  }
  # Keras would store its layers, and classifiers that no function calls.
  module.weights = list(variables.values())
  tf.saved_model.save(module, os.fspath(path), signatures=functions)


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
    parts: What will be exported; weights that it does not use may be missing in
      the checkpoint, and in the model.

  Returns:
    delf_model.Delf.

  Raises:
    FileNotFoundError: If there is no checkpoint.
    InputError: If it does not fit the model; it lists what does not.
  """
  options = {
    "backbone": backbone,
    "block3_strides": block3_strides,
    "use_dim_reduction": use_autoencoder,
    "reduced_dimension": int(autoencoder_dimensions),
    "dim_expand_channels": int(local_feature_map_channels),
  }
  if delg:
    model = delg_model.Delg(
      gem_power=gem_power, embedding_layer_dim=embedding_layer_dim, **options
    )
  else:
    model = delf_model.Delf(**options)
  unused = list(checkpoints.TRAINING_ONLY)
  missing = list(checkpoints.TRAINING_ONLY)
  if "local" not in parts:
    unused += ["attention", "autoencoder"]
    missing += ["attention"]
  if "global" not in parts:
    unused += ["backbone/embedding_layer"]
  checkpoints.load_weights(model, ckpt_path, unused=unused, missing=missing)
  return model


@contextlib.contextmanager
def _destination(path, overwrite):
  """Yields a folder that becomes `path` when all is written."""
  if not path:
    raise errors.InputError("a folder to export to", "none")
  if files.is_remote(path):
    if not overwrite and tf.io.gfile.exists(f"{path}/{_GRAPH}"):
      raise _exists(path)
    yield path
    return
  path = pathlib.Path(path)
  _check_free(path, overwrite)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
  previous = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
  try:
    yield temporary
    _check_free(path, overwrite)
    if path.exists():
      os.replace(path, previous)
    try:
      os.replace(temporary, path)
    except OSError:
      os.replace(previous, path)
      raise
  finally:
    for folder in (temporary, previous):
      shutil.rmtree(folder, ignore_errors=True)


def _check_free(path, overwrite):
  """Refuses a path with something that is not to be replaced."""
  if not path.exists() or (path.is_dir() and not any(path.iterdir())):
    return
  if not (path / _GRAPH).is_file():
    raise errors.InputError(
      "a new folder to export to", "one with other files in it", path
    )
  if not overwrite:
    raise _exists(path)


def _exists(path):
  return errors.InputError(
    "a new folder to export to", "one with a finished export", path
  )
