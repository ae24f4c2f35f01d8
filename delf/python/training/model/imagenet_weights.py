"""Reading `.h5` weight files of Keras by layer name."""

import io

import numpy as np

from delf.python import errors, files
from delf.python.training.model import layer_tree

# Layers that only a classifier has, or only a feature extractor: a file or a
# model may lack them.
_OPTIONAL = ("fc1000", "embedding_layer")


def restore(model, path):
  """Gives the layers of a model the weights that a file has for them.

  Weights are taken in the order in which the file lists them, as Keras does:
  their names have changed from version to version (`kernel:0`, `W_1:0`, ...).

  Args:
    model: Built model; its layers' names are those of the file.
    path: Path of a `.h5` file of Keras 1 or 2: weights, or a whole model.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no such file, or if it lacks weights, holds others, or
      holds some of another shape; then nothing has changed.
  """
  stored = _read(path)
  layers = {
    layer.name: layer.weights
    for layer in layer_tree.layers_by_path(model).values()
    if layer.weights and not layer._layers
  }
  problems = _problems(layers, stored)
  if problems:
    raise errors.InputError(
      f"the weights of {model.name}", "; ".join(problems), path
    )
  for name, variables in layers.items():
    for variable, value in zip(variables, stored.get(name, ()), strict=False):
      variable.assign(value)


def _problems(layers, stored):
  missing = [n for n in layers if n not in stored and n not in _OPTIONAL]
  unused = [n for n in stored if n not in layers and n not in _OPTIONAL]
  problems = []
  for title, names in (("no layer", missing), ("unknown layer", unused)):
    if names:
      problems.append(f"{title} {', '.join(names)}")
  for name in layers.keys() & stored.keys():
    expected = [tuple(variable.shape) for variable in layers[name]]
    received = [value.shape for value in stored[name]]
    if expected != received:
      problems.append(f"{name} of shapes {received} in place of {expected}")
  return problems


def _read(path):
  """Returns a dict of layer name to list of arrays, without empty layers."""
  import h5py

  data = io.BytesIO(files.read_bytes(path))
  try:
    with h5py.File(data, "r") as file:
      group = file.get("model_weights", file)
      names = [_text(name) for name in group.attrs["layer_names"]]
      stored = {name: _weights(group[name]) for name in names}
  except (KeyError, OSError, RuntimeError) as error:
    raise errors.InputError(
      "a whole .h5 file of Keras weights", f"another kind ({error})", path
    ) from None
  return {name: values for name, values in stored.items() if values}


def _weights(group):
  return [np.asarray(group[_text(n)]) for n in group.attrs["weight_names"]]


def _text(name):
  return name.decode() if isinstance(name, bytes) else name
