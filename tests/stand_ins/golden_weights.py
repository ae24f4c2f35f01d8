"""The weights that the recorded outputs of models were made with."""

import functools
import zlib

import numpy as np

from delf.networks import backbones

# Parts of a model whose name precedes those of their layers.
_PARTS = ("backbone", "attention", "autoencoder")


def names(model):
  """Returns the variables of a model by the name that decides their values.

  Args:
    model: `Delf` or `Delg`.

  Returns:
    dict of str (`backbone/res2a_branch2a/kernel`) to keras.Variable, in the
    order of `model.variables`.
  """
  layers = backbones.layers_by_path(model)
  by_id = {}
  for path, variable in backbones.variables_by_path(model).items():
    parent = path.rpartition("/")[0]
    part = parent.split("/")[0]
    words = [part] if part in _PARTS else []
    words += [layers[parent].name] if parent else []
    by_id[id(variable)] = "/".join([*words, variable.name])
  return {by_id[id(variable)]: variable for variable in model.variables}


def assign(model):
  """Gives a model the weights."""
  for name, variable in names(model).items():
    variable.assign(make(name, tuple(variable.shape)))


@functools.cache
def make(name, shape):
  """Returns the weights of a name, float32 of a shape."""
  rng = np.random.default_rng([zlib.crc32(name.encode()), 0])
  leaf = name.rpartition("/")[2]
  if leaf == "scale_factor":
    return np.float32(45.25)
  if leaf == "moving_variance":
    return (0.5 + rng.uniform(size=shape)).astype(np.float32)
  noise = rng.standard_normal(shape)
  if leaf in ("kernel", "cosine_weights"):
    scale = np.sqrt(2 / np.prod(shape[:-1]))
    noise *= scale * (0.3 if "_branch2c/" in name else 1)
  elif leaf == "gamma":
    noise = 1 + 0.1 * noise
  else:
    noise *= 0.05 if leaf == "bias" else 0.1
  return noise.astype(np.float32)
