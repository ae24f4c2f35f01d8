"""`delf info`: what is in a file or a model."""

import dataclasses
import os
import pathlib

import numpy as np

from delf.base import errors, files
from delf.cli import output
from delf.formats import array_file, configs, network_files
from delf.python import box_io, datum_io, feature_io

_EXAMPLES = """\
examples:
  delf info features/image_1.delf         how many features, of what size
  delf info delf/embedded/delf-compact    signatures and tensors of a model
  delf info model/variables/variables     keys and shapes of a checkpoint
  delf info photos.index                  images and settings of an index
  delf info --json *.delg_global | jq .   for other programs
"""


def add_arguments(parser):
  """Adds the arguments of this command to an `argparse` parser."""
  parser.epilog = _EXAMPLES
  parser.add_argument(
    "files",
    nargs="+",
    metavar="FILE",
    help="feature, datum, box or aggregation file, .pbtxt configuration, "
    "index, image, SavedModel folder, or TensorFlow checkpoint",
  )
  parser.add_argument(
    "--json", action="store_true", help="print one JSON document: a list"
  )


def run(args):
  """Prints what each file holds; returns the exit status."""
  from delf.base import errors

  found, status = [], 0
  for path in args.files:
    try:
      found.append(describe_describe(path))
    except (errors.InputError, OSError) as error:
      output.error(error)
      status = 1
      continue
    if not args.json:
      _print(found[-1])
  if args.json:
    output.print_json(found)
  return status


def _print(found):
  found = dict(found)
  print(f"{found.pop('path')}: {found.pop('kind')}")
  _print_fields(found, "  ")


def _print_fields(fields, indent):
  for name, value in fields.items():
    label = name.replace("_", " ") if indent == "  " else name
    if isinstance(value, dict):
      print(f"{indent}{label}")
      _print_fields(value, indent + "  ")
    elif isinstance(value, list) and len(value) == 2 and _is_range(value):
      print(f"{indent}{label}: {value[0]:g} to {value[1]:g}")
    else:
      print(f"{indent}{label}: {_text(value)}")


def _is_range(value):
  return all(isinstance(v, float) for v in value)


def _text(value):
  if isinstance(value, list):
    return ", ".join(_text(v) for v in value) if value else "none"
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, int):
    return f"{value:,}".replace(",", " ")
  if isinstance(value, float):
    return f"{value:g}"
  return str(value)


_AGGREGATED = (".vlad", ".rvlad")
_AGGREGATED_PAIRS = (".asmk", ".rasmk", ".asmk_star", ".rasmk_star")

_KNOWN = (
  "a .delf, .delg_local, .delg_global, .datum, .boxes, .vlad, .rvlad, .asmk,"
  " .rasmk, .asmk_star, .rasmk_star, .pbtxt, .onnx or .tflite file, an"
  " index, an image, a SavedModel or a TensorFlow checkpoint"
)


def describe_describe(path):
  """Returns what a file or folder holds.

  Args:
    path: Local path: feature, datum, box or aggregation file, configuration,
      index of images, image, folder of a SavedModel, or TensorFlow checkpoint
      (its prefix, its `.index` file, or its folder).

  Returns:
    dict for JSON: `path`, `kind` (words), and what that kind has: counts,
    shapes, ranges as [smallest, largest], with units in the keys.

  Raises:
    FileNotFoundError: If there is nothing at the path.
    InputError: If it is none of these, or cannot be read.
  """
  path = pathlib.Path(path)
  return {"path": os.fspath(path)} | _reader(path)(path)


def _reader(path):
  """Returns the function that reads what is at a path."""
  from delf.formats import array_file

  if path.is_dir():
    if (path / "saved_model.pb").exists():
      return saved_model
    if (path / "checkpoint").exists():
      return checkpoint
    raise errors.InputError(_KNOWN, "a folder that is neither", path)
  if path.name == "saved_model.pb":
    return lambda file: saved_model(file.parent)
  # By content, as an index may be called anything.
  if array_file.is_index(path):
    return index
  if path.suffix == ".index" or pathlib.Path(f"{path}.index").exists():
    return checkpoint
  readers = {
    files.DELF: _local,
    files.DELG_LOCAL: _local,
    files.DELG_GLOBAL: lambda file: _datum(file, "global descriptor"),
    files.DATUM: lambda file: _datum(file, "array"),
    files.BOXES: _boxes,
    ".pbtxt": _config,
    network_files.ONNX: _network,
    network_files.TFLITE: _network,
  }
  readers |= dict.fromkeys(files.IMAGES, _image)
  readers |= dict.fromkeys(_AGGREGATED, _vlad)
  readers |= dict.fromkeys(_AGGREGATED_PAIRS, _asmk)
  if not path.exists():
    raise FileNotFoundError(f"{path}: expected a file, found none")
  if path.suffix.lower() not in readers:
    raise errors.InputError(_KNOWN, f"{path.suffix or 'no extension'}", path)
  return readers[path.suffix.lower()]


