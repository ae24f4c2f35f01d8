"""Exports of a model in a form and a format, checked on photos.

Files of other runtimes are made of a SavedModel, and compared with it.
"""

import dataclasses
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
from google.protobuf import text_format

from delf.base import errors, files, progress
from delf.formats import configs, network_files
from delf.protos import delf_config_pb2
from delf.python import utils

SAVED_MODEL, ONNX, TFLITE = FORMATS = ("saved_model", "onnx", "tflite")
CONFIG = "config.pbtxt"

_SUFFIXES = {ONNX: network_files.ONNX, TFLITE: network_files.TFLITE}

# Modules that write and run a format; the extra that brings them has its name.
_NEEDED = {
  ONNX: ("tf2onnx.convert", "onnxruntime"),
  TFLITE: ("ai_edge_litert.interpreter",),
}

# Names in the folder of a run of `training/train.py`.
_WEIGHTS, _RUN, _SETTINGS = "delf_weights", "delf_tf2-ckpt", "settings.json"

# The most bytes of the settings of a run, which take about 2000.
_MOST_SETTINGS = 2**20

# Scales of extraction where no configuration says them: those of DELG (Cao et
# al., arXiv:2001.05027), with all of its local ones.
_SCALES = (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)
_GLOBAL_SCALES = (3, 4, 5)

# Locations that are nearer than this, in pixels, are of one feature. Weights of
# fewer bits move a keypoint inside its cell where two places are as good.
_NEAR = 0.5
_NEAR_IN_FLOAT32 = 0.01

# Of attention that is 0 everywhere, shares are of this.
_TINY = float(np.finfo(np.float32).tiny)

# A difference of scales counts as so many pixels: other scales are no match.
_SCALE_WEIGHT = 1000.0


@dataclasses.dataclass(frozen=True)
class ModelOptions:
  """Network of a checkpoint; None: as in the checkpoint."""

  backbone: str | None = None
  delg: bool | None = None
  use_autoencoder: bool | None = None  # Local features are its codes.
  # No checkpoint says these; None: as in the settings of the run, else every
  # second local feature per direction (True), and 3.
  block3_strides: bool | None = None
  gem_power: float | None = None


@dataclasses.dataclass(frozen=True)
class ExportOptions:
  """Options of an export."""

  # "local", "global" or "local_and_global"; None: that of a SavedModel, of a
  # checkpoint the last.
  form: str | None = None
  format: str | None = None  # One of FORMATS; None: by the output's name.
  # Overlap of two receptive boxes over which the weaker feature goes; None
  # keeps all, and of a compact model's weights what it was tuned with.
  iou: float | None = None
  # For "global": scales to fix, pooling ("None", "average" or "sum") over them,
  # and L2 normalisation.
  input_scales: Sequence[float] | None = None
  pool_type: str = "None"
  normalize: bool = False
  precision: str = "float32"  # For TFLite: also "float16", "dynamic-range".
  config: str | None = None  # Path; None: beside the source, or of all scales.
  photos: Sequence[str] = ()  # To compare features of; () for the samples.
  overwrite: bool = False
  model: ModelOptions = ModelOptions()


@dataclasses.dataclass(frozen=True)
class Differences:
  """The largest differences between the features of two models."""

  photos: int = 0
  features: int = 0  # Local ones of the reference, of all photos.
  common: float = 1.0  # Least share of a photo's local features in both.
  location: float = 0.0  # Of features in both, in pixels.
  attention: float = 0.0  # Of features in both, as a share of the largest.
  descriptor: float = 0.0  # Of values of descriptors, which have norm 1.
  global_descriptor: float = 0.0

  def joined(self, other: "Differences") -> "Differences":
    """Return the larger of each difference, and the sums of the numbers."""
    return Differences(
      self.photos + other.photos,
      self.features + other.features,
      min(self.common, other.common),
      *(max(getattr(self, name), getattr(other, name)) for name in _COMPARED),
    )

  def over(self, limits: "Differences") -> str:
    """Describe what exceeds the limits; "" for nothing."""
    found = []
    if not self.common >= limits.common:
      found.append(f"{self.common:.1%} of the local features in common")
    for name in _COMPARED:
      value = getattr(self, name)
      if not value <= getattr(limits, name):
        found.append(f"{name.replace('_', ' ')}s that differ by {value:.2g}")
    return ", ".join(found)


