"""`delf match`: two photos, a score and a picture."""

import argparse

import delf
from delf.base import errors
from delf.cli import arguments, output

EXAMPLES = """\
examples:
  delf match a.jpg b.jpg                        score, and matches.png
  delf match a.jpg b.jpg --out pairs/ab.jpg     a picture of that name
  delf match a.jpg b.jpg --model r50delg_gldv2clean --max-size 1024
  delf match a.jpg b.jpg --estimator homography --ratio 0.9
  delf match a.delf b.delf --images a.jpg b.jpg
  delf match a.jpg b.jpg --no-picture --json | jq .score

The score is the number of inliers: matches of local features that agree with
one map between the photos. The number that makes a match is estimated from the
matches that agree by chance; --min-inliers sets it. The exit status is 0
whether the photos match or not.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  add = parser.add_argument
  add("first", metavar="A", help="photo, or its .delf file")
  add("second", metavar="B", help="photo, or its .delf file")
  arguments.add_model(parser)
  arguments.add(parser, "--config", "--max-size", "--rotate", "--device")
  add(
    "--estimator",
    choices=("affine", "homography", "fundamental"),
    default="affine",
    help="kind of map between the photos (default: affine)",
  )
  help = "keep matches nearer than R times the second nearest"
  add("--ratio", type=arguments.positive, metavar="R", help=help)
  help = "keep matches of descriptors nearer than D"
  add("--distance", type=arguments.positive, metavar="D", help=help)
  help = "keep matches that are nearest one way only, as in the papers"
  add("--one-way", action="store_true", help=help)
  help = (
    "largest residual of an inlier in pixels (default: 20 for affine, 10 for "
    "homography, 3 for fundamental)"
  )
  add("--threshold", type=arguments.positive, metavar="PX", help=help)
  help = "inliers that make a match (default: more than by chance)"
  arguments.add_number(parser, "--min-inliers", help)
  arguments.add(parser, "--seed")
  help = "picture: .png, .jpg, .pdf, ... (default: matches.png)"
  add("--out", default="matches.png", metavar="FILE", help=help)
  add("--no-picture", action="store_true", help="write no picture")
  help = "photos of two .delf files, for the picture"
  add("--images", nargs=2, metavar=("A", "B"), help=help)
  arguments.add(parser, "--json")


def run(args: argparse.Namespace) -> None:
  """Match, and print the result."""
  out = None if args.no_picture else args.out
  if args.images and args.no_picture:
    raise errors.InputError("--images and --no-picture exclude each other")
  match = arguments.call(delf.match, args, out=out)
  one, two = (each.local for each in match.features)
  steps = ", ".join(f"{k} {v:.2f} s" for k, v in match.seconds.items())
  lines = [
    f"score:     {match.score} inliers",
    f"verdict:   {'match' if match.is_match else 'no match'}"
    f" ({match.min_inliers} make a match)",
    f"features:  {len(one)} and {len(two)}",
    f"putative:  {len(match.putative)} matches by descriptor",
    f"time:      {steps}{f' on {match.device}' if match.device else ''}",
  ]
  if match.picture:
    lines.append(f"picture:   {match.picture}")
  document = match.to_dict() | {"images": [args.first, args.second]}
  output.show(args, document, *lines)
