"""What the commands that train a model of one's own have in common."""

import dataclasses
import sys

from delf.python.cli import arguments, say

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


def told(args, kind):
  """Returns the options that the arguments stand for.

  Args:
    args: What `argparse` found, under the names of the options.
    kind: Dataclass of options, of which those without an argument keep their
      defaults.
  """
  given = {name: getattr(args, name) for name in _names(args, kind)}
  if given["minutes"] is None and given["steps"] is None:
    given["minutes"] = _MINUTES
  return kind(**given)


def command(words, args, kind):
  """Returns the words of a command that does the same.

  Args:
    words: The first words, up to the photos.
    args: What `argparse` found.
    kind: As of `told`; what has its default is left out.
  """
  words = [*words, *args.sources, "--out", args.out]
  defaults = {field.name: field.default for field in dataclasses.fields(kind)}
  defaults["minutes"] = None
  for name in _names(args, kind):
    value = getattr(args, name)
    if value == defaults[name]:
      continue
    words.append("--from" if name == "start" else f"--{name}")
    if name != "rotate":
      words.append(f"{value:g}" if name == "minutes" else str(value))
  return words


def _names(args, kind):
  """Returns the names of the options that there are arguments for."""
  names = (field.name for field in dataclasses.fields(kind))
  return [name for name in names if hasattr(args, name)]


def run(train, show):
  """Trains, and says what became of it.

  Args:
    train: Function that trains and returns a report with `failed` and
      `exit_status`.
    show: Function of the report that prints it.

  Returns:
    The exit status.
  """
  from delf.python.pipelines.train import learning

  try:
    report = train()
  except learning.Stopped as stopped:
    print(f"delf: {stopped}", file=sys.stderr)
    return 128 + stopped.number
  for failure in report.failed:
    say.error(failure)
  show(report)
  return report.exit_status