_COMPARED = ("location", "attention", "descriptor", "global_descriptor")

# Limits by how weights are kept. In float32 it is the order of sums; features
# whose attention is equal up to that may change places at the end of the list.
# Measured on photos, with the compact network and with ResNet-50 with and
# without an autoencoder: descriptors up to 1e-5, attention 1.1e-5, global
# descriptors 9e-8, locations 2.4e-4 px. The compact one in float16: 0.015,
# 0.036, 1e-4, and 99.4 % in common; dynamic-range: 0.024, 0.045, 1.3e-3, 82 %.
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
  model: str  # Description of the network, "" where it came as a SavedModel.
  bytes: int  # Size on disk.
  compared_with: str  # Description of the reference.
  differences: Differences


def export(
  source: str | os.PathLike,
  out: str | os.PathLike,
  options: ExportOptions | None = None,
) -> ExportReport:
  """Export a model, compare it on photos, and keep it if it is right.

  The source is the name of a known model, or the path of a SavedModel of this
  library's exporters, or of what `load` takes.

  Raises:
    FileNotFoundError: If the source is missing.
    InputError: If the source is not right or does not fit the options, a
      package or photo is missing, `out` is taken, or the result differs by more
      than rounding; nothing is then written.
  """
  options = _checked(out, options or ExportOptions())
  source = _find(source)
  _check_free(out, options)
  for module in _NEEDED.get(options.format, ()):
    errors.load(module, options.format)
  photos = options.photos
  for path in photos:  # A bad one is an error before long work.
    utils.RgbLoader(os.fspath(path))
  with tempfile.TemporaryDirectory(prefix="delf") as folder:
    folder = pathlib.Path(folder)
    if not photos:
      from delf.embedded import samples

      (folder / "samples").mkdir()
      photos = list(samples.sample_photos(folder / "samples"))
    if options.format == SAVED_MODEL:
      made = _export_saved_model(source, out, options, photos)
    else:
      network, description = _saved_model_of(source, options, folder / "model")
      made = _export_file(network, out, options, photos, description)
  return ExportReport(os.path.abspath(out), options.format, *made)


def _checked(out, options):
  """Return options that fit each other, with the format filled in."""
  suffix = pathlib.Path(out).suffix.lower()
  named = {s: f for f, s in _SUFFIXES.items()}.get(suffix, SAVED_MODEL)
  if options.format is None:
    options = dataclasses.replace(options, format=named)
  if options.format != named:
    expected = _SUFFIXES.get(options.format, "no .onnx or .tflite")
    raise errors.InputError(
      f"an output with {expected} at its end for {options.format}",
      suffix or "one without",
      out,
    )
  if options.precision != "float32" and options.format != TFLITE:
    raise errors.InputError(
      f"the format {TFLITE} for {options.precision} weights", options.format
    )
  fixed = options.input_scales or options.pool_type != "None"
  if (fixed or options.normalize) and options.form != network_files.GLOBAL:
    raise errors.InputError(
      "the form global for fixed scales, pooling and normalisation",
      options.form or "none",
    )
  return options


def _find(source):
  """Return the path of a source, which may be the name of a known model."""
  path = pathlib.Path(source)
  if network_files.is_network(path) and path.is_file():
    raise errors.InputError(
      "what it was exported from: a checkpoint or a SavedModel",
      f"a {path.suffix.lower()} file, which is the end of the way",
      source,
    )
  if path.exists() or pathlib.Path(f"{path}.index").exists():
    return path
  from delf.inference import zoo

  if zoo.find(source) is None:
    raise FileNotFoundError(
      f"{source}: expected a checkpoint or a SavedModel, found none"
    )
  return pathlib.Path(zoo.resolve(source))


