"""What `delf export` makes, and how: its options, and its configuration."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from delf.protos import delf_config_pb2
from delf.python import config_io, errors, network_io
from delf.python.pipelines import export_model

SAVED_MODEL, ONNX, TFLITE = FORMATS = ("saved_model", "onnx", "tflite")
_SUFFIXES = {ONNX: network_io.ONNX, TFLITE: network_io.TFLITE}
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
  model: export_model.ModelOptions = export_model.ModelOptions()


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
  if (fixed or options.normalize) and options.form != network_io.GLOBAL:
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
    config = config_io.read_delf_config(options.config)
  elif beside.is_file():
    config = config_io.read_delf_config(beside)
  else:
    config = delf_config_pb2.DelfConfig(
      model_path="model", image_scales=_SCALES, max_image_size=1024
    )
    config.delf_local_config.max_feature_num = 1000
    config.delf_local_config.use_pca = False
    config.delf_local_config.score_threshold = 0.0
    config.delf_global_config.use_pca = False
    config.delf_global_config.image_scales_ind.extend(_GLOBAL_SCALES)
  config.use_local_features = form != network_io.GLOBAL
  config.use_global_features = form != network_io.LOCAL
  if options.input_scales and not options.config:
    del config.image_scales[:]
    del config.delf_global_config.image_scales_ind[:]
  return config
