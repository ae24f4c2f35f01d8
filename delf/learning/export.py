"""Export of a model as a SavedModel, ONNX or TFLite file, checked on photos.

ONNX and TFLite files are converted from a SavedModel, and compared with it.
"""

import dataclasses
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf import text_format

from delf.base import errors, files, progress
from delf.formats import configs, features, network_files
from delf.protos import delf_config_pb2
from delf.python import utils

SAVED_MODEL, ONNX, TFLITE = FORMATS = ("saved_model", "onnx", "tflite")
CONFIG = "config.pbtxt"

_SUFFIXES = {ONNX: network_files.ONNX, TFLITE: network_files.TFLITE}

# Modules that write and run a format, installed by the extra of its name.
_NEEDED = {
  ONNX: ("tf2onnx.convert", "onnxruntime"),
  TFLITE: ("ai_edge_litert.interpreter",),
}

# Names in the folder of a run of `training/train.py`.
_WEIGHTS, _RUN, _SETTINGS = "delf_weights", "delf_tf2-ckpt", "settings.json"
# Upper limit of the bytes of a run's settings, which take about 2000.
_MOST_SETTINGS = 2**20
# Default scales of extraction: those of DELG (Cao et al., arXiv:2001.05027),
# with all of its local ones.
_SCALES = (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)
_GLOBAL_SCALES = (3, 4, 5)
# Features of two models match if their locations differ by fewer pixels. With
# fewer bits, a keypoint may move inside its cell between equally good places.
_NEAR = 0.5
_NEAR_IN_FLOAT32 = 0.01
# Divisor where attention is 0 everywhere.
_TINY = float(np.finfo(np.float32).tiny)
# Pixels that a scale difference of 1 counts as: features of different scales do
# not match.
_SCALE_WEIGHT = 1000.0


@dataclasses.dataclass(frozen=True)
class ModelOptions:
  """Network of a checkpoint; None: as in the checkpoint."""

  backbone: str | None = None
  delg: bool | None = None
  use_autoencoder: bool | None = None  # Local features are its codes.
  # Not stored in checkpoints; None: as in the settings of the run, else True
  # (keep every second local feature in each direction) and 3.
  block3_strides: bool | None = None
  gem_power: float | None = None


@dataclasses.dataclass(frozen=True)
class ExportOptions:
  """Options of an export."""

  # "local", "global" or "local_and_global"; None: the form of a SavedModel, and
  # "local_and_global" for a checkpoint.
  form: str | None = None
  format: str | None = None  # One of FORMATS; None: by the output's suffix.
  # Overlap of two receptive boxes above which the weaker feature is dropped;
  # None: the tuned value for compact models, and no dropping for others.
  iou: float | None = None
  # For "global": scales to fix, pooling ("None", "average" or "sum") over them,
  # and L2 normalisation.
  input_scales: Sequence[float] | None = None
  pool_type: str = "None"
  normalize: bool = False
  precision: str = "float32"  # For TFLite: also "float16", "dynamic-range".
  config: str | None = None  # Path; None: beside the source, or a default.
  photos: Sequence[str] = ()  # To compare features on; () for the samples.
  overwrite: bool = False
  model: ModelOptions = ModelOptions()


@dataclasses.dataclass(frozen=True)
class Differences:
  """The largest differences between the features of two models."""

  photos: int = 0
  features: int = 0  # Local features of the reference, of all photos.
  common: float = 1.0  # Smallest share of a photo's local features in both.
  location: float = 0.0  # Of features in both, in pixels.
  attention: float = 0.0  # Of features in both, as a share of the largest.
  descriptor: float = 0.0  # Of components of descriptors, which have norm 1.
  global_descriptor: float = 0.0

  def joined(self, other: "Differences") -> "Differences":
    """Return the larger of each difference, and the sums of the counts."""
    return Differences(
      self.photos + other.photos,
      self.features + other.features,
      min(self.common, other.common),
      *(max(getattr(self, name), getattr(other, name)) for name in _COMPARED),
    )

  def over(self, limits: "Differences") -> str:
    """Describe the differences that exceed limits; "" if none does."""
    parts = []
    if not self.common >= limits.common:
      parts.append(f"{self.common:.1%} of the local features in common")
    for name in _COMPARED:
      value = getattr(self, name)
      if not value <= getattr(limits, name):
        parts.append(f"{name.replace('_', ' ')}s that differ by {value:.2g}")
    return ", ".join(parts)