def _check_free(out, options):
  """Raise InputError if the place of a file is taken."""
  if options.format == SAVED_MODEL:
    return  # `exporting.destination` checks folders.
  if os.path.lexists(out) and not (options.overwrite and os.path.isfile(out)):
    received = "one that exists" if os.path.isfile(out) else "another thing"
    raise errors.InputError("a new file to export to", received, out)


def _export_saved_model(source, out, options, photos):
  """Return the fields of ExportReport after the format; so for a file."""
  from delf.learning import compact_model
  from delf.networks import exporting

  if _is_saved_model(source) and not compact_model.weights_file(source):
    raise errors.InputError(
      "a checkpoint to make a SavedModel of", "a SavedModel", source
    )
  with exporting.destination(out, options.overwrite) as folder:
    folder = pathlib.Path(folder)
    model, description, form = _write_saved_model(source, folder, options)
    config = configuration(source, options, form)
    config.model_path = os.path.abspath(out)
    config.is_tf2_exported = True
    files.write_bytes(folder / CONFIG, _text(config).encode())
    reference = _keras_model(model, folder)
    differences = _compare_models(
      reference, _load(folder), config, photos, "float32"
    )
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
  if form == network_files.LOCAL:
    exporting.export_local(model, folder, iou=iou)
  elif form == network_files.JOINT:
    exporting.export_local_and_global(model, folder, iou=iou)
  else:
    fixed = options.input_scales, options.pool_type, options.normalize
    exporting.export_global(model, folder, *fixed)
  return model, description, form


def _saved_model_of(source, options, folder):
  """Return the folder of a SavedModel to convert, and its description.

  It is made in `folder` of a checkpoint, and of the training weights of a
  SavedModel where the options set what the SavedModel has settled.
  """
  from delf.learning import compact_model
  from delf.networks import exporting

  has_weights = compact_model.weights_file(source) is not None
  given = {
    "iou": options.iou,
    "input_scales": options.input_scales,
    "pool_type": None if options.pool_type == "None" else options.pool_type,
    "normalize": options.normalize or None,
    **dataclasses.asdict(options.model),
  }
  given = [name for name, value in given.items() if value is not None]
  if _is_saved_model(source) and given and not has_weights:
    raise errors.InputError(
      f"a checkpoint to set {', '.join(given)} of", "a SavedModel", source
    )
  if _is_saved_model(source) and not given:
    try:
      exporting.NetworkSource(source)
      return source, ""
    except errors.InputError:
      if not has_weights:
        raise
  _, description, form = _write_saved_model(source, folder, options)
  config = configuration(source, options, form)
  files.write_bytes(folder / CONFIG, _text(config).encode())
  return folder, description


def _export_file(folder, out, options, photos, description):
  """Convert the SavedModel in a folder to a file."""
  from delf.networks import exporting

  network = exporting.NetworkSource(folder)
  form = network.settings.form
  if options.form not in (None, form):
    raise errors.InputError(
      f"a SavedModel of the form {options.form}", form, folder
    )
  config = configuration(folder, options, form)
  config.model_path = os.path.basename(out)
  _check_free(out, options)
  with files.atomic_path(out) as temporary:
    if options.format == ONNX:
      network.write_onnx(temporary, _text(config))
    else:
      network.write_tflite(temporary, _text(config), options.precision)
    differences = _compare_models(
      _load(folder), _load(temporary), config, photos, options.precision
    )
    size = temporary.stat().st_size
  return form, description, size, "the SavedModel", differences


def _load(path):
  from delf.inference import extractor

  return extractor.load(path, "cpu")


def _text(config):
  return text_format.MessageToString(config)


