"""Weights of models as TensorFlow checkpoints with the original's keys.

A key is the path of a variable (see `backbones`) and a suffix:
`backbone/l2a/conv2a/kernel/.ATTRIBUTES/VARIABLE_VALUE`.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from delf.base import errors, files
from delf.formats import checkpoints
from delf.networks import backbones

# Paths of weights used in training only; `load_weights(unused=TRAINING_ONLY)`
# reads a checkpoint with classifiers into a model without them.
TRAINING_ONLY = (
  "desc_classification",
  "attn_classification",
  "cosine_weights",
  "scale_factor",
)

# Keys in a training run's checkpoint that do not belong to its model.
_RUN_KEYS = ("optimizer", "save_counter", "global_step", "epoch", "step")


@dataclasses.dataclass(frozen=True)
class LoadReport:
  """Sorted paths of variables: loaded, only stored, only in the model."""

  loaded: list[str]
  unused: list[str]
  missing: list[str]


def load_weights(
  model: keras.Model,
  path: files.Path,
  *,
  unused: Iterable[str] = (),
  missing: Iterable[str] = (),
) -> LoadReport:
  """Load the weights of a checkpoint into a built model, all or none.

  Args:
    path: Checkpoint of `save_weights`, Keras 2 or a training run (`model/...`
      beside the optimiser); see `checkpoints.open_reader`.
    unused: Paths, or prefixes of paths, that only the checkpoint may have.
    missing: Paths, or prefixes of paths, that the checkpoint may lack; these
      variables keep their values. Paths also in `unused` may differ in shape.

  Raises:
    InputError: The checkpoint cannot be read, or variables are missing, unused,
      of another shape, or not of floating point; the message lists them.
  """
  variables = backbones.variables_by_path(model)
  reader, prefix = checkpoints.open_reader(path)
  shapes = reader.get_variable_to_shape_map()
  dtypes = reader.get_variable_to_dtype_map()
  keys = _model_keys(shapes)
  optional = set(unused) & set(missing)
  for name in variables.keys() & keys.keys():
    fits = shapes[keys[name]] == list(variables[name].shape)
    if not fits and _under(name, optional):
      del keys[name]
  report = LoadReport(
    loaded=sorted(variables.keys() & keys.keys()),
    unused=sorted(keys.keys() - variables.keys()),
    missing=sorted(variables.keys() - keys.keys()),
  )
  problems = {
    "missing": [p for p in report.missing if not _under(p, missing)],
    "unused": [p for p in report.unused if not _under(p, unused)],
    "of another shape": [
      f"{name} {shapes[keys[name]]}, not {expected}"
      for name in report.loaded
      if shapes[keys[name]] != (expected := list(variables[name].shape))
    ],
    "of another type": [
      f"{name} {dtype.name}, not {variables[name].dtype}"
      for name in report.loaded
      if not (dtype := dtypes[keys[name]]).is_floating
    ],
  }
  if any(problems.values()):
    details = "; ".join(
      f"{title}: {backbones.listed(items)}"
      for title, items in problems.items()
      if items
    )
    message = f"the weights do not match {model.name}: {details}"
    raise errors.InputError(message, path=prefix)
  with checkpoints.reading(prefix):
    values = {name: reader.get_tensor(keys[name]) for name in report.loaded}
    if reader.has_tensor(checkpoints.GRAPH):  # Last in the file: it is whole.
      reader.get_tensor(checkpoints.GRAPH)
  for name, value in values.items():
    variables[name].assign(value)
  return report


def _model_keys(keys):
  """Return a dict of path in the model to key."""
  suffix = checkpoints.SUFFIX
  paths = {k.removesuffix(suffix): k for k in keys if k.endswith(suffix)}
  if any(path.startswith("model/") for path in paths):
    return {
      path.removeprefix("model/"): key
      for path, key in paths.items()
      if path.split("/")[0] not in _RUN_KEYS and ".OPTIMIZER_SLOT" not in path
    }
  return {p: key for p, key in paths.items() if p != "save_counter"}


def _under(path, prefixes):
  return f"{path}/".startswith(tuple(f"{prefix}/" for prefix in prefixes))


def save_weights(model: keras.Model, path: files.Path) -> files.Path:
  """Write the weights of a built model as a TensorFlow checkpoint.

  `path`.index is written last, so that the checkpoint is whole if it exists.
  Missing folders are created. Returns `path`.
  """
  return checkpoints.write(path, **trackables(model))


def trackables(model: keras.Model) -> dict[str, Any]:
  """Return the variables of a built model for `tf.train.Checkpoint`.

  `tf.train.Checkpoint(model=trackables(model), optimizer=...)` has the keys of
  a training run of the original. With a Keras backend other than TensorFlow the
  variables are copies.
  """
  # Checkpoint silently drops layers in Python lists of a model.
  tree: dict[str, Any] = {}
  for path, variable in backbones.variables_by_path(model).items():
    *parents, leaf = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    is_native = keras.backend.backend() == "tensorflow"
    copy = keras.ops.convert_to_numpy
    node[leaf] = variable.value if is_native else tf.Variable(copy(variable))
  return tree


def describe(path: files.Path) -> list[tuple[str, tuple[int, ...], str]]:
  """Return (key, shape, dtype) of the variables in a checkpoint, by key."""
  reader, _ = checkpoints.open_reader(path)
  dtypes = reader.get_variable_to_dtype_map()
  return [
    (key, tuple(shape), dtypes[key].name)
    for key, shape in sorted(reader.get_variable_to_shape_map().items())
    if key != checkpoints.GRAPH
  ]
