"""Contents of files and models: `delf.info`."""

import os
import pathlib
from typing import Any

from delf.base import errors, files

_KNOWN = (
  "a .delf, .delg_local, .delg_global, .datum, .boxes, .vlad, .rvlad, .asmk,"
  " .rasmk, .asmk_star, .rasmk_star, .pbtxt, .onnx or .tflite file, an"
  " index, an image, a SavedModel or a TensorFlow checkpoint"
)

# Tensors by which models of the first generation are used.
_TENSOR_NAMES = (
  "input_image input_images input_scales input_abs_thres"
  " input_max_feature_num input_global_scales_ind boxes features scales scores"
  " global_descriptors global_descriptor detection_boxes detection_scores"
  " detection_classes"
)

_VLAD = "aggregated descriptor (VLAD)"
_DATUMS = {
  files.DELG_GLOBAL: "global descriptor",
  files.DATUM: "array",
  ".vlad": _VLAD,
  ".rvlad": _VLAD,
}


def info(path: str | os.PathLike) -> dict[str, Any]:
  """Return the content of a file or folder of this library, as plain values.

  It has `path`, `kind`, and by kind counts, shapes, and ranges as [smallest,
  largest], with units in the keys: of features, boxes, configurations, models,
  checkpoints, indexes and images.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is of an unknown kind, or cannot be read.

  Example:
    >>> import delf
    >>> _ = delf.sample_photos("sample_photos")
    >>> delf.info("sample_photos/coffee.jpg")["width_pixels"]
    600
  """
  path = pathlib.Path(path)
  return {"path": os.fspath(path)} | _reader(path)(path)


def _reader(path):
  """Return the function that describes a path."""
  from delf.formats import array_file, network_files

  if path.is_dir():
    if (path / "saved_model.pb").exists():
      return _saved_model
    if (path / "checkpoint").exists():
      return _checkpoint
    raise errors.InputError(f"the folder is not {_KNOWN}", path=path)
  if path.name == "saved_model.pb":
    return lambda file: _saved_model(file.parent)
  # By content, as an index may have any name.
  if array_file.is_index(path):
    return _index
  if path.suffix == ".index" or pathlib.Path(f"{path}.index").exists():
    return _checkpoint
  readers = {
    **dict.fromkeys(files.IMAGES, _image),
    **dict.fromkeys((files.DELF, files.DELG_LOCAL), _local),
    **dict.fromkeys(_DATUMS, _datum),
    **dict.fromkeys((".asmk", ".rasmk", ".asmk_star", ".rasmk_star"), _asmk),
    **dict.fromkeys((network_files.ONNX, network_files.TFLITE), _network),
    files.BOXES: _boxes,
    ".pbtxt": _config,
  }
  if not path.exists():
    raise FileNotFoundError(f"{path}: no such file")
  if path.suffix.lower() not in readers:
    ending = path.suffix or "no extension"
    raise errors.InputError(f"{ending} is not known: name {_KNOWN}", path=path)
  return readers[path.suffix.lower()]


def _local(path):
  import numpy as np

  from delf.python import feature_io

  read = feature_io.ReadFromFile(path)
  locations, scales, descriptors, attention, orientations = read
  return {
    "kind": "local features",
    "bytes": path.stat().st_size,
    "features": len(locations),
    "dimensions": int(descriptors.shape[1]),
    "y_pixels": _range(locations[:, 0]),
    "x_pixels": _range(locations[:, 1]),
    "scale": _range(scales),
    "strength": _range(attention),
    "orientation_radians": _range(orientations),
    "descriptor_norm": _range(np.linalg.norm(descriptors, axis=1)),
    "finite": bool(np.isfinite(descriptors).all()),
  }


def _datum(path):
  import numpy as np

  from delf.python import datum_io

  array = datum_io.ReadFromFile(path)
  kind = _DATUMS[path.suffix.lower()]
  document = {"kind": kind, "bytes": path.stat().st_size} | _array(array)
  if array.ndim == 1:
    document["norm"] = round(float(np.linalg.norm(array)), 6)
  return document


def _asmk(path):
  from delf.python import datum_io

  descriptors, words = datum_io.ReadPairFromFile(path)
  return {
    "kind": "aggregated descriptors of visual words (ASMK)",
    "bytes": path.stat().st_size,
    "visual_words": len(words),
    "word": _range(words),
    "packed_bits": "star" in path.suffix,
    "descriptors": _array(descriptors),
  }


def _boxes(path):
  import numpy as np

  from delf.python import box_io

  boxes, scores, classes = box_io.ReadFromFile(path)
  edges = np.reshape(boxes, [-1, 4])
  return {
    "kind": "boxes, in [0, 1] of the image",
    "bytes": path.stat().st_size,
    "boxes": len(boxes),
    "score": _range(scores),
    "classes": sorted({int(c) for c in classes}),
    "y": _range(edges[:, [0, 2]]),
    "x": _range(edges[:, [1, 3]]),
  }


