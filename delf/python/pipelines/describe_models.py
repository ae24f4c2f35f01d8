"""What is in a SavedModel or a TensorFlow checkpoint."""

import pathlib

import numpy as np

from delf.python import errors, files

# Tensors by which models of the first generation are used.
_TENSOR_NAMES = (
  "input_image",
  "input_images",
  "input_scales",
  "input_abs_thres",
  "input_max_feature_num",
  "input_global_scales_ind",
  "boxes",
  "features",
  "scales",
  "scores",
  "global_descriptors",
  "global_descriptor",
  "detection_boxes",
  "detection_scores",
  "detection_classes",
)


def saved_model(path):
  """Returns what a SavedModel has, from its graph alone: no weights are loaded.

  Args:
    path: pathlib.Path of the folder.

  Returns:
    dict: `kind`, `bytes`, `signatures` (name -> inputs and outputs -> dtype and
    shape), `tensors` (names that the library knows in a TF1 graph),
    `variables` (number) and `parameters` (number of values).

  Raises:
    InputError: If it cannot be read.
  """
  from google.protobuf import message
  from tensorflow.core.protobuf import saved_model_pb2

  model = saved_model_pb2.SavedModel()
  try:
    model.ParseFromString(files.read_bytes(path / "saved_model.pb"))
    graph = model.meta_graphs[0]
  except (message.DecodeError, IndexError):
    raise errors.InputError(
      "a SavedModel", "bytes that are none", path / "saved_model.pb"
    ) from None
  signatures = {
    name: {
      "inputs": {k: _tensor(v) for k, v in sorted(s.inputs.items())},
      "outputs": {k: _tensor(v) for k, v in sorted(s.outputs.items())},
    }
    for name, s in sorted(graph.signature_def.items())
    if not name.startswith("__")
  }
  nodes = {node.name for node in graph.graph_def.node}
  inside = [p for p in path.rglob("*") if p.is_file()]
  found = {
    "kind": "SavedModel",
    "bytes": sum(p.stat().st_size for p in inside),
    "tensorflow_version": graph.meta_info_def.tensorflow_version,
    "signatures": signatures,
    "tensors": [f"{name}:0" for name in _TENSOR_NAMES if name in nodes],
  }
  if (path / "variables" / "variables.index").exists():
    weights = checkpoint(path / "variables" / "variables")
    found["variables"] = weights["variables"]
    found["parameters"] = weights["parameters"]
  return found


def checkpoint(path):
  """Returns what a TensorFlow checkpoint holds.

  Args:
    path: pathlib.Path of its prefix, its `.index` file, or its folder.

  Returns:
    dict: `kind`, `variables` (number), `parameters` (number of values) and
    `keys` (key -> dtype and shape).

  Raises:
    InputError: If it cannot be read.
  """
  import tensorflow as tf

  prefix = str(path.with_suffix("")) if path.suffix == ".index" else str(path)
  if path.is_dir():
    prefix = tf.train.latest_checkpoint(path)
  try:
    reader = tf.train.load_checkpoint(prefix)
    shapes = reader.get_variable_to_shape_map()
    dtypes = reader.get_variable_to_dtype_map()
  except (tf.errors.OpError, ValueError, RuntimeError, TypeError):
    raise errors.InputError(
      "a TensorFlow checkpoint", "one that cannot be read", path
    ) from None
  keys = {
    key: f"{dtypes[key].name} {shapes[key]}"
    for key in sorted(shapes)
    if dtypes[key] != tf.string
  }
  return {
    "kind": "TensorFlow checkpoint",
    "newest": pathlib.Path(prefix).name,
    "variables": len(keys),
    "parameters": int(sum(np.prod(shapes[k], dtype=np.int64) for k in keys)),
    "keys": keys,
  }


def _tensor(info):
  from tensorflow.core.framework import types_pb2

  dtype = types_pb2.DataType.Name(info.dtype).removeprefix("DT_").lower()
  if info.tensor_shape.unknown_rank:
    return f"{dtype} of any shape"
  return f"{dtype} {[d.size for d in info.tensor_shape.dim]}".replace("-1", "?")
