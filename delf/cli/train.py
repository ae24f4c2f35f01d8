"""`delf train`: a model trained on your own photos."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

import delf
from delf.cli import arguments, output

# End of the help of commands that train.
_STOPPED = """
A run that is stopped, even by kill -9, resumes when it is repeated: from
MODEL.unfinished, at the last checkpoint (one a minute, and one at SIGTERM or
Ctrl-C). With --steps it ends with the same weights as a run that was not.

exit status: 0 done, 1 failed, or some photos could not be used, 130 or 143
stopped by Ctrl-C or SIGTERM
"""

RESUMES = True

EXAMPLES = """\
examples:
  delf train photos/ --out my_model                  15 minutes, from the
                                                     embedded model
  delf train photos/ --out my_model --minutes 60
  delf train photos/ --out my_model --steps 2000     the same weights each time
  delf train photos/ --out my_model --labels labels.csv
  delf train photos/ --out my_model --labels none    folders are not classes
  delf train more/ --out better --from my_model
  delf train photos/ --out my_model --from scratch --minutes 600
  delf match a.jpg b.jpg --model my_model
  delf index photos/ --out my.index --model my_model

Where all photos lie in sub-folders, each folder is a class: one thing, place or
building. Classes teach the global descriptor (ArcFace); local features learn
from the photos without labels: from two views of one photo, and from photos of
one place that RootSIFT matches with certainty. `--labels none` is for folders
that mean something else, such as years.

Some photos are held out. The model is measured on them before and after, and
the better one is kept; MODEL_CARD.md in MODEL says which, with all settings and
figures, and curves.png and match_*.jpg show it. A few hundred photos are better
than ten, the fewest possible.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  from delf.inference import zoo
  from delf.learning.finetune import run as finetune

  start = (
    "folder of a model that this command made, a checkpoint (.npz), or scratch "
    f"(default: {zoo.EMBEDDED}, the embedded one)"
  )
  batch = (
    "pairs of views in a step, each of another place (default: 8, or fewer "
    "where there are fewer places)"
  )
  defaults = finetune.TrainOptions
  add_training(
    parser, "model", start, "3e-4; from scratch 1.5e-3", batch, defaults
  )


def add_training(
  parser: argparse.ArgumentParser,
  made: str,
  start: str,
  rate: str,
  batch: str,
  defaults: Any = None,
) -> None:
  """Add the arguments of a training.

  Args:
    made: "model" or "detector".
    start: Help of --from.
    rate: Default of --rate, for its help.
    batch: Help of --batch.
    defaults: TrainOptions whose `labels`, `view` and `size` have options too.
  """
  parser.epilog = f"{parser.epilog}{_STOPPED}"
  add = parser.add_argument
  help = "folder, quoted pattern, list (.txt) or photos"
  add("sources", nargs="+", metavar="PHOTOS", help=help)
  help = f"folder for the {made}"
  add("--out", required=True, metavar="MODEL", help=help)
  help = f"start of the training: {start}"
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
    help="time to learn (default: 15); reading and measuring come on top",
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


def run_training(
  function: Callable, args: argparse.Namespace, see: Callable
) -> int:
  """Train, and print the report; return the exit status.

  `function` trains; `see` is called with its report and the JSON document,
  which it may change.
  """
  from delf.learning.finetune import run as finetune

  try:
    report = arguments.call(function, args)
  except finetune.Stopped as stopped:
    print(f"delf: {stopped}", file=sys.stderr)
    return 128 + stopped.number
  for failure in report.failed:
    output.error(failure)
  document = report.as_dict() | {"out": os.path.abspath(report.out)}
  see(report, document)
  output.show(args, document, *report.lines)
  return report.exit_status


def run(args: argparse.Namespace) -> int:
  """Train, and print the report; return the exit status."""

  def see(report, document):
    for name, scores in report.scores.items():
      document["scores"][name]["overall"] = scores.overall()

  return run_training(delf.train, args, see)