def _config(path):
  from delf.formats import configs

  text = files.read_bytes(path).decode("utf-8", "replace")
  config: Any
  if "codebook_size" in text or "aggregation_type" in text:
    config = configs.read_aggregation_config(path)
    kind = "configuration of aggregation"
  else:
    config = configs.read_delf_config(path)
    kind = "configuration of extraction"
  return {"kind": kind, "settings": _plain(config)}


def _plain(value):
  """Return a proto's value for JSON, with floats as short as possible."""
  if hasattr(value, "ListFields"):
    return {field.name: _plain(part) for field, part in value.ListFields()}
  if isinstance(value, float):
    return float(f"{value:.8g}")
  if isinstance(value, (str, bool, int)):
    return value
  return list(map(_plain, value))


def _network(path):
  import dataclasses

  from delf.formats import network_files

  settings = dataclasses.asdict(network_files.read_settings(path))
  has_configuration = bool(settings.pop("config"))
  document = {
    "kind": f"network ({path.suffix[1:]})",
    "bytes": path.stat().st_size,
  }
  for name, value in settings.items():
    if value is not None:
      document[name] = list(value) if isinstance(value, tuple) else value
  return document | {"has_configuration": has_configuration}


def _image(path):
  import numpy as np
  import PIL.Image

  from delf.python import utils

  # The whole image, since a header may be followed by damaged data.
  array = np.asarray(utils.RgbLoader(os.fspath(path)))
  with PIL.Image.open(path) as image:
    return {
      "kind": "image",
      "bytes": path.stat().st_size,
      "format": image.format,
      "mode": image.mode,
      "height_pixels": int(array.shape[0]),
      "width_pixels": int(array.shape[1]),
      "frames": getattr(image, "n_frames", 1),
      "exif_orientation": image.getexif().get(0x0112, 1),
      "rgb_mean": [round(float(m), 2) for m in array.mean(axis=(0, 1))],
    }


def _array(array):
  import numpy as np

  return {
    "shape": list(array.shape),
    "dtype": str(array.dtype),
    "value": _range(array),
    "finite": bool(np.isfinite(array).all()),
  }


def _range(values):
  """[smallest, largest] of the finite values, or [] without any."""
  import numpy as np

  values = np.asarray(values, dtype=np.float64)
  values = values[np.isfinite(values)]
  limits = (values.min(), values.max()) if values.size else ()
  return [float(f"{limit:.6g}") for limit in limits]


def _index(path):
  """Content of an index by its header and names, quick however large it is.

  Of the checksums only that of the header is compared.
  """
  import numpy as np

  from delf.formats import array_file

  about = array_file.describe(path)
  header, arrays = array_file.read(path, about["kind"])
  names = array_file.decode_names(arrays, path)
  document = {
    "kind": about["kind"],
    "bytes": about["bytes"],
    "format": about["version"],
    "images": len(names),
  }
  if names:
    document |= {"first": names[0], "last": names[-1]}
  if np.size(arrays.get("word_counts", [])):
    counts = arrays["word_counts"]
    document["words_of_an_image"] = [float(counts.min()), float(counts.max())]
  document["settings"] = header
  document["arrays"] = {
    name: f"{array.dtype} {list(array.shape)}" for name, array in arrays.items()
  }
  return document


def _saved_model(path):
  """Content of a SavedModel by its graph alone; no weights are loaded."""
  from google.protobuf import message
  from tensorflow.core.protobuf import saved_model_pb2

  model = saved_model_pb2.SavedModel()
  try:
    model.ParseFromString(files.read_bytes(path / "saved_model.pb"))
    graph = model.meta_graphs[0]
  except (message.DecodeError, IndexError):
    raise errors.InputError(
      "not a SavedModel, or a damaged one", path=path / "saved_model.pb"
    ) from None
  nodes = {node.name for node in graph.graph_def.node}
  document = {
    "kind": "SavedModel",
    "bytes": sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
    "tensorflow_version": graph.meta_info_def.tensorflow_version,
    "signatures": {
      name: {
        "inputs": {k: _tensor(v) for k, v in sorted(s.inputs.items())},
        "outputs": {k: _tensor(v) for k, v in sorted(s.outputs.items())},
      }
      for name, s in sorted(graph.signature_def.items())
      if not name.startswith("__")
    },
    "tensors": [f"{name}:0" for name in _TENSOR_NAMES.split() if name in nodes],
  }
  if (path / "variables" / "variables.index").exists():
    weights = _checkpoint(path / "variables" / "variables")
    document |= {name: weights[name] for name in ("variables", "parameters")}
  return document


def _tensor(info):
  from tensorflow.core.framework import types_pb2

  dtype = types_pb2.DataType.Name(info.dtype).removeprefix("DT_").lower()
  if info.tensor_shape.unknown_rank:
    return f"{dtype} of any shape"
  return f"{dtype} {[d.size for d in info.tensor_shape.dim]}".replace("-1", "?")


def _checkpoint(path):
  """Content of a checkpoint: its prefix, its `.index` file, or its folder."""
  import numpy as np
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
      "this TensorFlow checkpoint cannot be read", path=path
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
