"""`delf train`: a model of a user's own, from a folder of photos."""

import dataclasses
import os
import sys

from delf.cli import arguments, output

# Minutes to learn, where neither a time nor steps are given.
_MINUTES = 15.0

# End of the help of commands that train.
_STOPPED = """
A run that is stopped, even by kill -9, goes on when it is repeated: from
MODEL.unfinished, at the last checkpoint (one a minute, and one at SIGTERM or
Ctrl-C). With --steps it ends with the weights that it would have had.

exit status: 0 done, 1 not done or some photos could not be used, 130 or 143
stopped by Ctrl-C or SIGTERM
"""

EXAMPLES = """\
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
"""


def add_arguments(parser):
  """Add the arguments of this command."""
  from delf.inference import zoo
  from delf.learning.finetune import run as finetune

  start = (
    "folder of a model that this command made, a checkpoint (.npz), or scratch "
    f"(default: {zoo.EMBEDDED}, the embedded one)"
  )
  batch = (
    "pairs of views in a step, each of another place (default: 8, or as many "
    "as there are places for)"
  )
  defaults = finetune.TrainOptions
  add_training(
    parser, "model", start, "3e-4; from scratch 1.5e-3", batch, defaults
  )


def add_training(parser, made, start, rate, batch, defaults=None):
  """Add the arguments of a training.

  Args:
    made: "model" or "detector".
    start: Help of --from.
    rate: Default of --rate, for its help.
    batch: Help of --batch.
    defaults: TrainOptions whose `labels`, `view` and `size` have options too.
  """
  parser.epilog += _STOPPED
  add = parser.add_argument
  help = "folder, quoted pattern, list (.txt) or photos"
  add("sources", nargs="+", metavar="PHOTOS", help=help)
  help = f"folder of the {made} to be"
  add("--out", required=True, metavar="MODEL", help=help)
  help = f"what to begin with: {start}"
  add("--from", dest="start", metavar="MODEL", help=help)
  if defaults:
    help = (
      "folders, none, or a CSV file (rows: photo,class); default: "
      "folders, where all photos lie in sub-folders, else none"
    )
    add("--labels", default=defaults.labels, metavar="WHAT", help=help)
  budget = parser.add_mutually_exclusive_group()
  budget.add_argument(
    "--minutes",
    type=arguments.positive,
    metavar="N",
    help=f"time to learn (default: {_MINUTES:g}); reading and measuring come "
    "on top",
  )
  arguments.add_number(budget, "--steps", "steps to learn, in place of a time")
  help = f"highest learning rate (default: {rate})"
  add("--rate", type=arguments.positive, metavar="R", help=help)
  arguments.add_number(parser, "--batch", batch)
  if defaults:
    for name, default, help in (
      ("--view", defaults.view, "side of a view, a multiple of 8 from 64 on"),
      ("--size", defaults.size, "longer side that photos are scaled down to"),
    ):
      arguments.add_number(parser, name, help, default, "PX")
  arguments.add(parser, "--seed")
  help = f"replace a {made} at MODEL, and an unfinished one"
  add("--overwrite", action="store_true", help=help)
  arguments.add(parser, "--rotate", "--json")


def options(args):
  """Return the run.TrainOptions that the arguments stand for."""
  from delf.learning.finetune import run as finetune

  given = _given(args)
  if args.minutes is None and args.steps is None:
    given["minutes"] = _MINUTES
  return finetune.TrainOptions(**given)


def command(first, args):
  """Return the command that does the same as a list, without defaults.

  `first` is the command up to the photos.
  """
  from delf.learning.finetune import run as finetune

  parts = [*first, *args.sources, "--out", args.out]
  for name, value in _given(args).items():
    if value == getattr(finetune.TrainOptions, name):
      continue
    parts.append("--from" if name == "start" else f"--{name}")
    if name != "rotate":
      parts.append(f"{value:g}" if name == "minutes" else str(value))
  return parts


def _given(args):
  """Fields of TrainOptions that there are arguments for, as they were given."""
  from delf.learning.finetune import run as finetune

  names = [field.name for field in dataclasses.fields(finetune.TrainOptions)]
  return {name: getattr(args, name) for name in names if hasattr(args, name)}


def run_training(first, args, train, see):
  """Train, and print the report; returns the exit status.

  Args:
    first: The command up to the photos.
    train: Function (photos, out, options, overwrite, command) that trains.
    see: Called with the report and with the JSON document, which it may change.
  """
  from delf.learning.finetune import run as finetune

  words = command(first, args)
  try:
    report = train(args.sources, args.out, options(args), args.overwrite, words)
  except finetune.Stopped as stopped:
    print(f"delf: {stopped}", file=sys.stderr)
    return 128 + stopped.number
  for failure in report.failed:
    output.error(failure)
  document = report.as_dict() | {"out": os.path.abspath(report.out)}
  see(report, document)
  output.show(args, document, *report.lines)
  return report.exit_status


def run(args):
  """Train and print the report; return the exit status."""
  from delf.learning.finetune import model

  def see(report, document):
    for name, scores in report.scores.items():
      document["scores"][name]["overall"] = scores.overall()

  return run_training(["delf", "train"], args, model.train, see)
