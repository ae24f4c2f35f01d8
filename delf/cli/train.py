"""`delf train`: a model of a user's own, from a folder of photos."""

import dataclasses
import os
import sys

from delf.cli import arguments, output

# Minutes to learn, where neither a time nor steps are given.
_MINUTES = 15.0


def add_photos(parser, made):
  """Adds the photos, and --out for the "model" or so that is made of them."""
  parser.add_argument(
    "sources",
    nargs="+",
    metavar="PHOTOS",
    help="folder, quoted pattern, list (.txt) or photos",
  )
  parser.add_argument(
    "--out", required=True, metavar="MODEL", help=f"folder of the {made} to be"
  )


def add_start(parser, default, words):
  """Adds --from: its default, and words for what it takes."""
  parser.add_argument(
    "--from",
    dest="start",
    default=default,
    metavar="MODEL",
    help=f"what to begin with: {words}",
  )


def add_budget(parser):
  """Adds --minutes and --steps, of which one may be given."""
  budget = parser.add_mutually_exclusive_group()
  budget.add_argument(
    "--minutes",
    type=arguments.positive,
    metavar="N",
    help=f"time to learn (default: {_MINUTES:g}); reading and measuring come "
    "on top",
  )
  budget.add_argument(
    "--steps",
    type=arguments.positive_whole,
    metavar="N",
    help="steps to learn, in place of a time",
  )


def add_rate(parser, default, words):
  """Adds --rate: its default, and words for it."""
  parser.add_argument(
    "--rate",
    type=arguments.positive,
    default=default,
    metavar="R",
    help=f"highest learning rate (default: {words})",
  )


def add_batch(parser, default, words):
  """Adds --batch: its default, and words for what is in a batch."""
  parser.add_argument(
    "--batch",
    type=arguments.positive_whole,
    default=default,
    metavar="N",
    help=words,
  )


def add_rest(parser, made):
  """Adds --overwrite, --rotate and --json, of a "model" or so."""
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help=f"replace a {made} at MODEL, and an unfinished one",
  )
  arguments.add_rotate(parser)
  arguments.add_json(parser)


def options(args):
  """Returns the run.TrainOptions that the arguments stand for."""
  from delf.learning.finetune import run as finetune

  given = {name: getattr(args, name) for name in _names(args)}
  if given["minutes"] is None and given["steps"] is None:
    given["minutes"] = _MINUTES
  return finetune.TrainOptions(**given)


def command(first, args):
  """Returns the command that does the same, as a list of str.

  Args:
    first: The command up to the photos.
    args: Parsed arguments; those that are defaults are left out.
  """
  from delf.learning.finetune import run as finetune

  parts = [*first, *args.sources, "--out", args.out]
  fields = dataclasses.fields(finetune.TrainOptions)
  defaults = {field.name: field.default for field in fields}
  for name in _names(args):
    value = getattr(args, name)
    if value == defaults[name]:
      continue
    parts.append("--from" if name == "start" else f"--{name}")
    if name != "rotate":
      parts.append(f"{value:g}" if name == "minutes" else str(value))
  return parts


def _names(args):
  """Returns the names of the options that there are arguments for."""
  from delf.learning.finetune import run as finetune

  names = (field.name for field in dataclasses.fields(finetune.TrainOptions))
  return [name for name in names if hasattr(args, name)]


def run_training(train, show):
  """Trains, and says what became of it.

  Args:
    train: Function that trains and returns a report with `failed` and
      `exit_status`.
    show: Function of the report that prints it.

  Returns:
    The exit status.
  """
  from delf.learning.finetune import run as finetune

  try:
    report = train()
  except finetune.Stopped as stopped:
    print(f"delf: {stopped}", file=sys.stderr)
    return 128 + stopped.number
  for failure in report.failed:
    output.error(failure)
  show(report)
  return report.exit_status


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
  from delf.inference import zoo
  from delf.learning.finetune import run as finetune

  defaults = finetune.TrainOptions
  parser.epilog = _EXAMPLES
  add_photos(parser, "model")
  add_start(
    parser,
    defaults.start,
    "folder of a model that this command made, a checkpoint (.npz), or scratch "
    f"(default: {zoo.EMBEDDED}, the embedded one)",
  )
  parser.add_argument(
    "--labels",
    default=defaults.labels,
    metavar="WHAT",
    help="folders, none, or a CSV file (rows: photo,class); default: folders, "
    "where all photos lie in sub-folders, else none",
  )
  add_budget(parser)
  add_rate(parser, defaults.rate, "3e-4; from scratch 1.5e-3")
  add_batch(
    parser,
    defaults.batch,
    "pairs of views in a step, each of another place (default: 8, or as many "
    "as there are places for)",
  )
  _add_sizes(parser, defaults)
  arguments.add_seed(parser)
  add_rest(parser, "model")


def _add_sizes(parser, defaults):
  parser.add_argument(
    "--view",
    type=arguments.positive_whole,
    default=defaults.view,
    metavar="PX",
    help="side of a view, a multiple of 8 from 64 on (default: "
    f"{defaults.view})",
  )
  parser.add_argument(
    "--size",
    type=arguments.positive_whole,
    default=defaults.size,
    metavar="PX",
    help=f"longer side that photos are scaled down to (default: "
    f"{defaults.size})",
  )


def run(args):
  """Trains, prints what it gave; returns the exit status."""
  from delf.learning.finetune import model

  return run_training(
    lambda: model.train(
      args.sources,
      args.out,
      options(args),
      args.overwrite,
      command(["delf", "train"], args),
    ),
    lambda report: _print(report, args.json),
  )


def _print(report, as_json):
  if not as_json:
    for line in report.lines:
      print(line)
    return
  found = report.as_dict()
  found["out"] = os.path.abspath(report.out)
  for name, scores in report.scores.items():
    found["scores"][name]["overall"] = scores.overall()
  output.print_json(found)
