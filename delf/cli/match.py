"""`delf match`: two images, a score and a picture."""

import os

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
one map between the images. How many make a match depends on how many agree by
chance, which is measured; --min-inliers sets it. The exit status is 0 whether
the images match or not.
"""

_FEATURES = (".delf", ".delg_local")


def add_arguments(parser):
  """Add the arguments of this command."""
  add = parser.add_argument
  add("first", metavar="A", help="image, or its .delf file")
  add("second", metavar="B", help="image, or its .delf file")
  arguments.add_model(parser)
  arguments.add(parser, "--config", "--max-size", "--rotate", "--device")
  add(
    "--estimator",
    choices=("affine", "homography", "fundamental"),
    default="affine",
    help="kind of map that matches agree with (default: affine)",
  )
  help = "keep matches nearer than R times the second nearest"
  add("--ratio", type=arguments.positive, metavar="R", help=help)
  help = "keep matches of descriptors nearer than D"
  add("--distance", type=arguments.positive, metavar="D", help=help)
  help = "do not ask that matches be nearest both ways"
  add("--one-way", action="store_true", help=help)
  help = (
    "most pixels that an inlier is off (default: 20 for affine, 10 for "
    "homography, 3 for fundamental)"
  )
  add("--threshold", type=arguments.positive, metavar="PX", help=help)
  help = "inliers that make a match (default: more than chance explains)"
  arguments.add_number(parser, "--min-inliers", help)
  arguments.add(parser, "--seed")
  help = "picture: .png, .jpg, .pdf, ... (default: matches.png)"
  add("--out", default="matches.png", metavar="FILE", help=help)
  add("--no-picture", action="store_true", help="write no picture")
  help = "images of two .delf files, for the picture"
  add("--images", nargs=2, metavar=("A", "B"), help=help)
  arguments.add(parser, "--json")


def run(args):
  """Match and print."""
  result = _match(args)
  one, two = result.features
  verdict = "match" if result.match.is_match else "no match"
  steps = ", ".join(f"{k} {v:.2f} s" for k, v in result.timings.items())
  lines = [
    f"score:     {result.match.score} inliers",
    f"verdict:   {verdict} ({result.match.min_inliers} make a match)",
    f"features:  {len(one)} and {len(two)}",
    f"putative:  {len(result.match.putative)} matches by descriptor",
    f"time:      {steps}{f' on {result.device}' if result.device else ''}",
  ]
  if result.picture:
    lines.append(f"picture:   {result.picture}")
  output.show(args, _as_dict(args, result), *lines)


def _match(args):
  from delf.matching import matcher

  how = {
    "output": None if args.no_picture else args.out,
    "options": matcher.MatchOptions(
      **arguments.pick(args, "ratio", "estimator", "seed", "min_inliers"),
      max_distance=args.distance,
      mutual=not args.one_way,
      residual_threshold=args.threshold,
    ),
    "apply_rotation": args.rotate,
  }
  paths = args.first, args.second
  are_features = [path.lower().endswith(_FEATURES) for path in paths]
  if all(are_features):
    _refuse_unused(args)
    return matcher.match_feature_files(*paths, args.images, **how)
  if any(are_features) or args.images:
    raise errors.InputError(
      "two images, or two .delf files (--images goes with these)",
      " and ".join(paths),
    )
  from delf.inference import zoo

  config = zoo.choose(args.model, args.config)
  if args.max_size:
    config.max_image_size = args.max_size
  return matcher.match_images(*paths, config, device=args.device, **how)


def _refuse_unused(args):
  """Refuse options that say nothing about two files of features."""
  unused = [
    f"--{name.replace('_', '-')}"
    for name in ("model", "config", "max_size", "device")
    if getattr(args, name) is not None
  ]
  if args.images and args.no_picture:
    unused.append("--images with --no-picture")
  if args.rotate and not args.images:
    unused.append("--rotate without --images")
  if unused:
    expected = "only options that two .delf files have a use for"
    raise errors.InputError(expected, ", ".join(unused))


def _as_dict(args, result):
  """What is printed as JSON."""
  match = result.match
  return {
    "images": [args.first, args.second],
    "score": match.score,
    "is_match": match.is_match,
    "min_inliers": match.min_inliers,
    "features": [len(each) for each in result.features],
    "putative": len(match.putative),
    "estimator": args.estimator,
    "residual_threshold": match.residual_threshold,
    "model": None if match.model is None else match.model.tolist(),
    "inliers": match.inliers.tolist(),
    "picture": result.picture and os.path.abspath(result.picture),
    "device": result.device,
    "seconds": result.timings,
  }
