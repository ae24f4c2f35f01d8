"""What is in a file or folder that the library reads or writes."""

import dataclasses
import os
import pathlib

import numpy as np

from delf.python import (
  box_io,
  config_io,
  datum_io,
  errors,
  feature_io,
  files,
  network_io,
)

_AGGREGATED = (".vlad", ".rvlad")
_AGGREGATED_PAIRS = (".asmk", ".rasmk", ".asmk_star", ".rasmk_star")

_KNOWN = (
  "a .delf, .delg_local, .delg_global, .datum, .boxes, .vlad, .rvlad, .asmk,"
  " .rasmk, .asmk_star, .rasmk_star, .pbtxt, .onnx or .tflite file, an"
  " index, an image, a SavedModel or a TensorFlow checkpoint"
)


def describe(path):
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
  from delf.python.pipelines import describe_index, describe_models
  from delf.python.retrieval import index_header

  if path.is_dir():
    if (path / "saved_model.pb").exists():
      return describe_models.saved_model
    if (path / "checkpoint").exists():
      return describe_models.checkpoint
    raise errors.InputError(_KNOWN, "a folder that is neither", path)
  if path.name == "saved_model.pb":
    return lambda file: describe_models.saved_model(file.parent)
  # By content, as an index may be called anything.
  if index_header.is_index(path):
    return describe_index.index
  if path.suffix == ".index" or pathlib.Path(f"{path}.index").exists():
    return describe_models.checkpoint
  readers = {
    files.DELF: _local,
    files.DELG_LOCAL: _local,
    files.DELG_GLOBAL: lambda file: _datum(file, "global descriptor"),
    files.DATUM: lambda file: _datum(file, "array"),
    files.BOXES: _boxes,
    ".pbtxt": _config,
    network_io.ONNX: _network,
    network_io.TFLITE: _network,
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
    config = config_io.read_aggregation_config(path)
    kind = "configuration of aggregation"
  else:
    config = config_io.read_delf_config(path)
    kind = "configuration of extraction"
  fields = {field.name: value for field, value in config.ListFields()}
  return {"kind": kind, "settings": {k: _plain(v) for k, v in fields.items()}}


def _network(path):
  settings = network_io.read_settings(path)
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
