"""`delf demo`: two sample photos, matched from end to end."""

import dataclasses
import os
import pathlib

from delf.base import files
from delf.cli import arguments, output
from delf.embedded import samples

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
  report = run_demo(args.out, model=args.model, device=args.device)
  if args.json:
    output.print_json(_as_dict(report))
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


PICTURE = "matches.png"


@dataclasses.dataclass(frozen=True)
class DemoReport:
  """What the demonstration made.

  Attributes:
    photos: samples.SamplePhotos, below `<folder>/photos`.
    features: Paths of the photos' `.delf` files, in that order.
    same: match.MatchResult of the two photos of one scene; `same.picture` is
      the path of the picture.
    different: match.MatchResult of the first and the unrelated photo.
    extraction: extract_report.ExtractReport.
  """

  photos: samples.SamplePhotos
  features: tuple[pathlib.Path, ...]
  same: object
  different: object
  extraction: object

  @property
  def as_expected(self):
    """Whether the same scene matches and the other one does not."""
    return self.same.is_match and not self.different.is_match


def run_demo(folder, model=None, device=None):
  """Writes sample photos, extracts their features, matches and draws them.

  Args:
    folder: Path of a folder, made if need be. What an earlier run left there
      is written anew.
    model: Name of a known model, or path of a SavedModel folder with
      `config.pbtxt`, or None for the embedded one.
    device: Device such as "cpu" or "gpu:1", or None for the best there is.

  Returns:
    DemoReport.

  Raises:
    InputError: If the model does not work.
    OSError: If files cannot be written.
  """
  from delf.extraction import extract
  from delf.inference import zoo
  from delf.matching import pairs

  folder = pathlib.Path(folder)
  # First what may be wrong: nothing is written for a model that is not there.
  config = zoo.choose(model)
  zoo.resolve(config.model_path)
  photos = samples.write_photos(folder / "photos")
  report = extract.extract_to_files(
    photos,
    config,
    folder / "features",
    resume=False,
    strict=True,
    device=device,
  )
  features = tuple(
    folder / "features" / f"{photo.stem}{files.DELF}" for photo in photos
  )
  same = pairs.match_feature_files(
    *features[:2], photos[:2], output=folder / PICTURE
  )
  different = pairs.match_feature_files(features[0], features[2])
  return DemoReport(photos, features, same, different, report)
