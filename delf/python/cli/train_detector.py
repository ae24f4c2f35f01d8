"""`delf train-detector`: a detector of a user's own, from photos and boxes."""

import os
import sys

from delf.python.cli import arguments, json_output

_EXAMPLES = """\
examples:
  delf train-detector boxes.csv photos/ --out my_boxes
  delf train-detector boxes.csv photos/ --out my_boxes --minutes 60
  delf train-detector boxes.csv photos/ --out my_boxes --steps 2000
  delf train-detector boxes.csv photos/ --out my_boxes --from scratch
  delf train-detector more.csv more/ --out better --from my_boxes
  delf detect photos/ --detector my_boxes --out boxes/

BOXES.csv has a row for each box, below a line that names the columns: image_id
and box, where a box is four numbers with spaces between, "ymin xmin ymax xmax",
as in Google Landmark Boxes; or image_id,ymin,xmin,ymax,xmax. All are in [0, 1],
of the height and the width of the photo. image_id is the name of a photo, with
or without its folder and extension. Photos without a row are left out.

One photo in ten is held out. The detector is measured with them before and
after, beside the whole image and a box of median size in the middle, and the
better one is kept; MODEL_CARD.md in MODEL says which.

A run that is stopped, even by kill -9, goes on when it is repeated: from
MODEL.unfinished, at the last checkpoint (one a minute, and one at SIGTERM or
Ctrl-C). With --steps it ends with the weights that it would have had.

exit status: 0 done, 1 not done or some photos could not be used, 130 or 143
stopped by Ctrl-C or SIGTERM
"""


def add_arguments(parser):
  """Adds the arguments of this command to an `argparse` parser."""
  parser.epilog = _EXAMPLES
  parser.add_argument("boxes", metavar="BOXES.csv", help="file of boxes")
  parser.add_argument(
    "sources",
    nargs="+",
    metavar="PHOTOS",
    help="folder, quoted pattern, list (.txt) or photos",
  )
  parser.add_argument(
    "--out", required=True, metavar="MODEL", help="folder of the detector to be"
  )
  parser.add_argument(
    "--from",
    dest="start",
    default="delf-boxes",
    metavar="MODEL",
    help="what to begin with: a detector that this command made, or scratch "
    "(default: delf-boxes, the embedded one, whose backbone scratch has too)",
  )
  budget = parser.add_mutually_exclusive_group()
  budget.add_argument(
    "--minutes",
    type=arguments.positive,
    metavar="N",
    help="time to learn (default: 15); reading and measuring come on top",
  )
  budget.add_argument(
    "--steps",
    type=arguments.positive_whole,
    metavar="N",
    help="steps to learn, in place of a time",
  )
  parser.add_argument(
    "--rate",
    type=arguments.positive,
    default=5e-4,
    metavar="R",
    help="highest learning rate (default: 5e-4)",
  )
  parser.add_argument(
    "--batch",
    type=arguments.positive_whole,
    default=8,
    metavar="N",
    help="views in a step (default: 8)",
  )
  arguments.add_seed(parser)
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="replace a detector at MODEL, and an unfinished one",
  )
  arguments.add_rotate(parser)
  arguments.add_json(parser)


def run(args):
  """Trains, prints what it gave; returns the exit status."""
  from delf.python.pipelines.train import learning
  from delf.python.pipelines.train_detector import options
  from delf.python.pipelines.train_detector import run as pipeline

  minutes = 15.0 if args.minutes is None and not args.steps else args.minutes
  told = options.DetectorOptions(
    start=args.start,
    minutes=minutes,
    steps=args.steps,
    rate=args.rate,
    batch=args.batch,
    seed=args.seed,
    rotate=args.rotate,
  )
  try:
    report = pipeline.train(
      args.boxes, args.sources, args.out, told, args.overwrite, _command(args)
    )
  except learning.Stopped as stopped:
    print(f"delf: {stopped}", file=sys.stderr)
    return 128 + stopped.number
  _print(report, args.json)
  return report.exit_status


def _command(args):
  """Returns the words of a command that does the same."""
  words = ["delf", "train-detector", args.boxes, *args.sources]
  words += ["--out", args.out]
  for name, value, default in (
    ("from", args.start, "delf-boxes"),
    ("minutes", args.minutes, None),
    ("steps", args.steps, None),
    ("rate", args.rate, 5e-4),
    ("batch", args.batch, 8),
    ("seed", args.seed, 0),
  ):
    if value != default:
      words += [f"--{name}", f"{value:g}" if name == "minutes" else str(value)]
  return words + (["--rotate"] if args.rotate else [])


def _print(report, as_json):
  for failure in report.failed:
    print(f"delf: error: {failure}", file=sys.stderr)
  if report.missing:
    print(
      f"delf: warning: {len(report.missing)} names in the CSV file have no "
      f"photo, such as {report.missing[0]}",
      file=sys.stderr,
    )
  if as_json:
    import dataclasses

    found = dataclasses.asdict(report)
    found["out"] = os.path.abspath(report.out)
    json_output.print_json(found)
    return
  from delf.python.pipelines.train_detector import card

  print(
    f"{report.steps} steps on {report.photos} photos in {report.seconds:.0f} s"
  )
  for line in card.table(report.scores):
    print(line)
  print(f"kept: {report.kept}; written to {report.out}")
