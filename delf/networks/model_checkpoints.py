"""Weights of models as TensorFlow checkpoints with the original's keys.

A key is the path of a variable (see `layer_paths`) and a suffix:
`backbone/l2a/conv2a/kernel/.ATTRIBUTES/VARIABLE_VALUE`.
"""

import dataclasses

import keras
import tensorflow as tf

from delf.base import errors
from delf.formats import checkpoints
from delf.networks import layer_paths

# So many names of a list are enough to see what is wrong.


# Paths that training alone needs; `load_weights(..., unused=TRAINING_ONLY)` is
# how a model without classifiers reads a checkpoint that has them.
TRAINING_ONLY = (
  "desc_classification",
  "attn_classification",
  "cosine_weights",
  "scale_factor",
)

_SUFFIX = checkpoints.SUFFIX
_GRAPH = checkpoints.GRAPH

# Keys of a checkpoint of a training run that are not of its model.
_OF_THE_RUN = ("optimizer", "save_counter", "global_step", "epoch", "step")


@dataclasses.dataclass(frozen=True)
class LoadReport:
  """What `load_weights` did, as sorted lists of paths of variables."""

  loaded: list
  unused: list
  missing: list


def load_weights(model, path, *, unused=(), missing=()):
  """Gives a built model the weights of a checkpoint, all of them or none.

  Args:
    model: Model whose variables exist.
    path: Prefix of a TensorFlow checkpoint (`delf_weights`), or a folder with a
      `checkpoint` file, whose newest one is read. Written by `save_weights`, by
      `save_weights` of Keras 2, or by a training run (`model/...` besides the
      optimiser's variables).
    unused: Paths, or beginnings of paths, that the checkpoint may hold though
      the model has no such variable.
    missing: Paths, or beginnings of paths, that the model may have though the
      checkpoint lacks them; they keep their values. What is also in `unused`
      may be of another shape.

  Raises:
    FileNotFoundError: If there is no checkpoint.
    InputError: If it cannot be read, or if what it holds is not what the model
      has: it lists what is missing, unused, of another shape, or no floating
      point. Then nothing has changed.
  """
  variables = layer_paths.variables_by_path(model)
  reader, prefix = checkpoints.open_reader(path)
  keys = _keys_for(variables, reader, set(unused) & set(missing))
  report = LoadReport(
    loaded=sorted(variables.keys() & keys.keys()),
    unused=sorted(keys.keys() - variables.keys()),
    missing=sorted(variables.keys() - keys.keys()),
  )
  problems = [
    *_list("missing", _not_under(report.missing, missing)),
    *_list("unused", _not_under(report.unused, unused)),
    *_mismatches(reader, {n: (keys[n], variables[n]) for n in report.loaded}),
  ]
  if problems:
    expected = f"the weights of {model.name}"
    raise errors.InputError(expected, "; ".join(problems), prefix)
  with checkpoints.reading(prefix):
    values = {name: reader.get_tensor(keys[name]) for name in report.loaded}
    if reader.has_tensor(_GRAPH):  # The end of the file: is it whole?
      reader.get_tensor(_GRAPH)
  for name, value in values.items():
    variables[name].assign(value)
  return report


def _keys_for(variables, reader, optional):
  """Returns a dict of path to key, without optional ones that do not fit."""
  shapes = reader.get_variable_to_shape_map()
  keys = _model_keys(shapes)
  apart = {
    name
    for name in variables.keys() & keys.keys()
    if shapes[keys[name]] != list(variables[name].shape)
  }
  left_out = apart - set(_not_under(apart, optional))
  return {name: key for name, key in keys.items() if name not in left_out}


def _mismatches(reader, loaded):
  """Returns how what is stored differs; `loaded`: path to (key, variable)."""
  shapes = reader.get_variable_to_shape_map()
  dtypes = reader.get_variable_to_dtype_map()
  of_shape = [
    f"{name} {shapes[key]} in place of {list(variable.shape)}"
    for name, (key, variable) in loaded.items()
    if shapes[key] != list(variable.shape)
  ]
  of_type = [
    f"{name} {dtypes[key].name} in place of {variable.dtype}"
    for name, (key, variable) in loaded.items()
    if not dtypes[key].is_floating
  ]
  return _list("of another shape", of_shape) + _list("of another type", of_type)


def save_weights(model, path):
  """Writes the weights of a built model as a TensorFlow checkpoint.

  `path`.index is written last, so that one that exists is whole. Missing
  folders are made. Returns `path`.
  """
  return checkpoints.write(path, **trackables(model))


def trackables(model):
  """Returns the variables of a built model as `tf.train.Checkpoint` takes them.

  `tf.train.Checkpoint(model=trackables(model), optimizer=...)` has the keys of
  a training run of the original. Layers themselves would not do: Checkpoint
  drops without a word those that a Python list holds. With a Keras backend
  other than TensorFlow the variables are copies.
  """
  tree = {}
  for path, variable in layer_paths.variables_by_path(model).items():
    *parents, leaf = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    if keras.backend.backend() == "tensorflow":
      node[leaf] = variable.value
    else:
      node[leaf] = tf.Variable(keras.ops.convert_to_numpy(variable))
  return tree


def describe(path):
  """Returns (key, shape, dtype) of what a checkpoint holds, by key.

  Raises:
    FileNotFoundError: If there is no checkpoint.
    InputError: If it cannot be read.
  """
  reader, _ = checkpoints.open_reader(path)
  dtypes = reader.get_variable_to_dtype_map()
  return [
    (key, tuple(shape), dtypes[key].name)
    for key, shape in sorted(reader.get_variable_to_shape_map().items())
    if key != _GRAPH
  ]


def _model_keys(keys):
  """Returns a dict of path in the model to key."""
  paths = {k.removesuffix(_SUFFIX): k for k in keys if k.endswith(_SUFFIX)}
  if any(path.startswith("model/") for path in paths):
    return {
      path.removeprefix("model/"): key
      for path, key in paths.items()
      if path.split("/")[0] not in _OF_THE_RUN and ".OPTIMIZER_SLOT" not in path
    }
  return {p: key for p, key in paths.items() if p != "save_counter"}


def _not_under(paths, beginnings):
  folders = tuple(f"{beginning}/" for beginning in beginnings)
  return [path for path in paths if not f"{path}/".startswith(folders)]


def _list(title, items):
  return [f"{title}: {layer_paths.listed(items)}"] if items else []
