"""Exports of a model in a form and a format, tried on photos before they stand.

Whatever the format, the model first becomes a SavedModel; files of other
runtimes are made of that one and compared with it.
"""

import contextlib
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

# Names in the folder of a run of `training/train.py`.
_WEIGHTS, _RUN, _SETTINGS = "delf_weights", "delf_tf2-ckpt", "settings.json"

# The most bytes of the settings of a run, which take about 2000.
_MOST_SETTINGS = 2**20


@dataclasses.dataclass(frozen=True)
class ModelOptions:
  """What a checkpoint is of, as far as it is not to be told from it.

  Attributes:
    backbone: Name of a backbone, or None to tell it from the checkpoint.
    delg: Whether it is a DELG model, or None to tell it.
    use_autoencoder: Whether local features are an autoencoder's codes, or None:
      if the checkpoint has one.
    block3_strides: Whether every second local feature is kept per direction,
      or None for what the settings of the run say, else True: no checkpoint
      says it.
    gem_power: Power of the GeM pooling, or None for what the settings of the
      run say, else 3.
  """

  backbone: str | None = None
  delg: bool | None = None
  use_autoencoder: bool | None = None
  block3_strides: bool | None = None
  gem_power: float | None = None


def find(source):
  """Returns the pathlib.Path of what is exported.

  Args:
    source: Path, or name of a known model.

  Raises:
    FileNotFoundError: If there is no such path or name.
    InputError: If it is an export that nothing can be made of.
  """
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
  return zoo.resolve(source)


def load(source, options, parts):
  """Makes a model with the weights of a source.

  Args:
    source: pathlib.Path of a TensorFlow checkpoint (its prefix, or the folder
      of a training run), or of `weights.npz` of a compact model or the folder
      that it lies in.
    options: ModelOptions.
    parts: "local", "global": what will be exported.

  Returns:
    delf_model.Delf, and words for what it is.

  Raises:
    FileNotFoundError: If there is nothing of the kind.
    InputError: If it cannot be read, or is of another architecture.
  """
  from delf.learning import compact_training

  if (
    source.name == compact_training.NAME
    or (source / compact_training.NAME).is_file()
  ):
    return _of_weights_file(source, options)
  from delf.networks import exporting

  path = _checkpoint(source)
  given = dataclasses.asdict(options)
  told = _told(path) | _of_run(path)
  told |= {name: value for name, value in given.items() if value is not None}
  model = exporting.load_model(path, parts=parts, **told)
  return model, _words(told)


def has_training_weights(folder):
  """Returns whether a folder has the weights that `load` makes a model of."""
  from delf.learning import compact_training

  return (pathlib.Path(folder) / compact_training.NAME).is_file()


def _of_weights_file(source, options):
  from delf.learning import compact_training
  from delf.python.training.model import delg_model

  if options.backbone not in (None, "compact"):
    raise errors.InputError(
      f"weights of {options.backbone}", "those of a compact model", source
    )
  model = delg_model.Delg(backbone="compact", block3_strides=False)
  compact_training.load(model, source)
  return model, "compact, with a global head"


def _checkpoint(source):
  """Returns the path of the checkpoint that is meant."""
  if source.is_dir() and not (source / "checkpoint").exists():
    if (source / f"{_WEIGHTS}.index").exists():
      return source / _WEIGHTS
    if (source / _RUN / "checkpoint").exists():
      return source / _RUN
  return source