_COMPARED = ("location", "attention", "descriptor", "global_descriptor")

# Limits by precision of the weights. In float32 only the order of sums differs;
# features of almost equal attention may swap at the end of the list. On photos,
# with the compact network and with ResNet-50 with and without an autoencoder:
# descriptors up to 1e-5, attention 1.1e-5, global descriptors 9e-8, locations
# 2.4e-4 px. The compact network in float16: 0.015, 0.036, 1e-4, and
# 99.4 % in common; dynamic-range: 0.024, 0.045, 1.3e-3, 82 %.
_LIMITS = {  # In common; location, attention, descriptor, global descriptor.
  "float32": Differences(0, 0, 0.99, _NEAR_IN_FLOAT32, 1e-4, 1e-4, 1e-5),
  "float16": Differences(0, 0, 0.95, _NEAR, 0.1, 0.05, 2e-3),
  "dynamic-range": Differences(0, 0, 0.5, _NEAR, 0.3, 0.2, 0.02),
}


@dataclasses.dataclass(frozen=True)
class ExportReport:
  """Result of an export."""

  path: str  # Absolute.
  format: str  # One of FORMATS.
  form: str  # "local", "global" or "local_and_global".
  model: str  # Description of the network; "" if the source is a SavedModel.
  bytes: int  # Size on disk.
  compared_with: str  # Description of the reference.
  differences: Differences


def export(
  source: str | os.PathLike,
  out: str | os.PathLike,
  options: ExportOptions | None = None,
) -> ExportReport:
  """Export a model, after comparing its features with those of the source.

  The source is the name of a known model, the path of a SavedModel of this
  library, or a source of `load`.

  Raises:
    FileNotFoundError: If the source is missing.
    InputError: If the source is invalid or does not fit the options, a package
      or photo is missing, `out` exists, or the features differ by more than
      rounding; nothing is written then.
  """
  options, form = _checked(out, options or ExportOptions())
  source = _find(source)
  _check_free(out, options)
  for module in _NEEDED.get(form, ()):
    errors.load(module, form)
  photos = options.photos
  for photo in photos:  # Find invalid photos before long work.
    utils.RgbLoader(os.fspath(photo))
  with tempfile.TemporaryDirectory(prefix="delf") as temporary:
    folder = pathlib.Path(temporary)
    if not photos:
      from delf.embedded import samples

      (folder / "samples").mkdir()
      photos = list(samples.sample_photos(folder / "samples"))
    if options.format == SAVED_MODEL:
      made = _export_saved_model(source, out, options, photos)
    else:
      network, description = _saved_model_of(source, options, folder / "model")
      made = _export_file(network, out, options, photos, description)
  return ExportReport(os.path.abspath(out), form, *made)


def _checked(out, options):
  """Return consistent options with the format filled in, and the format."""
  suffix = pathlib.Path(out).suffix.lower()
  named = {s: f for f, s in _SUFFIXES.items()}.get(suffix, SAVED_MODEL)
  if options.format is None:
    options = dataclasses.replace(options, format=named)
  if options.format != named:
    rule = _SUFFIXES.get(options.format, "neither .onnx nor .tflite")
    raise errors.InputError(
      f"the name of a {options.format} output must end in {rule}", path=out
    )
  if options.precision != "float32" and named != TFLITE:
    raise errors.InputError(
      f"{options.precision} weights need the format {TFLITE}, not {named}"
    )
  fixed = options.input_scales or options.pool_type != "None"
  if (fixed or options.normalize) and options.form != network_files.GLOBAL:
    raise errors.InputError(
      "fixed scales, pooling and normalization need the form global, not "
      f"{options.form or 'the default'}"
    )
  return options, named