def configuration(
  source: pathlib.Path, options: ExportOptions, form: str
) -> delf_config_pb2.DelfConfig:
  """Return the configuration to keep with a model of this form.

  It is the one that the options name, the one beside the source, or a new one.
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


def load(source: pathlib.Path, options: ModelOptions, parts: Sequence[str]):
  """Create the parts "local" and "global" of a model with given weights.

  The source is the path of a TensorFlow checkpoint (its prefix, or the folder
  of a training run), or of `weights.npz` of a compact model or its folder.
  Returns a delf_model.Delf and a description of it.

  Raises:
    FileNotFoundError: If there is nothing of the kind.
    InputError: If it cannot be read, or is of another architecture.
  """
  from delf.learning import compact_model
  from delf.networks import exporting

  if compact_model.weights_file(source):
    if options.backbone not in (None, "compact"):
      raise errors.InputError(
        f"weights of {options.backbone}", "those of a compact model", source
      )
    model = compact_model.create()
    compact_model.load(model, source)
    return model, "compact, with a global head"
  path = source
  if source.is_dir() and not (source / "checkpoint").exists():
    if (source / f"{_WEIGHTS}.index").exists():
      path = source / _WEIGHTS
    elif (source / _RUN / "checkpoint").exists():
      path = source / _RUN
  given = dataclasses.asdict(options).items()
  network = _of_checkpoint(path) | _of_run(path)
  network |= {name: value for name, value in given if value is not None}
  model = exporting.load_model(path, parts=parts, **network)
  return model, _describe(network)


def _of_checkpoint(path):
  """Return the options of `exporting.load_model` that a checkpoint tells."""
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
  network["use_autoencoder"] = codes is not None and features is not None
  if network["use_autoencoder"]:
    network["autoencoder_dimensions"] = codes[-1]
    network["local_feature_map_channels"] = features[-1]
  if embedding is not None:
    network["embedding_layer_dim"] = embedding[-1]
  return network


def _of_run(checkpoint):
  """Return what the settings beside a checkpoint tell that it does not."""
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
      continue  # Something else of this name.
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
  """Return a model as its layers compute it, with an export's settings."""
  from delf.inference import single_file
  from delf.networks import exporting

  def run(images, names):
    outputs = {}
    (
      outputs[network_files.DESCRIPTOR],
      outputs[network_files.ATTENTION],
      outputs[network_files.FEATURES],
    ) = model.build_call(images, training=False, intermediates_dict=outputs)
    return {name: outputs[name].numpy() for name in names}

  settings = exporting.NetworkSource(folder).settings
  return single_file.SingleFileModel(folder, settings, run)


def _compare_models(reference, made, config, photos, precision):
  """Return the Differences of two models; InputError if over the limits."""
  from delf.inference import extractor

  extractors = [extractor.Extractor(config, each) for each in (reference, made)]
  differences = Differences()
  near = _NEAR_IN_FLOAT32 if precision == "float32" else _NEAR
  for path in progress.track(photos, "comparing features"):
    photo = np.array(utils.RgbLoader(os.fspath(path)))
    both = (each.extract(photo) for each in extractors)
    differences = differences.joined(compare(*both, near))
  over = differences.over(_LIMITS[precision])
  if over:
    raise errors.InputError(
      f"features that differ by no more than rounding ({precision})", over
    )
  return differences


def compare(reference, made, near: float = _NEAR) -> Differences:
  """Compare the features.ImageFeatures of one photo by two models.

  Two locations nearer than `near` pixels are of one feature.
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
  return Differences(
    features=numbers[0],
    common=len(first) / max(numbers),
    location=_largest(one.locations[first], other.locations[second]),
    attention=_largest(one.attention[first], other.attention[second])
    / strongest,
    descriptor=_largest(one.descriptors[first], other.descriptors[second]),
  )


def _largest(one, other):
  return float(np.abs(one - other).max(initial=0))
