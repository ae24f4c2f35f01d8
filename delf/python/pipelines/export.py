"""Exports of a model in a form and a format, tried on photos before they stand.

Whatever the format, the model first becomes a SavedModel; files of other
runtimes are made of that one and compared with it.
"""

import contextlib
import dataclasses
import os
import pathlib
import tempfile

from google.protobuf import text_format

from delf.python import errors, extras, files, network_io
from delf.python.pipelines import export_check, export_model, export_options

# What writes and what runs a format; named as the extra that brings it.
_NEEDED = {
  export_options.ONNX: ("tf2onnx.convert", "onnxruntime"),
  export_options.TFLITE: ("ai_edge_litert.interpreter",),
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
  differences: export_check.Differences


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
  options = export_options.checked(
    out, options or export_options.ExportOptions()
  )
  source = export_model.find(source)
  export_options.check_place(out, options)
  for module in _NEEDED.get(options.format, ()):
    extras.load(module, options.format)
  export_check.require_photos(options.photos)
  with contextlib.ExitStack() as stack:
    photos = options.photos or _sample_photos(stack)
    if options.format == export_options.SAVED_MODEL:
      return _export_saved_model(source, out, options, photos)
    folder, words = _saved_model_of(source, options, stack)
    return _export_file(folder, out, options, photos, words)


def _is_saved_model(source):
  return (source / "saved_model.pb").is_file()


def _sample_photos(stack):
  from delf.python.pipelines import samples

  folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="delf"))
  return list(samples.write_sample_photos(folder))


def _export_saved_model(source, out, options, photos):
  from delf.python.training.model import export_folder

  if _is_saved_model(source) and not export_model.has_training_weights(source):
    raise errors.InputError(
      "a checkpoint to make a SavedModel of", "a SavedModel", source
    )
  with export_folder.destination(out, options.overwrite) as folder:
    folder = pathlib.Path(folder)
    model, words, form = _write_saved_model(source, folder, options)
    config = export_options.configuration(source, options, form)
    config.model_path = os.path.abspath(out)
    config.is_tf2_exported = True
    files.write_bytes(folder / export_options.CONFIG, _text(config).encode())
    reference = _keras_model(model, folder)
    found = export_check.try_on(
      reference, _load(folder), config, photos, "float32"
    )
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
  from delf.python.training import exporting
  from delf.python.training.self_supervised import export_compact, weights_file

  form = options.form or network_io.JOINT
  parts = ("local", "global") if form == network_io.JOINT else (form,)
  model, words = export_model.load(source, options.model, parts)
  iou = options.iou
  if iou is None:
    of_compact = export_model.has_training_weights(source)
    of_compact = of_compact or source.name == weights_file.NAME
    iou = export_compact.IOU if of_compact else 1.0
  if form == network_io.LOCAL:
    exporting.export_local(model, folder, iou=iou)
  elif form == network_io.JOINT:
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
  from delf.python.training import export_network

  has_weights = export_model.has_training_weights(source)
  given = export_options.of_network(options)
  if _is_saved_model(source) and given and not has_weights:
    raise errors.InputError(
      f"a checkpoint to set {', '.join(given)} of", "a SavedModel", source
    )
  if _is_saved_model(source) and not given:
    try:
      export_network.NetworkSource(source)
    except errors.InputError:
      if not has_weights:
        raise
    else:
      return source, ""
  folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="delf"))
  folder = pathlib.Path(folder) / "model"
  _, words, form = _write_saved_model(source, folder, options)
  files.write_bytes(
    folder / export_options.CONFIG,
    _text(export_options.configuration(source, options, form)).encode(),
  )
  return folder, words


def _export_file(folder, out, options, photos, words):
  from delf.python.training import export_network

  network = export_network.NetworkSource(folder)
  settings = network.settings
  if options.form not in (None, settings.form):
    raise errors.InputError(
      f"a SavedModel of the form {options.form}", settings.form, folder
    )
  config = export_options.configuration(folder, options, settings.form)
  config.model_path = os.path.basename(out)
  export_options.check_place(out, options)
  with files.atomic_path(out) as temporary:
    if options.format == export_options.ONNX:
      network.write_onnx(temporary, _text(config))
    else:
      network.write_tflite(temporary, _text(config), options.precision)
    found = export_check.try_on(
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
  from delf.python.inference import model_file

  return model_file.load(path, "cpu")


def _keras_model(model, folder):
  """Returns a model as its layers compute it, with an export's settings."""
  from delf.python.inference import single_file
  from delf.python.training import export_network

  settings = export_network.NetworkSource(folder).settings

  def run(images, names):
    found = {}
    order = (network_io.DESCRIPTOR, network_io.ATTENTION, network_io.FEATURES)
    values = model.build_call(images, training=False, intermediates_dict=found)
    found |= dict(zip(order, values, strict=True))
    return {name: found[name].numpy() for name in names}

  return single_file.SingleFileModel(folder, settings, run)


def _text(config):
  return text_format.MessageToString(config)
