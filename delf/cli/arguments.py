"""Arguments that several commands take, and the kinds of their values."""

import argparse
from collections.abc import Callable


def _kind(name: str, convert: Callable, is_valid: Callable) -> Callable:
  """Type for `argparse`, which names it in its errors."""

  def parse(text):
    value = convert(text)
    if not is_valid(value):
      raise ValueError
    return value

  parse.__name__ = name
  return parse


_INFINITY = float("inf")
positive = _kind("number over 0", float, lambda x: 0 < x < _INFINITY)
positive_whole = _kind("whole number over 0", int, lambda n: n >= 1)
whole = _kind("whole number from 0 on", int, lambda n: n >= 0)
finite = _kind("number", float, lambda x: abs(x) < _INFINITY)
share = _kind("number from 0 to 1", float, lambda x: 0 <= x <= 1)
box = _kind(
  "box of four numbers x1,y1,x2,y2",
  lambda text: tuple(map(float, text.split(","))),
  lambda edges: len(edges) == 4,
)


def add_command(
  subparsers, name: str, summary: str, examples: str | None = None
) -> argparse.ArgumentParser:
  """Add a sub-command, whose description is its summary; returns its parser."""
  return subparsers.add_parser(
    name,
    help=summary,
    description=f"{summary[0].upper()}{summary[1:]}.",
    epilog=examples,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )


def add_model(
  parser: argparse.ArgumentParser,
  default: str = "that of --config, else the embedded one",
) -> None:
  """Add --model."""
  parser.add_argument(
    "--model",
    metavar="NAME|PATH",
    help="known model (`delf models`), folder of a SavedModel, or .onnx or "
    f".tflite file (default: {default})",
  )


def add_config(parser: argparse.ArgumentParser) -> None:
  """Add --config."""
  help = ".pbtxt configuration of extraction (default: that of the model)"
  parser.add_argument("--config", metavar="FILE", help=help)


def add_max_size(parser: argparse.ArgumentParser) -> None:
  """Add --max-size."""
  help = "scale the longer side of photos down to N pixels"
  parser.add_argument("--max-size", type=positive_whole, metavar="N", help=help)


def add_seed(parser: argparse.ArgumentParser) -> None:
  """Add --seed."""
  help = "random seed (default: 0)"
  parser.add_argument("--seed", type=whole, default=0, metavar="N", help=help)


def add_rotate(parser: argparse.ArgumentParser) -> None:
  """Add --rotate."""
  help = "turn images as their EXIF orientation says (default: as stored)"
  parser.add_argument("--rotate", action="store_true", help=help)


def add_device(parser: argparse.ArgumentParser) -> None:
  """Add --device."""
  help = "cpu, gpu or gpu:N (default: the best)"
  parser.add_argument("--device", metavar="NAME", help=help)


def add_json(
  parser: argparse.ArgumentParser, default: bool | str = False
) -> None:
  """Add --json."""
  help = "print one JSON document on standard output"
  parser.add_argument("--json", action="store_true", default=default, help=help)


def add_images(parser: argparse.ArgumentParser, metavar: str) -> None:
  """Add the images of extraction and detection."""
  parser.add_argument(
    "images",
    nargs="+",
    metavar=metavar,
    help="folder (searched with its sub-folders), quoted pattern, image, or "
    "text file of image paths",
  )


def add_work(parser: argparse.ArgumentParser) -> None:
  """Add how many images are processed: --rotate, --batch and others."""
  add_rotate(parser)
  parser.add_argument(
    "--batch",
    type=positive_whole,
    metavar="N",
    help="most images of one size at once (default: 1 on a CPU, as memory "
    "allows on a GPU)",
  )
  parser.add_argument(
    "--workers",
    type=whole,
    default=1,
    metavar="N",
    help="threads that decode (default: 1; 0: decode in between)",
  )
  add_device(parser)
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="do all images again, also those that are done",
  )
  add_json(parser)


def work(args: argparse.Namespace) -> dict:
  """Return what `add_work` added, as options of extraction."""
  return {
    "resume": not args.overwrite,
    "batch_size": args.batch,
    "workers": args.workers,
    "device": args.device,
    "apply_rotation": args.rotate,
  }
