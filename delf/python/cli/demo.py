"""`delf demo`: two sample photos, matched from end to end."""

import os

from delf.python.cli import arguments, json_output

_EXAMPLES = """\
examples:
  delf demo                       into demo_output/
  delf demo --out /tmp/demo       into another folder
  delf demo --json

No network is needed: the photos come with scikit-image, the model with delf.
"""


def add_arguments(parser):
  """Adds the arguments of this command to an `argparse` parser."""
  parser.epilog = _EXAMPLES
  parser.add_argument(
    "--out",
    default="demo_output",
    metavar="DIR",
    help="folder for photos, features and picture (default: demo_output)",
  )
  arguments.add_model(parser, "the embedded one")
  arguments.add_device(parser)
  arguments.add_json(parser)


def run(args):
  """Runs the demonstration, prints what it made; returns the exit status."""
  from delf.python.pipelines import demo

  report = demo.run(args.out, model=args.model, device=args.device)
  if args.json:
    json_output.print_json(_as_dict(report))
  else:
    _print(report)
  return 0 if report.as_expected else 1


def _print(report):
  same, different = report.same, report.different
  print(f"photos:    {', '.join(str(photo) for photo in report.photos)}")
  print(f"features:  {', '.join(str(path) for path in report.features)}")
  print(f"           {report.extraction.summary()}")
  print(f"one scene: {_verdict(same)}")
  print(f"unrelated: {_verdict(different)}")
  print(f"picture:   {os.path.abspath(same.picture)}")
  print(
    "           the two photos of one scene side by side; a line joins what\n"
    "           looks alike and agrees with the other lines"
  )
  if not report.as_expected:
    print("This is not as it should be; see `delf doctor`.")


def _verdict(result):
  verdict = "match" if result.is_match else "no match"
  needed = result.match.min_inliers
  return f"{verdict}, {result.score} inliers ({needed} make a match)"


def _as_dict(report):
  def score(result):
    return {
      "score": result.score,
      "is_match": result.is_match,
      "min_inliers": result.match.min_inliers,
    }

  return {
    "as_expected": report.as_expected,
    "photos": [os.path.abspath(path) for path in report.photos],
    "features": [os.path.abspath(path) for path in report.features],
    "picture": os.path.abspath(report.same.picture),
    "same": score(report.same),
    "different": score(report.different),
    "seconds": report.extraction.seconds,
    "device": report.extraction.device,
  }
