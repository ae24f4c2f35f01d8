"""Reading `.h5` weight files of Keras by layer name."""

import io

import numpy as np

from delf.python import errors, files
from delf.python.training.model import layer_tree

# Layers that only a classifier has, or only a feature extractor: a file or a
# model may lack them.
_OPTIONAL = ("fc1000", "embedding_layer")

# What h5py, and names or members of another kind, raise.
_READ_ERRORS = (
  AttributeError,
  KeyError,
  OSError,
  RuntimeError,
  TypeError,
  ValueError,
)


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
      holds some of another shape or no floating point; then nothing has
      changed, and no array of another shape was read.
  """
  layers = {
    layer.name: layer.weights
    for layer in layer_tree.layers_by_path(model).values()
    if layer.weights and not layer._layers
  }
  problems, arrays = _read(path, layers)
  if problems:
    raise errors.InputError(
      f"the weights of {model.name}", "; ".join(problems), path
    )
  for name, values in arrays.items():
    for variable, value in zip(layers[name], values, strict=True):
      variable.assign(value)


def _read(path, layers):
  """Returns what is wrong, as a list, and if nothing is, arrays by layer."""
  import h5py

  data = io.BytesIO(files.read_bytes(path))
  try:
    with h5py.File(data, "r") as file:
      stored = _datasets(file.get("model_weights", file))
      problems = _problems(layers, stored)
      if problems:
        return problems, {}
      return [], {
        name: [np.asarray(dataset) for dataset in stored[name]]
        for name in layers.keys() & stored.keys()
      }
  except _READ_ERRORS as error:
    reason = errors.one_line(error)
    raise errors.InputError(
      "a whole .h5 file of Keras weights", f"another kind ({reason})", path
    ) from None


def _datasets(group):
  """Returns a dict of layer name to list of datasets, none of them read."""
  stored = {}
  for name in map(_text, group.attrs["layer_names"]):
    names = map(_text, group[name].attrs["weight_names"])
    datasets = [group[name][each] for each in names]
    if datasets:
      stored[name] = datasets
  return stored


def _problems(layers, stored):
  """Returns in which ways stored weights are not those of the layers."""
  missing = [n for n in layers if n not in stored and n not in _OPTIONAL]
  unused = [n for n in stored if n not in layers and n not in _OPTIONAL]
  common = [name for name in layers if name in stored]
  shapes = {name: [tuple(v.shape) for v in layers[name]] for name in common}
  of_shape = [
    f"{name} of shapes {received} in place of {shapes[name]}"
    for name in common
    if (received := [d.shape for d in stored[name]]) != shapes[name]
  ]
  of_dtype = [
    f"{name} of types {[str(d.dtype) for d in stored[name]]} in place of floats"
    for name in common
    if any(d.dtype.kind != "f" for d in stored[name])
  ]
  return [
    f"{title}{layer_tree.listed(names)}"
    for title, names in (
      ("no layer ", missing),
      ("unknown layer ", unused),
      ("", of_shape),
      ("", of_dtype),
    )
    if names
  ]


def _text(name):
  return name.decode() if isinstance(name, bytes) else name
