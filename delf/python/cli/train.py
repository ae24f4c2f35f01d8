"""`delf train`: a model of a user's own, from a folder of photos."""

import os

from delf.python.cli import arguments, json_output, training

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
  from delf.python.pipelines.train import options

  defaults = options.TrainOptions
  parser.epilog = _EXAMPLES
  training.add_photos(parser, "model")
  training.add_start(
    parser,
    defaults.start,
    "folder of a model that this command made, a checkpoint (.npz), or scratch "
    f"(default: {defaults.start}, the embedded one)",
  )
  parser.add_argument(
    "--labels",
    default=defaults.labels,
    metavar="WHAT",
    help="folders, none, or a CSV file (rows: photo,class); default: folders, "
    "where all photos lie in sub-folders, else none",
  )
  training.add_budget(parser)
  training.add_rate(parser, defaults.rate, "3e-4; from scratch 1.5e-3")
  training.add_batch(
    parser,
    defaults.batch,
    "pairs of views in a step, each of another place (default: 8, or as many "
    "as there are places for)",
  )
  _add_sizes(parser, defaults)
  arguments.add_seed(parser)
  training.add_rest(parser, "model")


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
  from delf.python.pipelines.train import options
  from delf.python.pipelines.train import run as pipeline

  kind = options.TrainOptions
  return training.run(
    lambda: pipeline.train(
      args.sources,
      args.out,
      training.told(args, kind),
      args.overwrite,
      training.command(["delf", "train"], args, kind),
    ),
    lambda report: _print(report, args.json),
  )


def _print(report, as_json):
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
