"""Speed of extraction with ONNX Runtime and LiteRT against TensorFlow.

All use the same network, settings and photos, on two threads. Photos in memory
are resized and run at all scales; features are selected and normalised. Printed
are times and the largest differences from the features of the SavedModel. The
photos are those of a folder, or three from scikit-image.

  python -m benchmarks.export_formats [--model NAME] [--photos FOLDER]
      [--resnet] [--quick]
"""

import argparse
import os
import pathlib
import shutil
import statistics
import tempfile
import time

import numpy as np

THREADS = 2
_FORMATS = {
  "SavedModel": "model",
  "ONNX": "model.onnx",
  "TFLite": "model.tflite",
  "TFLite float16": "float16.tflite",
  "TFLite dynamic-range": "dynamic-range.tflite",
}


def main():
  """Measures, and prints a table for each model."""
  options = _options()
  if hasattr(os, "sched_setaffinity"):
    processors = sorted(os.sched_getaffinity(0))[:THREADS]
    os.sched_setaffinity(0, processors)
  photos = _photos(options)
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    _copy(options.model, folder / "given")
    _measure(options.model, folder / "given", photos, options.repeats)
    if options.resnet:
      _make_resnet(folder / "resnet")
      _measure("DELG ResNet-50", folder / "resnet", photos, options.repeats)


def _options():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--model", default="delf-compact", help="SavedModel, by name or path"
  )
  parser.add_argument("--photos", help="folder; default: sample photos")
  parser.add_argument("--most", type=int, help="photos that are used")
  parser.add_argument("--resnet", action="store_true", help="ResNet-50, too")
  parser.add_argument("--repeats", type=int)
  parser.add_argument("--quick", action="store_true", help="measure less")
  options = parser.parse_args()
  options.most = options.most or (3 if options.quick else 20)
  options.repeats = options.repeats or (1 if options.quick else 3)
  return options


def _photos(options):
  from delf.base import files
  from delf.embedded import samples
  from delf.python import utils

  with tempfile.TemporaryDirectory() as folder:
    if options.photos:
      paths = files.find_images(options.photos)
    else:
      paths = samples.sample_photos(folder)
    paths = list(paths)[: options.most]
    return [np.array(utils.RgbLoader(os.fspath(path))) for path in paths]


def _copy(model, folder):
  """Copy a SavedModel, and makes the other formats of it beside."""
  from delf.base import errors
  from delf.inference import zoo

  shutil.copytree(zoo.resolve(model), folder / "model")
  try:
    _convert(folder)
  except errors.InputError as error:
    raise SystemExit(f"--model: {error}") from None


def _make_resnet(folder):
  import keras

  from delf.networks import exporting
  from delf.python.training.model import delg_model

  keras.utils.set_random_seed(1)
  model = delg_model.Delg(use_dim_reduction=True)
  exporting.export(model, folder / "model")
  _convert(folder)


def _convert(folder):
  from delf.learning import export
  from delf.networks import exporting

  form = "local_and_global"
  options = export.ExportOptions()
  config = export.configuration(folder / "model", options, form)
  config.model_path = "model"
  (folder / "config.pbtxt").write_text(str(config))
  network = exporting.NetworkSource(folder / "model")
  network.write_onnx(folder / _FORMATS["ONNX"], str(config))
  for name in ("TFLite", "TFLite float16", "TFLite dynamic-range"):
    precision = name.partition(" ")[2] or "float32"
    network.write_tflite(folder / _FORMATS[name], str(config), precision)


def _measure(name, folder, photos, repeats):
  from delf.formats import configs
  from delf.inference import extractor
  from delf.learning import export

  extractors = {}
  for kind, path in _FORMATS.items():
    config = configs.read_delf_config(folder / "config.pbtxt")
    config.model_path = str(folder / path)
    extractors[kind] = extractor.make_extractor(config)
  reference = [extractors["SavedModel"].extract(photo) for photo in photos]
  differences = {kind: export.Differences() for kind in extractors}
  for kind, made in extractors.items():
    for wanted, photo in zip(reference, photos, strict=True):
      found = export.compare(wanted, made.extract(photo))
      differences[kind] = differences[kind].joined(found)
  ratios = {kind: [] for kind in extractors}
  for _ in range(repeats):
    for photo in photos:
      # One after the other on each photo, so that load from beside hits all.
      times = {k: _seconds(made, photo) for k, made in extractors.items()}
      for kind, seconds in times.items():
        ratios[kind].append(times["SavedModel"] / seconds)
  _print(name, folder, ratios, differences, len(photos))


def _seconds(made, photo):
  start = time.perf_counter()
  made.extract(photo)
  return time.perf_counter() - start


def _print(name, folder, ratios, differences, number):
  print(f"{name}, {number} photos, {THREADS} threads; median of the ratios")
  print(
    f"  {'':22} {'speed':>6} {'MB':>6} {'common':>7} {'location':>9}"
    f" {'descriptor':>10} {'attention':>9} {'global':>8}"
  )
  for kind, values in ratios.items():
    found, path = differences[kind], folder / _FORMATS[kind]
    files = [path] if path.is_file() else path.rglob("*.*")
    size = sum(p.stat().st_size for p in files if p.name != "weights.npz") / 1e6
    print(
      f"  {kind:22} {statistics.median(values):6.2f} {size:6.1f}"
      f" {found.common:7.2%} {found.location:6.2g} px"
      f" {found.descriptor:10.1e} {found.attention:9.1e}"
      f" {found.global_descriptor:8.1e}"
    )


if __name__ == "__main__":
  main()
