"""`delf export`: a trained model as SavedModel, .onnx or .tflite."""

import argparse
import dataclasses
import os

import delf
from delf.cli import arguments, output

EXAMPLES = """\
examples:
  delf export run/delf_weights --out model          SavedModel of a checkpoint
  delf export run/ --out model --form local         its newest checkpoint
  delf export model --out model.onnx                for ONNX Runtime
  delf export model --out model.tflite --quantize float16    for LiteRT
  delf export ckpt --out global --form global --scales 0.7,1,1.4 --pool sum
  delf match a.jpg b.jpg --model model.onnx         used by its path

SOURCE is a TensorFlow checkpoint (of train.py, or of the original), the folder
of a training run, the folder of a compact model with its weights.npz, or, for
.onnx and .tflite, a SavedModel of this library's exporters. The network is
recognised by its checkpoint; --no-block3-strides and --gem-power are not in it,
but in the folder of a run of train.py.

The new model is run on photos and compared: a SavedModel with the layers of the
model, a file with the SavedModel. If it differs by more than rounding it is
removed, and the exit status is 1.

ONNX and TFLite files need packages of their own, to be written and to be run:
pip install "delf[onnx]" or "delf[tflite]".
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  add = parser.add_argument
  help = "checkpoint, folder of a training run or of a model, or known model"
  add("source", metavar="SOURCE", help=help)
  help = "folder for the SavedModel, or .onnx or .tflite file"
  add("--out", required=True, metavar="PATH", help=help)
  help = "features of the model (default: both, or those of a SavedModel)"
  add("--form", choices=("local", "global", "local_and_global"), help=help)
  help = "default: by the name of the output"
  add("--format", choices=("saved_model", "onnx", "tflite"), help=help)
  help = "for .tflite: weights of 8 bits with a scale (dynamic), or of 16"
  add("--quantize", choices=("dynamic", "float16"), help=help)
  _add_feature_arguments(parser.add_argument_group("features"))
  _add_network_arguments(parser.add_argument_group("network of a checkpoint"))
  help = (
    ".pbtxt configuration to keep with it (default: that beside the "
    "source, else all scales and up to 1000 features)"
  )
  add("--config", metavar="FILE", help=help)
  help = (
    "photos to compare on: folder, quoted pattern, list (.txt) or photos "
    "(default: three sample photos)"
  )
  add("--photos", nargs="+", default=[], metavar="FOLDER|GLOB|LIST", help=help)
  add("--overwrite", action="store_true", help="replace an existing model")
  arguments.add(parser, "--json")


def _add_feature_arguments(group):
  add = group.add_argument
  help = (
    "drop the weaker of two local features whose boxes overlap more (IoU; "
    "default: 1, which keeps all; 0.4 for a compact model)"
  )
  add("--iou", type=arguments.share, metavar="X", help=help)
  help = "of --form global: fixed image scales (default: an input)"
  add("--scales", type=_numbers, metavar="X,X,...", help=help)
  help = "of --form global: pooling over the scales (default: None)"
  add("--pool", choices=("None", "average", "sum"), default="None", help=help)
  help = "of --form global: L2-normalise the output"
  add("--normalize", action="store_true", help=help)


def _add_network_arguments(group):
  add = group.add_argument
  help = "default: that of the checkpoint"
  add("--backbone", choices=("resnet50", "resnet101", "compact"), help=help)
  help = (
    "use the backbone's features as local features (default: codes of the "
    "autoencoder, if there is one)"
  )
  no = {"action": "store_const", "const": False}
  add("--no-autoencoder", dest="autoencoder", **no, help=help)
  help = (
    "the model was trained without block3_strides: twice as many local "
    "features per direction"
  )
  add("--no-block3-strides", dest="block3_strides", **no, help=help)
  help = "power of the GeM pooling (default: that of the run, else 3)"
  add("--gem-power", type=arguments.positive, metavar="P", help=help)


def run(args: argparse.Namespace) -> None:
  """Export, and print the result."""
  report = arguments.call(delf.export, args)
  output.show(args, dataclasses.asdict(report), *_lines(report))


def _lines(report):
  differences = report.differences
  kind = f"{report.format}, {report.form}"
  yield f"{report.path}: {kind}, {report.bytes / 1e6:.1f} MB"
  if report.model:
    yield f"network:   {report.model}"
  yield (
    f"tried on:  {differences.photos} photos; the largest differences from "
    f"{report.compared_with}:"
  )
  if report.form != "global":
    yield (
      f"           {differences.features} local features, at least "
      f"{differences.common:.2%} of a photo's in both\n"
      f"           locations {differences.location:.2g} px, descriptors "
      f"{differences.descriptor:.2g}, attention {differences.attention:.2g} of"
      " the largest"
    )
  if report.form != "local":
    yield f"           global descriptors {differences.global_descriptor:.2g}"
  path = os.path.relpath(report.path)
  path = path if len(path) < 60 else report.path
  yield f"use it:    delf match A.jpg B.jpg --model {path}"


def _numbers(text):
  return [arguments.positive(part) for part in text.split(",")]


_numbers.__name__ = "list of numbers over 0, separated by commas"
