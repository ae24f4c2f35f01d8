"""Settings inside of single-file networks (.onnx, .tflite).

An ONNX file has them in its metadata, under the key `delf`. A TFLite file has
them as `delf.json` in a ZIP archive at its end, the place of TFLite's metadata,
which runtimes ignore.
"""

import contextlib
import dataclasses
import json
import math
import mmap
import os
import pathlib
import zipfile

from delf.base import errors, files
from delf.formats import wire

ONNX, TFLITE = ".onnx", ".tflite"

# Forms of exported models.
LOCAL, GLOBAL, JOINT = "local", "global", "local_and_global"
FORMS = (LOCAL, GLOBAL, JOINT)

# Names of a network's tensors.
IMAGES = "images"
ATTENTION, FEATURES, DESCRIPTOR = "attention", "features", "descriptor"
OFFSETS = "offsets"
_OUTPUTS = {
  LOCAL: (ATTENTION, FEATURES),
  GLOBAL: (DESCRIPTOR,),
  JOINT: (ATTENTION, DESCRIPTOR, FEATURES),
}

POOLINGS = ("None", "average", "sum")

KEY = "delf"
MEMBER = "delf.json"
# Bytes; a configuration has some hundreds.
_MOST_SETTINGS = 2**20

# Field numbers of ONNX's `ModelProto` and of its key-value pairs
# (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
_METADATA, _KEY_FIELD, _VALUE_FIELD = 14, 1, 2
_MAX_FIELD = 25
# Wire types of versions, which precede the metadata, and of messages.
_VARINT, _DELIMITED = 0, 2


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a network."""

  form: str  # One of FORMS; determines the outputs of the network.
  # Size, stride, padding of receptive fields in pixels; None if not local.
  receptive: tuple[float, float, float] | None = None
  # IoU of two receptive boxes over which the weaker feature is dropped.
  iou: float = 1.0
  # Fixed image scales, or None if they are an input of the network.
  input_scales: tuple[float, ...] | None = None
  pool_type: str = "None"  # Pooling of global descriptors over the scales.
  normalize: bool = False  # Whether pooled descriptors get norm 1.
  local_size: int | None = None  # Dimension of local features, if any.
  global_size: int | None = None  # Dimension of the global descriptor, if any.
  has_offsets: bool = False  # Whether features have offsets in their cells.
  precision: str = "float32"  # Type of the stored weights.
  config: str = ""  # Text of the default DelfConfig, or "".

  @property
  def outputs(self) -> tuple[str, ...]:
    """Names of the network's outputs."""
    names = _OUTPUTS[self.form]
    return (*names, OFFSETS) if self.has_offsets else names

  def text(self) -> str:
    """Return the settings as JSON."""
    return json.dumps(dataclasses.asdict(self))


def is_network(path: files.Path) -> bool:
  """Return whether a path has the extension of a single-file network."""
  return pathlib.Path(path).suffix.lower() in (ONNX, TFLITE)


def parse(text: str | bytes, path: files.Path | None = None) -> Settings:
  """Parse the JSON of `Settings.text`; raise InputError if it is invalid."""
  try:
    values = json.loads(text)
    known = {field.name for field in dataclasses.fields(Settings)}
    # A later version may have more fields.
    return _checked(Settings(**{k: v for k, v in values.items() if k in known}))
  except (ValueError, TypeError, AttributeError, RecursionError):
    problem = "the settings are not those of a network exported by delf"
    raise errors.InputError(problem, path=path) from None


def _checked(settings):
  """Return settings with tuples for lists; raise ValueError if invalid."""
  receptive, scales = settings.receptive, settings.input_scales
  if settings.form != GLOBAL:
    size, stride, padding = map(float, receptive)
    receptive = (size, stride, padding)
  if scales is not None:
    scales = tuple(map(float, scales))
  numbers = [*(receptive or ()), *(scales or ()), float(settings.iou)]
  if not (
    settings.form in FORMS
    and settings.pool_type in POOLINGS
    and all(map(math.isfinite, numbers))
    and (scales is None or (scales and min(scales) > 0))
    and isinstance(settings.local_size, int | None)
    and isinstance(settings.global_size, int | None)
    and isinstance(settings.config, str)
    and isinstance(settings.precision, str)
  ):
    raise ValueError
  return dataclasses.replace(
    settings,
    receptive=receptive,
    input_scales=scales,
    iou=float(settings.iou),
    normalize=bool(settings.normalize),
    has_offsets=bool(settings.has_offsets) and settings.form != GLOBAL,
  )


def read_settings(path: files.Path) -> Settings:
  """Read only the settings of a `.onnx` or `.tflite` file of delf."""
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(f"{path}: no such file")
  if not path.is_file():
    raise errors.InputError("a folder, not a file", path=path)
  is_onnx = path.suffix.lower() == ONNX
  text = _onnx_text(path) if is_onnx else _tflite_text(path)
  if text is None:
    kind = "an ONNX" if is_onnx else "a TFLite"
    raise errors.InputError(f"not {kind} file of `delf export`", path=path)
  return parse(text, path)


def add_tflite_settings(path: files.Path, settings: Settings) -> None:
  """Add settings to a TFLite file without any."""
  with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
    archive.writestr(zipfile.ZipInfo(MEMBER), settings.text())


def _tflite_text(path):
  try:
    with zipfile.ZipFile(path) as archive:
      info = archive.getinfo(MEMBER)
      is_small = info.file_size <= _MOST_SETTINGS
      return archive.read(info) if is_small else None
  except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError):
    return None


def _onnx_text(path):
  if not os.path.getsize(path):
    return None
  with (
    open(path, "rb") as file,
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    contextlib.suppress(ValueError),
  ):
    return _onnx_metadata(data)
  return None


def _onnx_metadata(data):
  """Return the value of KEY in a serialised ModelProto, or None."""
  position = 0
  while position < len(data):
    key, position = wire.read_varint(data, position)
    number, kind = key >> 3, key & 7
    if not 0 < number <= _MAX_FIELD or kind not in (_VARINT, _DELIMITED):
      raise ValueError
    length, position = wire.read_varint(data, position)
    if kind == _VARINT:
      continue
    end = position + length
    if end > len(data):
      raise ValueError
    if number == _METADATA and length <= _MOST_SETTINGS:
      pair = data[position:end]
      fields = {n: pair[a:b] for n, a, b in wire.delimited_fields(pair)}
      if fields.get(_KEY_FIELD) == KEY.encode():
        return fields.get(_VALUE_FIELD, b"")
    position = end
  return None
