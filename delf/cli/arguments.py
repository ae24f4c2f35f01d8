"""What several commands take: kinds of numbers, and arguments.

`argparse` names the kinds in its errors.
"""


def positive(text):
  """Returns a float over 0."""
  number = float(text)
  if not 0 < number < float("inf"):
    raise ValueError
  return number


def positive_whole(text):
  """Returns an int over 0."""
  number = int(text)
  if number < 1:
    raise ValueError
  return number


def whole(text):
  """Returns an int that is not negative."""
  number = int(text)
  if number < 0:
    raise ValueError
  return number


def finite(text):
  """Returns a float that is a number."""
  number = float(text)
  if not -float("inf") < number < float("inf"):
    raise ValueError
  return number


def share(text):
  """Returns a float from 0 to 1."""
  number = float(text)
  if not 0 <= number <= 1:
    raise ValueError
  return number


def box(text):
  """Returns a box "x1,y1,x2,y2" as a tuple of four floats."""
  left, upper, right, lower = map(float, text.split(","))
  return left, upper, right, lower


positive.__name__ = "number over 0"
positive_whole.__name__ = "whole number over 0"
whole.__name__ = "whole number from 0 on"
finite.__name__ = "number"
share.__name__ = "number from 0 to 1"
box.__name__ = "box of four numbers x1,y1,x2,y2"


def add_model(parser, default="that of --config, else the embedded one"):
  """Adds --model to an `argparse` parser, which says what its default is."""
  parser.add_argument(
    "--model",
    metavar="NAME|PATH",
    help="known model (`delf models`), folder of a SavedModel, or .onnx or "
    f".tflite file (default: {default})",
  )


def add_config(parser):
  """Adds --config to an `argparse` parser."""
  parser.add_argument(
    "--config",
    metavar="FILE",
    help=".pbtxt configuration of extraction (default: that of the model)",
  )


def add_max_size(parser):
  """Adds --max-size to an `argparse` parser."""
  parser.add_argument(
    "--max-size",
    type=positive_whole,
    metavar="N",
    help="scale the longer side of photos down to N pixels",
  )


def add_seed(parser):
  """Adds --seed to an `argparse` parser."""
  parser.add_argument(
    "--seed",
    type=whole,
    default=0,
    metavar="N",
    help="random seed (default: 0)",
  )


def add_rotate(parser):
  """Adds --rotate to an `argparse` parser."""
  parser.add_argument(
    "--rotate",
    action="store_true",
    help="turn images as their EXIF orientation says (default: as stored)",
  )


def add_device(parser):
  """Adds --device to an `argparse` parser."""
  parser.add_argument(
    "--device", metavar="NAME", help="cpu, gpu or gpu:N (default: the best)"
  )


def add_json(parser):
  """Adds --json to an `argparse` parser."""
  parser.add_argument(
    "--json",
    action="store_true",
    help="print one JSON document on standard output",
  )


def add_work(parser):
  """Adds to a parser how work on many images is done: --batch and others."""
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


def work(args):
  """Returns what `add_work` and `add_rotate` added, as run_options name it."""
  return {
    "resume": not args.overwrite,
    "batch_size": args.batch,
    "workers": args.workers,
    "device": args.device,
    "apply_rotation": args.rotate,
  }
