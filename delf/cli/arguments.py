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


# Options that mean the same wherever a command has them.
_SHARED = {
  "--config": {"metavar": "FILE"},
  "--max-size": {"type": positive_whole, "metavar": "N"},
  "--seed": {"type": whole, "default": 0, "metavar": "N"},
  "--rotate": {"action": "store_true"},
  "--device": {"metavar": "NAME"},
  "--json": {"action": "store_true"},
}
_HELP = {
  "--config": ".pbtxt configuration of extraction (default: that of the model)",
  "--max-size": "scale the longer side of photos down to N pixels",
  "--seed": "random seed (default: 0)",
  "--rotate": "turn images as their EXIF orientation says (default: as stored)",
  "--device": "cpu, gpu or gpu:N (default: the best)",
  "--json": "print one JSON document on standard output",
}


def add(parser, *names: str, **changes: object) -> None:
  """Add options that several commands share, such as "--device"."""
  for name in names:
    options = _SHARED[name] | changes
    parser.add_argument(name, help=_HELP[name], **options)


def add_number(
  parser, name: str, help: str, default: int | None = None, metavar: str = "N"
) -> None:
  """Add a whole number over 0; its help says its default."""
  if default is not None:
    help += f" (default: {default})"
  parser.add_argument(
    name, type=positive_whole, default=default, metavar=metavar, help=help
  )


def add_model(
  parser, default: str = "that of --config, else the embedded one"
) -> None:
  """Add --model."""
  help = (
    "known model (`delf models`), folder of a SavedModel, or .onnx or "
    f".tflite file (default: {default})"
  )
  parser.add_argument("--model", metavar="NAME|PATH", help=help)


def add_images(parser, metavar: str) -> None:
  """Add the images of extraction and detection."""
  help = (
    "folder (searched with its sub-folders), quoted pattern, image, or "
    "text file of image paths"
  )
  parser.add_argument("images", nargs="+", metavar=metavar, help=help)


def add_work(parser) -> None:
  """Add how many images are processed: --rotate, --batch and others."""
  add(parser, "--rotate")
  help = (
    "most images of one size at once (default: 1 on a CPU, as memory allows on "
    "a GPU)"
  )
  add_number(parser, "--batch", help)
  help = "threads that decode (default: 1; 0: decode in between)"
  parser.add_argument(
    "--workers", type=whole, default=1, metavar="N", help=help
  )
  add(parser, "--device")
  help = "do all images again, also those that are done"
  parser.add_argument("--overwrite", action="store_true", help=help)
  add(parser, "--json")


def work(args: argparse.Namespace) -> dict:
  """Return what `add_work` added, as options of extraction."""
  return {
    "resume": not args.overwrite,
    "batch_size": args.batch,
    "workers": args.workers,
    "device": args.device,
    "apply_rotation": args.rotate,
  }


# Arguments of `delf index` and `delf eval` that are fields of BuildOptions.
INDEXING = ("model", "config", "codebook", "aggregation", "whitening", "device")


def pick(args: argparse.Namespace, *names: str) -> dict:
  """Return some arguments by name."""
  return {name: getattr(args, name) for name in names}