def _find(source):
  """Return the path of a source, which may be the name of a known model."""
  path = pathlib.Path(source)
  if network_files.is_network(path) and path.is_file():
    raise errors.InputError(
      f"a {path.suffix.lower()} file cannot be exported again: give the "
      "checkpoint or SavedModel that it was exported from",
      path=source,
    )
  if path.exists() or pathlib.Path(f"{path}.index").exists():
    return path
  from delf.inference import zoo

  if zoo.find(source) is None:
    raise FileNotFoundError(f"{source}: no such checkpoint or SavedModel")
  return pathlib.Path(zoo.resolve(source))


def _check_free(out, options):
  """Raise InputError if the output exists."""
  if options.format == SAVED_MODEL:
    return  # `exporting.destination` checks folders.
  if os.path.lexists(out) and not (options.overwrite and os.path.isfile(out)):
    problem = "the file exists" if os.path.isfile(out) else "not a file"
    problem = f"{problem}: give a new file to export to"
    raise errors.InputError(problem, path=out)


def _export_saved_model(source, out, options, photos):
  """Return the last fields of ExportReport, from `form` on."""
  from delf.learning import compact_model
  from delf.networks import exporting

  if _is_saved_model(source) and not compact_model.weights_file(source):
    problem = "this is a SavedModel already: give a checkpoint"
    raise errors.InputError(problem, path=source)
  with exporting.destination(out, options.overwrite) as folder:
    folder = pathlib.Path(folder)
    model, description, form = _write_saved_model(source, folder, options)
    config = configuration(source, options, form)
    config.model_path = os.path.abspath(out)
    config.is_tf2_exported = True
    _write_text(folder / CONFIG, config)
    models = _keras_model(model, folder), folder
    differences = _compare_models(models, config, photos, "float32")
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
  return form, description, size, "the layers of the model", differences


def _is_saved_model(source):
  return (source / "saved_model.pb").is_file()


def _write_saved_model(source, folder, options):
  """Write a SavedModel; return the model, its description and the form."""
  from delf.learning import compact_model
  from delf.networks import exporting

  form = options.form or network_files.JOINT
  parts = ("local", "global") if form == network_files.JOINT else (form,)
  model, description = load(source, options.model, parts)
  iou = options.iou
  if iou is None:
    iou = compact_model.IOU if compact_model.weights_file(source) else 1.0
  settings: dict[str, Any] = {"iou": float(iou)}
  if form == network_files.GLOBAL:
    names = ("input_scales", "pool_type", "normalize")
    settings = {name: getattr(options, name) for name in names}
  exporting.export(model, folder, form, **settings)
  return model, description, form


def _saved_model_of(source, options, folder):
  """Return the folder of a SavedModel to convert, and its description."""
  # Checkpoints are exported first, and so are the training weights of a
  # SavedModel if options differ from its fixed settings.
  from delf.learning import compact_model
  from delf.networks import exporting

  has_weights = compact_model.weights_file(source) is not None
  fixed = {
    "iou": options.iou,
    "input_scales": options.input_scales,
    "pool_type": None if options.pool_type == "None" else options.pool_type,
    "normalize": options.normalize or None,
    **vars(options.model),
  }
  changed = [name for name, value in fixed.items() if value is not None]
  if _is_saved_model(source) and changed and not has_weights:
    problem = f"a SavedModel has its {', '.join(changed)} fixed"
    raise errors.InputError(f"{problem}: give a checkpoint", path=source)
  if _is_saved_model(source) and not changed:
    try:
      exporting.NetworkSource(source)
      return source, ""
    except errors.InputError:
      if not has_weights:
        raise
  _, description, form = _write_saved_model(source, folder, options)
  _write_text(folder / CONFIG, configuration(source, options, form))
  return folder, description


def _write_text(path, config):
  files.write_bytes(path, text_format.MessageToString(config).encode())


