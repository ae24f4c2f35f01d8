"""`delf demo`: two sample photos, matched from end to end."""

import argparse
import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING

import delf
from delf.base import files
from delf.cli import arguments, output

EXAMPLES = """\
examples:
  delf demo                       into demo_output/
  delf demo --out /tmp/demo       into another folder
  delf demo --json

No network is needed: the photos come with scikit-image, the model with delf.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  help = "folder for photos, features and picture (default: demo_output)"
  parser.add_argument("--out", default="demo_output", metavar="DIR", help=help)
  arguments.add_model(parser, "the embedded one")
  arguments.add(parser, "--device", "--json")


def run(args: argparse.Namespace) -> int:
  """Run the demonstration, and print its results; return the exit status."""
  report = run_demo(args.out, model=args.model, device=args.device)
  lines = [
    f"photos:    {', '.join(map(str, report.photos))}",
    f"features:  {', '.join(map(str, report.features))}",
    f"           {report.extraction.summary()}",
    f"one scene: {_verdict(report.same)}",
    f"unrelated: {_verdict(report.different)}",
    f"picture:   {os.path.abspath(report.same.picture or '')}",
    "           the two photos of one scene side by side; lines join points",
    "           that look alike and agree with one map between the photos",
  ]
  if not report.as_expected:
    lines.append("This is not the expected result; see `delf doctor`.")
  output.show(args, _document(report), *lines)
  return 0 if report.as_expected else 1


if TYPE_CHECKING:
  from delf.extraction import engine


@dataclasses.dataclass(frozen=True)
class DemoReport:
  """Result of the demonstration."""

  photos: tuple[pathlib.Path, ...]  # Two of one scene, and an unrelated one.
  features: tuple[pathlib.Path, ...]  # Their `.delf` files.
  same: "delf.Match"  # Of the two of one scene, with a picture.
  different: "delf.Match"  # Of the first and the unrelated photo.
  extraction: "engine.ImageReport"

  @property
  def as_expected(self) -> bool:
    """Whether the same scene matches and the other one does not."""
    return self.same.is_match and not self.different.is_match


def run_demo(
  folder: str | os.PathLike,
  model: str | None = None,
  device: str | None = None,
) -> DemoReport:
  """Write sample photos, extract their features, match and draw them.

  Files of an earlier run in the folder are replaced.
  """
  from delf.embedded import samples
  from delf.extraction import extract
  from delf.inference import zoo

  folder = pathlib.Path(folder)
  # Nothing is written for a model that does not exist.
  config = zoo.choose(model)
  zoo.resolve(config.model_path)
  photos = samples.sample_photos(folder / "photos")
  out = folder / "features"
  report = extract.extract_to_files(
    photos, config, out, resume=False, strict=True, device=device
  )
  features = tuple(out / f"{photo.stem}{files.DELF}" for photo in photos)
  same = delf.match(
    *features[:2], images=photos[:2], out=folder / "matches.png"
  )
  different = delf.match(features[0], features[2])
  return DemoReport(photos, features, same, different, report)


def _verdict(match):
  verdict = "match" if match.is_match else "no match"
  return f"{verdict}, {match.score} inliers ({match.min_inliers} make a match)"


def _document(report):
  def score(match):
    names = "score", "is_match", "min_inliers"
    return {name: getattr(match, name) for name in names}

  return {
    "as_expected": report.as_expected,
    "photos": list(map(os.path.abspath, report.photos)),
    "features": list(map(os.path.abspath, report.features)),
    "picture": os.path.abspath(report.same.picture or ""),
    "same": score(report.same),
    "different": score(report.different),
    "seconds": report.extraction.seconds,
    "device": report.extraction.device,
  }