def _told(path):
  """Returns the options of `exporting.load_model` that a checkpoint tells."""
  from delf.formats import checkpoints as formats_checkpoints
  from delf.networks import model_checkpoints

  shapes = {
    key.removesuffix(formats_checkpoints.SUFFIX).removeprefix("model/"): shape
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
  told = {
    "backbone": backbone,
    "delg": embedding is not None,
    "use_autoencoder": codes is not None and features is not None,
  }
  if told["use_autoencoder"]:
    told["autoencoder_dimensions"] = codes[-1]
    told["local_feature_map_channels"] = features[-1]
  if embedding is not None:
    told["embedding_layer_dim"] = embedding[-1]
  return told


def _of_run(checkpoint):
  """Returns what the settings beside a checkpoint say that it does not."""
  told = {"block3_strides": True, "gem_power": 3.0}
  for folder in (*checkpoint.parents[:2], checkpoint):
    path = folder / _SETTINGS
    if not path.is_file():
      continue
    try:
      network = json.loads(files.read_bytes(path, _MOST_SETTINGS))["network"]
      strides, power = (network[name] for name in told)
      power = float(power)
    except (ValueError, TypeError, KeyError, RecursionError):
      continue  # Something else of this name.
    if isinstance(strides, bool) and 0 < power < math.inf:
      return {"block3_strides": strides, "gem_power": power}
  return told


def _words(told):
  words = [told["backbone"]]
  if told["delg"] and told["backbone"] != "compact":
    words.append(f"DELG (GeM {told['gem_power']:g}, embedding)")
  if told["use_autoencoder"]:
    words.append(f"codes of {told.get('autoencoder_dimensions', 128)} values")
  if told["backbone"] != "compact":
    kept = "every second" if told["block3_strides"] else "every"
    words.append(f"{kept} local feature")
  return ", ".join(words)


SAVED_MODEL, ONNX, TFLITE = FORMATS = ("saved_model", "onnx", "tflite")
_SUFFIXES = {ONNX: network_files.ONNX, TFLITE: network_files.TFLITE}
CONFIG = "config.pbtxt"

# Scales of extraction where no configuration says them: those of DELG (Cao et
# al., arXiv:2001.05027), with all of its local ones.
_SCALES = (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)
_GLOBAL_SCALES = (3, 4, 5)


@dataclasses.dataclass(frozen=True)
class ExportOptions:
  """What is exported, and how.

  Attributes:
    form: "local", "global" or "local_and_global"; None: that of a SavedModel,
      of a checkpoint the last.
    format: One of FORMATS, or None for that of the output's name.
    iou: Overlap of two receptive boxes over which the weaker feature goes; None
      keeps all, and of a compact model's weights what it was tuned with.
    input_scales: For "global": scales to fix, or None.
    pool_type: For "global": "None", "average" or "sum" over the scales.
    normalize: For "global": whether the output is L2-normalised.
    precision: For TFLite: "float32", "float16" or "dynamic-range".
    config: Path of the configuration to keep with the model, or None: that
      beside the source, else one of all scales.
    photos: Paths of photos to try it on; empty for the sample photos.
    overwrite: Whether what is at the output is replaced.
    model: export_model.ModelOptions of a checkpoint.
  """

  form: str | None = None
  format: str | None = None
  iou: float | None = None
  input_scales: Sequence[float] | None = None
  pool_type: str = "None"
  normalize: bool = False
  precision: str = "float32"
  config: str | None = None
  photos: Sequence[str] = ()
  overwrite: bool = False
  model: ModelOptions = ModelOptions()


def checked(out, options):
  """Returns the options with the format filled in.

  Args:
    out: Path of the output.
    options: ExportOptions.

  Raises:
    InputError: If they do not fit each other.
  """
  suffix = pathlib.Path(out).suffix.lower()
  named = {s: f for f, s in _SUFFIXES.items()}.get(suffix, SAVED_MODEL)
  if options.format is None:
    options = dataclasses.replace(options, format=named)
  if options.format != named:
    wanted = _SUFFIXES.get(options.format, "no .onnx or .tflite")
    raise errors.InputError(
      f"an output with {wanted} at its end for {options.format}",
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


def check_place(out, options):
  """Raises InputError if the place of a file is taken.

  Args:
    out: Path of the output; of folders `export_folder.destination` says it.
    options: ExportOptions, checked.
  """
  if options.format == SAVED_MODEL:
    return
  if os.path.lexists(out) and not (options.overwrite and os.path.isfile(out)):
    received = "one that exists" if os.path.isfile(out) else "another thing"
    raise errors.InputError("a new file to export to", received, out)


def of_network(options):
  """Returns names of the options given that a SavedModel has settled already.

  Args:
    options: ExportOptions.
  """
  given = {
    "iou": options.iou,
    "input_scales": options.input_scales,
    "pool_type": None if options.pool_type == "None" else options.pool_type,
    "normalize": options.normalize or None,
    **dataclasses.asdict(options.model),
  }
  return [name for name, value in given.items() if value is not None]


def configuration(source, options, form):
  """Returns the DelfConfig to keep with a model.

  Args:
    source: pathlib.Path of what it is made of.
    options: ExportOptions.
    form: One of network_io.FORMS.

  Raises:
    InputError: If one that is there cannot be.
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


# Locations that are nearer than this, in pixels, are of one feature. Weights of
# fewer bits move a keypoint inside its cell where two places are as good.
_NEAR = 0.5
_NEAR_IN_FLOAT32 = 0.01

# Of attention that is 0 everywhere, shares are of this.
_TINY = float(np.finfo(np.float32).tiny)

# A difference of scales counts as so many pixels: other scales are no match.
_SCALE_WEIGHT = 1000.0


@dataclasses.dataclass(frozen=True)
class Differences:
  """The largest differences between the features of two models.

  Attributes:
    photos: Number of photos.
    features: Number of local features of the reference, of all photos.
    common: Least share of a photo's local features that both have.
    location: Of locations that both have, in pixels.
    attention: Of theirs, as a share of the photo's largest.
    descriptor: Of values of their descriptors, which have norm 1.
    global_descriptor: Of values of the global descriptors, which have norm 1.
  """

  photos: int = 0
  features: int = 0
  common: float = 1.0
  location: float = 0.0
  attention: float = 0.0
  descriptor: float = 0.0
  global_descriptor: float = 0.0

  def joined(self, other):
    """Returns those of both."""
    return Differences(
      self.photos + other.photos,
      self.features + other.features,
      min(self.common, other.common),
      *(
        max(getattr(self, name), getattr(other, name))
        for name in ("location", "attention", "descriptor", "global_descriptor")
      ),
    )

  def over(self, limits):
    """Returns words for what is over the limits, Differences; "" for none."""
    found = []
    if not self.common >= limits.common:
      found.append(f"{self.common:.1%} of the local features in common")
    for name in ("location", "attention", "descriptor", "global_descriptor"):
      value = getattr(self, name)
      if not value <= getattr(limits, name):
        found.append(f"{name.replace('_', ' ')}s that differ by {value:.2g}")
    return ", ".join(found)


def compare(reference, found, near=_NEAR):
  """Compares the features of one photo.

  Args:
    reference: features.ImageFeatures.
    found: features.ImageFeatures of another model.
    near: Pixels under which two locations are of one feature.

  Returns:
    Differences.
  """
  differences = Differences(photos=1)
  if reference.local is not None:
    differences = differences.joined(_compare_local(reference, found, near))
  if reference.global_descriptor is not None:
    differences = differences.joined(
      Differences(
        global_descriptor=_largest(
          reference.global_descriptor, found.global_descriptor
        )
      )
    )
  return differences


def _compare_local(reference, found, near):
  one, other = reference.local, found.local
  number = max(len(one.locations), len(other.locations))
  if not min(len(one.locations), len(other.locations)):
    return Differences(features=len(one.locations), common=float(not number))
  first, second = _same_cells(one, other, near)
  largest = max(float(np.abs(one.attention).max()), _TINY)
  return Differences(
    features=len(one.locations),
    common=len(first) / number,
    location=_largest(one.locations[first], other.locations[second]),
    attention=_largest(one.attention[first], other.attention[second]) / largest,
    descriptor=_largest(one.descriptors[first], other.descriptors[second]),
  )


def _same_cells(one, other, near):
  """Returns positions in both of features of one place and scale."""
  from scipy import spatial

  points = [
    np.concatenate([f.locations, f.scales[:, np.newaxis] * _SCALE_WEIGHT], 1)
    for f in (one, other)
  ]
  distances, nearest = spatial.cKDTree(points[1]).query(
    points[0], distance_upper_bound=near
  )
  first = np.flatnonzero(np.isfinite(distances))
  return first, nearest[first]


def _largest(one, other):
  return float(np.abs(one - other).max(initial=0))


# What may differ, by how weights are kept. In float32 it is the order of sums;
# features whose attention is equal up to that may change places at the end of
# the list. Measured on photos, with the compact network and with ResNet-50 with
# and without an autoencoder: descriptors up to 1e-5, attention 1.1e-5, global
# descriptors 9e-8, locations 2.4e-4 px. The compact one in float16: 0.015,
# 0.036, 1e-4, and 99.4 % in common; dynamic-range: 0.024, 0.045, 1.3e-3, 82 %.
_LIMITS = {
  "float32": Differences(
    common=0.99,
    location=_NEAR_IN_FLOAT32,
    attention=1e-4,
    descriptor=1e-4,
    global_descriptor=1e-5,
  ),
  "float16": Differences(
    common=0.95,
    location=_NEAR,
    attention=0.1,
    descriptor=0.05,
    global_descriptor=2e-3,
  ),
  "dynamic-range": Differences(
    common=0.5,
    location=_NEAR,
    attention=0.3,
    descriptor=0.2,
    global_descriptor=0.02,
  ),
}


def require_photos(photos):
  """Reads photos, so that one that is none is told before long work.

  Args:
    photos: Paths of images.

  Raises:
    FileNotFoundError: If one is missing.
    InputError: If one cannot be read.
  """
  for path in photos:
    utils.RgbLoader(os.fspath(path))


def try_on(reference, made, config, photos, precision):
  """Compares two models on photos.

  Args:
    reference: saved_model.ExtractionModel or single_file.SingleFileModel.
    made: One of these.
    config: DelfConfig.
    photos: Paths of images.
    precision: How the weights of `made` are kept.

  Returns:
    Differences.

  Raises:
    InputError: If they are not what rounding of this precision makes.
  """
  from delf.inference import extractor

  extractors = [extractor.Extractor(config, each) for each in (reference, made)]
  found = Differences()
  near = _NEAR_IN_FLOAT32 if precision == "float32" else _NEAR
  for path in progress.track(photos, "comparing features"):
    photo = np.array(utils.RgbLoader(os.fspath(path)))
    both = (each.extract(photo) for each in extractors)
    found = found.joined(compare(*both, near))
  over = found.over(_LIMITS[precision])
  if over:
    raise errors.InputError(
      f"features that differ by no more than rounding ({precision})", over
    )
  return found


# What writes and what runs a format; named as the extra that brings it.
_NEEDED = {
  ONNX: ("tf2onnx.convert", "onnxruntime"),
  TFLITE: ("ai_edge_litert.interpreter",),
}


@dataclasses.dataclass(frozen=True)
class ExportReport:
  """What was exported.

  Attributes:
    path: str, absolute.
    format: One of export_options.FORMATS.
    form: "local", "global" or "local_and_global".
    model: Words for the model, or "" where it came as a SavedModel.
    bytes: Size on disk.
    compared_with: Words for what the differences are from.
    differences: export_check.Differences.
  """

  path: str
  format: str
  form: str
  model: str
  bytes: int
  compared_with: str
  differences: Differences


def export(source, out, options=None):
  """Exports a model, tries it on photos, and puts it in place if it is right.

  Args:
    source: Name of a known model, or path: a SavedModel of this library's
      exporters, or what `export_model.load` takes.
    out: Path of the folder or file to be.
    options: export_options.ExportOptions, or None for the defaults.

  Returns:
    ExportReport.

  Raises:
    FileNotFoundError: If the source is missing.
    InputError: If the source is not right or does not fit the options, a
      package or photo is missing, `out` is taken, or the result differs by more
      than rounding; nothing is then written.
  """
  options = checked(out, options or ExportOptions())
  source = find(source)
  check_place(out, options)
  for module in _NEEDED.get(options.format, ()):
    errors.load(module, options.format)
  require_photos(options.photos)
  with contextlib.ExitStack() as stack:
    photos = options.photos or _sample_photos(stack)
    if options.format == SAVED_MODEL:
      return _export_saved_model(source, out, options, photos)
    folder, words = _saved_model_of(source, options, stack)
    return _export_file(folder, out, options, photos, words)


def _is_saved_model(source):
  return (source / "saved_model.pb").is_file()


def _sample_photos(stack):
  from delf.embedded import samples

  folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="delf"))
  return list(samples.write_photos(folder))


def _export_saved_model(source, out, options, photos):
  from delf.networks import exporting

  if _is_saved_model(source) and not has_training_weights(source):
    raise errors.InputError(
      "a checkpoint to make a SavedModel of", "a SavedModel", source
    )
  with exporting.destination(out, options.overwrite) as folder:
    folder = pathlib.Path(folder)
    model, words, form = _write_saved_model(source, folder, options)
    config = configuration(source, options, form)
    config.model_path = os.path.abspath(out)
    config.is_tf2_exported = True
    files.write_bytes(folder / CONFIG, _text(config).encode())
    reference = _keras_model(model, folder)
    found = try_on(reference, _load(folder), config, photos, "float32")
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
  return ExportReport(
    path=os.path.abspath(out),
    format=options.format,
    form=form,
    model=words,
    bytes=size,
    compared_with="the layers of the model",
    differences=found,
  )


def _write_saved_model(source, folder, options):
  """Writes a SavedModel of a source; returns model, words for it, and form."""
  from delf.learning import compact_training
  from delf.networks import exporting

  form = options.form or network_files.JOINT
  parts = ("local", "global") if form == network_files.JOINT else (form,)
  model, words = load(source, options.model, parts)
  iou = options.iou
  if iou is None:
    of_compact = has_training_weights(source)
    of_compact = of_compact or source.name == compact_training.NAME
    iou = compact_training.IOU if of_compact else 1.0
  if form == network_files.LOCAL:
    exporting.export_local(model, folder, iou=iou)
  elif form == network_files.JOINT:
    exporting.export_local_and_global(model, folder, iou=iou)
  else:
    exporting.export_global(
      model,
      folder,
      options.input_scales,
      options.pool_type,
      options.normalize,
    )
  return model, words, form


def _saved_model_of(source, options, stack):
  """Returns the folder of a SavedModel to convert, and words for its model."""
  from delf.networks import exporting

  has_weights = has_training_weights(source)
  given = of_network(options)
  if _is_saved_model(source) and given and not has_weights:
    raise errors.InputError(
      f"a checkpoint to set {', '.join(given)} of", "a SavedModel", source
    )
  if _is_saved_model(source) and not given:
    try:
      exporting.NetworkSource(source)
    except errors.InputError:
      if not has_weights:
        raise
    else:
      return source, ""
  folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="delf"))
  folder = pathlib.Path(folder) / "model"
  _, words, form = _write_saved_model(source, folder, options)
  files.write_bytes(
    folder / CONFIG,
    _text(configuration(source, options, form)).encode(),
  )
  return folder, words


def _export_file(folder, out, options, photos, words):
  from delf.networks import exporting

  network = exporting.NetworkSource(folder)
  settings = network.settings
  if options.form not in (None, settings.form):
    raise errors.InputError(
      f"a SavedModel of the form {options.form}", settings.form, folder
    )
  config = configuration(folder, options, settings.form)
  config.model_path = os.path.basename(out)
  check_place(out, options)
  with files.atomic_path(out) as temporary:
    if options.format == ONNX:
      network.write_onnx(temporary, _text(config))
    else:
      network.write_tflite(temporary, _text(config), options.precision)
    found = try_on(
      _load(folder), _load(temporary), config, photos, options.precision
    )
    size = temporary.stat().st_size
  return ExportReport(
    path=os.path.abspath(out),
    format=options.format,
    form=settings.form,
    model=words,
    bytes=size,
    compared_with="the SavedModel",
    differences=found,
  )


def _load(path):
  from delf.inference import extractor

  return extractor.load(path, "cpu")


def _keras_model(model, folder):
  """Returns a model as its layers compute it, with an export's settings."""
  from delf.inference import single_file
  from delf.networks import exporting

  settings = exporting.NetworkSource(folder).settings

  def run(images, names):
    found = {}
    order = (
      network_files.DESCRIPTOR,
      network_files.ATTENTION,
      network_files.FEATURES,
    )
    values = model.build_call(images, training=False, intermediates_dict=found)
    found |= dict(zip(order, values, strict=True))
    return {name: found[name].numpy() for name in names}

  return single_file.SingleFileModel(folder, settings, run)


def _text(config):
  return text_format.MessageToString(config)