def _export_file(folder, out, options, photos, description):
  """Convert the SavedModel in a folder to a file."""
  from delf.networks import exporting

  network = exporting.NetworkSource(folder)
  form = network.settings.form
  if options.form not in (None, form):
    problem = f"the SavedModel has the form {form}, not {options.form}"
    raise errors.InputError(problem, path=folder)
  config = configuration(folder, options, form)
  config.model_path = os.path.basename(out)
  text, precision = text_format.MessageToString(config), options.precision
  _check_free(out, options)
  with files.atomic_path(out) as temporary:
    if options.format == ONNX:
      network.write_onnx(temporary, text)
    else:
      network.write_tflite(temporary, text, precision)
    models = folder, temporary
    differences = _compare_models(models, config, photos, precision)
    size = temporary.stat().st_size
  return form, description, size, "the SavedModel", differences


def configuration(
  source: pathlib.Path, options: ExportOptions, form: str
) -> delf_config_pb2.DelfConfig:
  """Return the configuration to store with a model of this form.

  It is based on that of the options, that beside the source, or a default.
  """
  beside = source / CONFIG
  if options.config is not None:
    config = configs.read_delf_config(options.config)
  elif beside.is_file():
    config = configs.read_delf_config(beside)
  else:
    config = delf_config_pb2.DelfConfig(
      model_path="model", image_scales=_SCALES, max_image_size=1024
    )
    config.delf_local_config.max_feature_num = 1000
    config.delf_local_config.use_pca = False
    config.delf_local_config.score_threshold = 0.0
    config.delf_global_config.use_pca = False
    config.delf_global_config.image_scales_ind.extend(_GLOBAL_SCALES)
  config.use_local_features = form != network_files.GLOBAL
  config.use_global_features = form != network_files.LOCAL
  if options.input_scales and not options.config:
    del config.image_scales[:]
    del config.delf_global_config.image_scales_ind[:]
  return config


def load(
  source: pathlib.Path, options: ModelOptions, parts: Sequence[str]
) -> tuple[Any, str]:
  """Create the parts "local" and "global" of a model, and load its weights.

  The source is the path of a TensorFlow checkpoint (its prefix, or the folder
  of a training run), or of `weights.npz` of a compact model or its folder.
  Returns a delf_model.Delf and its description; raises FileNotFoundError, or
  InputError if the source cannot be read or has another architecture.
  """
  from delf.learning import compact_model
  from delf.networks import exporting

  if compact_model.weights_file(source):
    if options.backbone not in (None, "compact"):
      problem = f"the weights of a compact model do not fit {options.backbone}"
      raise errors.InputError(problem, path=source)
    model = compact_model.create()
    compact_model.load(model, source)
    return model, "compact, with a global head"
  path = source
  if source.is_dir() and not (source / "checkpoint").exists():
    if (source / f"{_WEIGHTS}.index").exists():
      path = source / _WEIGHTS
    elif (source / _RUN / "checkpoint").exists():
      path = source / _RUN
  network = _of_checkpoint(path) | _of_run(path)
  network |= {k: v for k, v in vars(options).items() if v is not None}
  model = exporting.load_model(path, parts=parts, **network)
  return model, _describe(network)


def _of_checkpoint(path):
  """Read options of `exporting.load_model` from a checkpoint."""
  from delf.formats import checkpoints
  from delf.networks import model_checkpoints

  shapes = {
    key.removesuffix(checkpoints.SUFFIX).removeprefix("model/"): shape
    for key, shape, _ in model_checkpoints.describe(path)
  }
  backbone = "resnet50"
  if "backbone/conv1a/convolution/kernel" in shapes:
    backbone = "compact"
  elif any(name.startswith("backbone/l4w/") for name in shapes):
    backbone = "resnet101"
  codes = shapes.get("autoencoder/conv1/kernel")
  features = shapes.get("autoencoder/conv2/kernel")
  embedding = shapes.get("backbone/embedding_layer/kernel")
  network = {"backbone": backbone, "delg": embedding is not None}
  network["use_autoencoder"] = False
  if codes is not None and features is not None:
    network["use_autoencoder"] = True
    network["autoencoder_dimensions"] = codes[-1]
    network["local_feature_map_channels"] = features[-1]
  if embedding is not None:
    network["embedding_layer_dim"] = embedding[-1]
  return network


