"""Weights of models as TensorFlow checkpoints with the original's keys.

A key is the path of a variable (see `layer_tree`) and a suffix:
`backbone/l2a/conv2a/kernel/.ATTRIBUTES/VARIABLE_VALUE`.
"""

import dataclasses
import os
import pathlib
import tempfile

import keras
import tensorflow as tf

from delf.python import errors, files
from delf.python.training.model import layer_tree

# Paths that training alone needs; `load_weights(..., unused=TRAINING_ONLY)` is
# how a model without classifiers reads a checkpoint that has them.
TRAINING_ONLY = (
  "desc_classification",
  "attn_classification",
  "cosine_weights",
  "scale_factor",
)

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

# Keys of a checkpoint of a training run that are not of its model.
_OF_THE_RUN = ("optimizer", "save_counter", "global_step", "epoch", "step")

# What TensorFlow raises for files that are cut, damaged, or of another kind.
_READ_ERRORS = (tf.errors.OpError, IndexError, RuntimeError, ValueError)


@dataclasses.dataclass(frozen=True)
class LoadReport:
  """What `load_weights` did, as sorted lists of paths of variables."""

  loaded: list
  unused: list
  missing: list


def load_weights(model, path, *, unused=(), missing=()):
  """Gives a model the weights of a checkpoint, all of them or none.

  Args:
    model: Model whose variables exist.
    path: Prefix of a TensorFlow checkpoint (`delf_weights`), or a folder with a
      `checkpoint` file, whose newest one is read. Written by `save_weights`, by
      `save_weights` of Keras 2, or by a training run (`model/...` besides the
      optimiser's variables).
    unused: Paths, or beginnings of paths, that the checkpoint may hold though
      the model has no such variable.
    missing: Paths, or beginnings of paths, that the model may have though the
      checkpoint lacks them; they keep their values.

  Returns:
    LoadReport.

  Raises:
    FileNotFoundError: If there is no checkpoint.
    InputError: If it cannot be read, or if what it holds is not what the model
      has: it lists what is missing, unused, or of another shape. Then nothing
      has changed.
  """
  variables = layer_tree.variables_by_path(model)
  reader, prefix = _open(path)
  keys = _model_keys(reader.get_variable_to_shape_map())
  report = LoadReport(
    loaded=sorted(variables.keys() & keys.keys()),
    unused=sorted(keys.keys() - variables.keys()),
    missing=sorted(variables.keys() - keys.keys()),
  )
  shapes = reader.get_variable_to_shape_map()
  problems = [
    *_list("missing", _not_under(report.missing, missing)),
    *_list("unused", _not_under(report.unused, unused)),
    *_list(
      "of another shape",
      [
        f"{name} {shapes[keys[name]]} in place of {list(variables[name].shape)}"
        for name in report.loaded
        if shapes[keys[name]] != list(variables[name].shape)
      ],
    ),
  ]
  if problems:
    raise errors.InputError(
      f"the weights of {model.name}", "; ".join(problems), prefix
    )
  values = {name: _tensor(reader, keys[name], prefix) for name in report.loaded}
  if _GRAPH in shapes:  # The end of the file: is it whole?
    _tensor(reader, _GRAPH, prefix)
  for name, value in values.items():
    variables[name].assign(value)
  return report


def save_weights(model, path):
  """Writes the weights of a model as a TensorFlow checkpoint.

  Args:
    model: Model whose variables exist.
    path: Prefix of the checkpoint. `path`.index is written last, so that one
      that exists is whole. Missing folders are made.

  Returns:
    str, `path`.
  """
  path = os.fspath(path)
  checkpoint = tf.train.Checkpoint(**trackables(model))
  if files.is_remote(path):
    checkpoint.write(path)
    return path
  folder = pathlib.Path(path).parent
  folder.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder, prefix=".weights.") as temporary:
    checkpoint.write(os.path.join(temporary, pathlib.Path(path).name))
    for file in sorted(pathlib.Path(temporary).glob("*")):
      # "...data-00000-of-00001" sorts before "...index".
      os.replace(file, folder / file.name)
  return path


def trackables(model):
  """Returns the variables of a model as `tf.train.Checkpoint` takes them.

  `tf.train.Checkpoint(model=trackables(model), optimizer=...)` has the keys of
  a training run of the original. Layers themselves would not do: Checkpoint
  drops without a word those that a Python list holds.

  Args:
    model: Model whose variables exist.

  Returns:
    dict of attribute to such a dict or to a tf.Variable. With a Keras backend
    other than TensorFlow the variables are copies.
  """
  tree = {}
  for path, variable in layer_tree.variables_by_path(model).items():
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
  """Returns what a checkpoint holds.

  Args:
    path: As for `load_weights`.

  Returns:
    list of (str key, tuple shape, str dtype), by key. The graph of objects that
    TensorFlow stores besides is left out.

  Raises:
    FileNotFoundError: If there is no checkpoint.
    InputError: If it cannot be read.
  """
  reader, _ = _open(path)
  dtypes = reader.get_variable_to_dtype_map()
  return [
    (key, tuple(shape), dtypes[key].name)
    for key, shape in sorted(reader.get_variable_to_shape_map().items())
    if key != _GRAPH
  ]


def _open(path):
  prefix = os.fspath(path).removesuffix(".index")
  if tf.io.gfile.isdir(prefix):
    newest = tf.train.latest_checkpoint(prefix)
    if newest is None:
      raise FileNotFoundError(f"{path}: expected a checkpoint, found none")
    prefix = newest
  if not tf.io.gfile.exists(f"{prefix}.index"):
    raise FileNotFoundError(f"{prefix}.index: expected a file, found none")
  try:
    return tf.train.load_checkpoint(prefix), prefix
  except _READ_ERRORS as error:
    raise _unreadable(prefix, error) from None


def _tensor(reader, key, prefix):
  try:
    return reader.get_tensor(key)
  except _READ_ERRORS as error:
    raise _unreadable(prefix, error) from None


def _unreadable(prefix, error):
  reason = str(error).splitlines()[0]
  return errors.InputError(
    "a whole TensorFlow checkpoint",
    f"one that cannot be read ({reason})",
    prefix,
  )


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
  return [
    path
    for path in paths
    if not any(path == b or path.startswith(f"{b}/") for b in beginnings)
  ]


def _list(title, items):
  return [f"{title}: {', '.join(items)}"] if items else []
