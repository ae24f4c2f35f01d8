"""The model of a run, with the weights that it starts from."""

import contextlib

import keras

from delf.python import errors
from delf.python.training.model import (
  checkpoints,
  delf_model,
  delg_model,
  layer_tree,
)


def make(network, num_classes):
  """Makes a model with its classifiers.

  Args:
    network: settings.Network.
    num_classes: Number of classes.

  Returns:
    delf_model.Delf, or delg_model.Delg; all its variables exist.

  Raises:
    InputError: If there is no such backbone.
  """
  options = {
    "backbone": network.backbone,
    "block3_strides": network.block3_strides,
    "use_dim_reduction": network.use_autoencoder,
    "reduced_dimension": int(network.autoencoder_dimensions),
    "dim_expand_channels": int(network.local_feature_map_channels),
  }
  with _precision(network.precision):
    if network.delg:
      model = delg_model.Delg(
        gem_power=network.gem_power,
        embedding_layer_dim=network.embedding_layer_dim,
        scale_factor_init=network.scale_factor_init,
        arcface_margin=network.arcface_margin,
        **options,
      )
    else:
      model = delf_model.Delf(**options)
    model.init_classifiers(num_classes)
  for layer in layer_tree.layers_by_path(model).values():
    if isinstance(layer, keras.layers.BatchNormalization):
      layer.synchronized = network.normalization == "synchronized"
  return model


def start(model, network):
  """Gives a model the weights that a new run starts from, if there are any.

  Args:
    model: Of `make`.
    network: settings.Network.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is of another model.
  """
  if network.imagenet_checkpoint:
    if not hasattr(model.backbone, "restore_weights"):
      raise errors.InputError(
        "a backbone that ImageNet weights are for", repr(network.backbone)
      )
    model.backbone.restore_weights(network.imagenet_checkpoint)
  if network.initial_weights:
    checkpoints.load_weights(
      model,
      network.initial_weights,
      unused=checkpoints.TRAINING_ONLY,
      missing=checkpoints.TRAINING_ONLY,
    )


@contextlib.contextmanager
def _precision(name):
  """Has the layers that are made within compute in a precision."""
  before = keras.config.dtype_policy()
  keras.config.set_dtype_policy(name)
  try:
    yield
  finally:
    keras.config.set_dtype_policy(before)