def _local(path):
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


def _datum(path, kind):
  array = datum_io.ReadFromFile(path)
  found = {"kind": kind, "bytes": path.stat().st_size} | _array(array)
  if array.ndim == 1:
    found["norm"] = round(float(np.linalg.norm(array)), 6)
  return found


def _vlad(path):
  return _datum(path, "aggregated descriptor (VLAD)")


def _asmk(path):
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
  boxes, scores, classes = box_io.ReadFromFile(path)
  return {
    "kind": "boxes, in [0, 1] of the image",
    "bytes": path.stat().st_size,
    "boxes": len(boxes),
    "score": _range(scores),
    "classes": sorted({int(c) for c in classes}),
    "y": _range(np.reshape(boxes, [-1, 4])[:, [0, 2]]),
    "x": _range(np.reshape(boxes, [-1, 4])[:, [1, 3]]),
  }


def _config(path):
  text = files.read_bytes(path).decode("utf-8", "replace")
  if "codebook_size" in text or "aggregation_type" in text:
    config = configs.read_aggregation_config(path)
    kind = "configuration of aggregation"
  else:
    config = configs.read_delf_config(path)
    kind = "configuration of extraction"
  fields = {field.name: value for field, value in config.ListFields()}
  return {"kind": kind, "settings": {k: _plain(v) for k, v in fields.items()}}


def _network(path):
  settings = network_files.read_settings(path)
  found = {"kind": f"network ({path.suffix[1:]})", "bytes": path.stat().st_size}
  found |= dataclasses.asdict(settings)
  del found["config"]
  found = {k: v for k, v in found.items() if v is not None}
  for name in ("receptive", "input_scales"):
    if name in found:
      found[name] = list(found[name])
  return found | {"has_configuration": bool(settings.config)}


def _plain(value):
  """Returns a proto's value as JSON has it, floats as short as they were."""
  if hasattr(value, "ListFields"):
    return {f.name: _plain(v) for f, v in value.ListFields()}
  if isinstance(value, float):
    return float(f"{value:.8g}")
  if isinstance(value, (str, bool, int)):
    return value
  return [_plain(v) for v in value]


def _image(path):
  import PIL.Image

  from delf.python import utils

  # The whole image, since a header says little of what follows it.
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
  return {
    "shape": list(array.shape),
    "dtype": str(array.dtype),
    "value": _range(array),
    "finite": bool(np.isfinite(array).all()),
  }


def _range(values):
  """Returns [smallest, largest] of the finite values, or [] without any."""
  values = np.asarray(values, dtype=np.float64)
  values = values[np.isfinite(values)]
  if not values.size:
    return []
  return [float(f"{v:.6g}") for v in (values.min(), values.max())]


def index(path):
  """Returns what an index holds, from its header and names.

  What images have is not read, so that this is quick however large the file;
  nor are checksums compared, but for that of the header.

  Args:
    path: pathlib.Path of the file.

  Returns:
    dict: `kind`, `bytes`, `format`, `images` (number) and the `first` and
    `last` of them by name; for an inverted index `words_of_an_image`, [fewest,
    most]; `settings`; and `arrays` (name -> dtype and shape).

  Raises:
    InputError: If it is cut, changed, or of a newer version.
  """
  about = array_file.describe(path)
  header, arrays = array_file.read(path, about["kind"])
  names = array_file.decode_names(arrays, path)
  found = {
    "kind": about["kind"],
    "bytes": about["bytes"],
    "format": about["version"],
    "images": len(names),
  }
  if names:
    found |= {"first": names[0], "last": names[-1]}
  if np.size(arrays.get("word_counts", [])):
    counts = arrays["word_counts"]
    found["words_of_an_image"] = [float(counts.min()), float(counts.max())]
  found["settings"] = header
  found["arrays"] = {
    name: f"{array.dtype} {list(array.shape)}" for name, array in arrays.items()
  }
  return found


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
