"""`delf export`: a trained model in a form and format that can be used."""

import dataclasses
import os

from delf.cli import arguments, output

_EXAMPLES = """\
examples:
  delf export run/delf_weights --out model          SavedModel of a checkpoint
  delf export run/ --out model --form local         of the newest of a training
  delf export model --out model.onnx                for ONNX Runtime
  delf export model --out model.tflite --quantize float16    for LiteRT
  delf export ckpt --out global --form global --scales 0.7,1,1.4 --pool sum
  delf match a.jpg b.jpg --model model.onnx         used by its path

SOURCE is a TensorFlow checkpoint (of train.py, or of the original), the folder
of a training run, the folder of a compact model with its weights.npz, or, for
.onnx and .tflite, a SavedModel of this library's exporters. What network it is
shows in a checkpoint, but for --no-block3-strides and --gem-power, which the
folder of a run of train.py says.

What was written is run on photos and compared: a SavedModel with the layers of
the model, a file with the SavedModel. What differs by more than rounding is
removed, and the exit status is 1.

Files of ONNX and TFLite need packages of their own to be written and to be run:
pip install "delf[onnx]" or "delf[tflite]".
"""

_PRECISIONS = {"float16": "float16", "dynamic": "dynamic-range"}


def add_arguments(parser):
  """Adds the arguments of this command to an `argparse` parser."""
  parser.epilog = _EXAMPLES
  parser.add_argument(
    "source",
    metavar="SOURCE",
    help="checkpoint, folder of a training run or of a model, or known model",
  )
  parser.add_argument(
    "--out",
    required=True,
    metavar="PATH",
    help="folder of the SavedModel, or .onnx or .tflite file, to be",
  )
  parser.add_argument(
    "--form",
    choices=("local", "global", "local_and_global"),
    help="which features (default: both, of a SavedModel what it has)",
  )
  parser.add_argument(
    "--format",
    choices=("saved_model", "onnx", "tflite"),
    help="default: as the name of the output says",
  )
  parser.add_argument(
    "--quantize",
    choices=sorted(_PRECISIONS),
    help="for .tflite: weights of 8 bits with a scale (dynamic), or of 16",
  )
  _add_form_arguments(parser)
  _add_model_arguments(parser)
  parser.add_argument(
    "--config",
    metavar="FILE",
    help=".pbtxt configuration to keep with it (default: that beside the "
    "source, else all scales and up to 1000 features)",
  )
  parser.add_argument(
    "--photos",
    nargs="+",
    default=[],
    metavar="FOLDER|GLOB|LIST",
    help="photos to try it on: folder, quoted pattern, list (.txt) or images "
    "(default: three sample photos)",
  )
  parser.add_argument(
    "--overwrite", action="store_true", help="replace what is there"
  )
  arguments.add_json(parser)


def _add_form_arguments(parser):
  group = parser.add_argument_group("features")
  group.add_argument(
    "--iou",
    type=_share,
    metavar="X",
    help="overlap of two boxes over which the weaker local feature goes "
    "(default: 1, which keeps all; 0.4 of a compact model)",
  )
  group.add_argument(
    "--scales",
    type=_numbers,
    metavar="X,X,...",
    help="of --form global: image scales to fix (default: they are an input)",
  )
  group.add_argument(
    "--pool",
    choices=("None", "average", "sum"),
    default="None",
    help="of --form global: pooling over the scales (default: None)",
  )
  group.add_argument(
    "--normalize",
    action="store_true",
    help="of --form global: L2-normalise the output",
  )


def _add_model_arguments(parser):
  group = parser.add_argument_group("network of a checkpoint")
  group.add_argument(
    "--backbone",
    choices=("resnet50", "resnet101", "compact"),
    help="default: what the checkpoint has",
  )
  group.add_argument(
    "--no-autoencoder",
    action="store_true",
    help="local features are those of the backbone (default: codes, if the "
    "checkpoint has an autoencoder)",
  )
  group.add_argument(
    "--no-block3-strides",
    action="store_true",
    help="the model was trained without block3_strides: twice as many local "
    "features per direction",
  )
  group.add_argument(
    "--gem-power",
    type=arguments.positive,
    metavar="P",
    help="power of the GeM pooling (default: that of the run, else 3)",
  )


def run(args):
  """Exports, prints what was made; returns the exit status."""
  from delf.learning import export

  report = export.export(args.source, args.out, _options(args))
  if args.json:
    output.print_json(dataclasses.asdict(report))
  else:
    _print(report)


def _options(args):
  from delf.extraction import jobs
  from delf.learning import export

  photos = jobs.find(args.photos)[0] if args.photos else ()
  return export.ExportOptions(
    form=args.form,
    format=args.format,
    iou=args.iou,
    input_scales=args.scales,
    pool_type=args.pool,
    normalize=args.normalize,
    precision=_PRECISIONS.get(args.quantize, "float32"),
    config=args.config,
    photos=photos,
    overwrite=args.overwrite,
    model=export.ModelOptions(
      backbone=args.backbone,
      use_autoencoder=False if args.no_autoencoder else None,
      block3_strides=False if args.no_block3_strides else None,
      gem_power=args.gem_power,
    ),
  )


def _print(report):
  found = report.differences
  kind = f"{report.format}, {report.form}"
  print(f"{report.path}: {kind}, {report.bytes / 1e6:.1f} MB")
  if report.model:
    print(f"network:   {report.model}")
  print(
    f"tried on:  {found.photos} photos; the largest differences from "
    f"{report.compared_with}:"
  )
  if report.form != "global":
    print(
      f"           {found.features} local features, at least "
      f"{found.common:.2%} of a photo's in both"
    )
    print(
      f"           locations {found.location:.2g} px, descriptors "
      f"{found.descriptor:.2g}, attention {found.attention:.2g} of the largest"
    )
  if report.form != "local":
    print(f"           global descriptors {found.global_descriptor:.2g}")
  print(f"use it:    delf match A.jpg B.jpg --model {_shown(report.path)}")


def _shown(path):
  return os.path.relpath(path) if len(os.path.relpath(path)) < 60 else path


def _share(text):
  number = float(text)
  if not 0 <= number <= 1:
    raise ValueError
  return number


def _numbers(text):
  return [arguments.positive(part) for part in text.split(",")]


_share.__name__ = "number from 0 to 1"
_numbers.__name__ = "list of numbers over 0, separated by commas"
