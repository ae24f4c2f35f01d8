"""`delf train`: a model of a user's own, from a folder of photos."""

import os
import sys

from delf.python.cli import arguments, json_output

_EXAMPLES = """\
examples:
  delf train photos/ --out my_model                  15 minutes, from the
                                                     embedded model
  delf train photos/ --out my_model --minutes 60
  delf train photos/ --out my_model --steps 2000     the same weights each time
  delf train photos/ --out my_model --labels labels.csv
  delf train photos/ --out my_model --labels none    folders are no classes
  delf train more/ --out better --from my_model
  delf train photos/ --out my_model --from scratch --minutes 600
  delf match a.jpg b.jpg --model my_model
  delf index photos/ --out my.index --model my_model

Where all photos lie in sub-folders, each of these is a class: one thing, place
or building. Classes teach the global descriptor (ArcFace); local features learn
from the photos themselves, without labels: two views of one photo, and photos
of one place that RootSIFT is sure of. `--labels none` is for folders that mean
something else, such as years.

A part of the photos is held out. The model is measured with them before and
after, and the better one is kept; MODEL_CARD.md in MODEL says which, with all
settings and figures, curves.png and match_*.jpg show it. A few hundred photos
are better than ten, and ten are the fewest.

A run that is stopped, even by kill -9, goes on when it is repeated: from
MODEL.unfinished, at the last checkpoint (one a minute, and one at SIGTERM or
Ctrl-C). With --steps it ends with the weights that it would have had.

exit status: 0 done, 1 not done or some photos could not be used, 130 or 143
stopped by Ctrl-C or SIGTERM
"""


def add_arguments(parser):
  """Adds the arguments of this command to an `argparse` parser."""
  parser.epilog = _EXAMPLES
  parser.add_argument(
    "sources",
    nargs="+",
    metavar="PHOTOS",
    help="folder, quoted pattern, list (.txt) or photos",
  )
  parser.add_argument(
    "--out", required=True, metavar="MODEL", help="folder of the model to be"
  )
  parser.add_argument(
    "--from",
    dest="start",
    default="delf-compact",
    metavar="MODEL",
    help="what to begin with: folder of a model that this command made, a "
    "checkpoint (.npz), or scratch (default: delf-compact, the embedded one)",
  )
  parser.add_argument(
    "--labels",
    default="auto",
    metavar="WHAT",
    help="folders, none, or a CSV file (rows: photo,class); default: folders, "
    "where all photos lie in sub-folders, else none",
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
  _add_learning(parser)
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="replace a model at MODEL, and an unfinished one",
  )
  arguments.add_rotate(parser)
  arguments.add_json(parser)


def _add_learning(parser):
  parser.add_argument(
    "--rate",
    type=arguments.positive,
    metavar="R",
    help="highest learning rate (default: 3e-4; from scratch 1.5e-3)",
  )
  parser.add_argument(
    "--batch",
    type=arguments.positive_whole,
    metavar="N",
    help="pairs of views in a step, each of another place (default: 8, or as "
    "many as there are places for)",
  )
  parser.add_argument(
    "--view",
    type=arguments.positive_whole,
    default=192,
    metavar="PX",
    help="side of a view, a multiple of 8 from 64 on (default: 192)",
  )
  parser.add_argument(
    "--size",
    type=arguments.positive_whole,
    default=400,
    metavar="PX",
    help="longer side that photos are scaled down to (default: 400)",
  )
  arguments.add_seed(parser)


def run(args):
  """Trains, prints what it gave; returns the exit status."""
  from delf.python.pipelines.train import learning, options
  from delf.python.pipelines.train import run as pipeline

  minutes = 15.0 if args.minutes is None and not args.steps else args.minutes
  told = options.TrainOptions(
    start=args.start,
    labels=args.labels,
    minutes=minutes,
    steps=args.steps,
    rate=args.rate,
    batch=args.batch,
    view=args.view,
    size=args.size,
    seed=args.seed,
    rotate=args.rotate,
  )
  try:
    report = pipeline.train(
      args.sources, args.out, told, args.overwrite, _command(args)
    )
  except learning.Stopped as stopped:
    print(f"delf: {stopped}", file=sys.stderr)
    return 128 + stopped.number
  _print(report, args.json)
  return report.exit_status


def _command(args):
  """Returns the words of a command that does the same."""
  words = ["delf", "train", *args.sources, "--out", args.out]
  for name, value, default in (
    ("from", args.start, "delf-compact"),
    ("labels", args.labels, "auto"),
    ("minutes", args.minutes, None),
    ("steps", args.steps, None),
    ("rate", args.rate, None),
    ("batch", args.batch, None),
    ("view", args.view, 192),
    ("size", args.size, 400),
    ("seed", args.seed, 0),
  ):
    if value != default:
      words += [f"--{name}", f"{value:g}" if name == "minutes" else str(value)]
  return words + (["--rotate"] if args.rotate else [])


def _print(report, as_json):
  for failure in report.failed:
    print(f"delf: error: {failure}", file=sys.stderr)
  if not as_json:
    for line in report.lines():
      print(line)
    return
  import dataclasses

  found = dataclasses.asdict(report)
  found["out"] = os.path.abspath(report.out)
  found["kept"] = report.kept
  for name, scores in report.scores.items():
    found["scores"][name]["overall"] = scores.overall()
  json_output.print_json(found)