def _of_run(checkpoint):
  """Read further options from the settings beside a checkpoint."""
  network = {"block3_strides": True, "gem_power": 3.0}
  for folder in (*checkpoint.parents[:2], checkpoint):
    path = folder / _SETTINGS
    if not path.is_file():
      continue
    try:
      settings = json.loads(files.read_bytes(path, _MOST_SETTINGS))["network"]
      strides, power = (settings[name] for name in network)
      power = float(power)
    except (ValueError, TypeError, KeyError, RecursionError):
      continue  # Another kind of file.
    if isinstance(strides, bool) and 0 < power < math.inf:
      return {"block3_strides": strides, "gem_power": power}
  return network


def _describe(network):
  parts = [network["backbone"]]
  compact = network["backbone"] == "compact"
  if network["delg"] and not compact:
    parts.append(f"DELG (GeM {network['gem_power']:g}, embedding)")
  if network["use_autoencoder"]:
    codes = network.get("autoencoder_dimensions", 128)
    parts.append(f"codes of {codes} values")
  if not compact:
    kept = "every second" if network["block3_strides"] else "every"
    parts.append(f"{kept} local feature")
  return ", ".join(parts)


def _keras_model(model, folder):
  """Return a model that runs its layers, with an export's settings."""
  from delf.inference import single_file
  from delf.networks import exporting

  def run(images, names):
    outputs: dict[str, Any] = {}
    (
      outputs[network_files.DESCRIPTOR],
      outputs[network_files.ATTENTION],
      outputs[network_files.FEATURES],
    ) = model.build_call(images, training=False, intermediates_dict=outputs)
    return {name: outputs[name].numpy() for name in names}

  settings = exporting.NetworkSource(folder).settings
  return single_file.SingleFileModel(folder, settings, run)


def _compare_models(models, config, photos, precision):
  """Return the Differences of two models, each a path or loaded."""
  from delf.inference import extractor

  extractors = []
  for model in models:
    if isinstance(model, pathlib.Path):
      model = extractor.load(model, "cpu")
    extractors.append(extractor.Extractor(config, model))
  differences = Differences()
  near = _NEAR_IN_FLOAT32 if precision == "float32" else _NEAR
  for path in progress.track(photos, "comparing features"):
    photo = np.array(utils.RgbLoader(os.fspath(path)))
    one, other = (each.extract(photo) for each in extractors)
    differences = differences.joined(compare(one, other, near))
  over = differences.over(_LIMITS[precision])
  if over:
    raise errors.InputError(
      f"the export differs by more than rounding ({precision}): {over}"
    )
  return differences


def compare(
  reference: features.ImageFeatures,
  made: features.ImageFeatures,
  near: float = _NEAR,
) -> Differences:
  """Compare the features of one photo by two models.

  Features match if their locations differ by less than `near` pixels.
  """
  differences = Differences()
  if reference.local is not None:
    differences = _compare_local(reference.local, made.local, near)
  largest = 0.0
  if reference.global_descriptor is not None:
    largest = _largest(reference.global_descriptor, made.global_descriptor)
  return dataclasses.replace(differences, photos=1, global_descriptor=largest)


def _compare_local(one, other, near):
  from scipy import spatial

  numbers = len(one.locations), len(other.locations)
  if not min(numbers):
    return Differences(features=numbers[0], common=float(not max(numbers)))
  points = [
    np.concatenate([f.locations, f.scales[:, np.newaxis] * _SCALE_WEIGHT], 1)
    for f in (one, other)
  ]
  distances, nearest = spatial.cKDTree(points[1]).query(
    points[0], distance_upper_bound=near
  )
  first = np.flatnonzero(np.isfinite(distances))
  second = nearest[first]
  strongest = max(float(np.abs(one.attention).max()), _TINY)
  attention = _largest(one.attention[first], other.attention[second])
  return Differences(
    features=numbers[0],
    common=len(first) / max(numbers),
    location=_largest(one.locations[first], other.locations[second]),
    attention=attention / strongest,
    descriptor=_largest(one.descriptors[first], other.descriptors[second]),
  )


def _largest(one, other):
  return float(np.abs(one - other).max(initial=0))
