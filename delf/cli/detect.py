"""`delf detect`: boxes around the landmarks of many photos."""

import argparse
import os
import sys

import delf
from delf.base import errors
from delf.cli import arguments, output

EXAMPLES = """\
examples:
  delf detect photo.jpg                           prints the boxes
  delf detect photos/ --pictures pictures/        draws them
  delf detect photos/ --out boxes/                writes <photo>.boxes files
  delf detect photos/ --out boxes/ --detector d2r_frcnn --threshold 0.8
  delf detect photos/ --out boxes/ --detector my_saved_model/ --json

A box is printed with its score and its left, upper, right and lower edge in
pixels of the photo, the best first. Files hold coordinates from 0 to 1.
With --out or --pictures, an interrupted run resumes when it is repeated: photos
that are done are skipped, and not printed. A folder with boxes of another
detector or threshold is refused, unless --overwrite is given.
Photos that fail are listed at the end, and the exit status is then 1.
"""

RESUMES = True
_THRESHOLD = 0.3  # Of a box that is more likely right than wrong.


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  arguments.add_photos(parser)
  add = parser.add_argument
  add("--out", metavar="DIR", help="folder for the boxes (default: print them)")
  add("--pictures", metavar="DIR", help="folder for pictures with the boxes")
  help = (
    "known detector (`delf models`) or folder of a SavedModel (default: "
    "delf-boxes, the embedded one)"
  )
  add("--detector", default="delf-boxes", metavar="NAME|PATH", help=help)
  help = f"least score of a box (default: {_THRESHOLD})"
  add(
    "--threshold",
    type=arguments.finite,
    default=_THRESHOLD,
    metavar="SCORE",
    help=help,
  )
  help = (
    "drop boxes whose overlap (IoU) with a better one is larger, from 0 to 1 "
    "(default: keep all of the detector)"
  )
  add("--overlap", type=arguments.share, metavar="IOU", help=help)
  arguments.add(parser, "--max-size")
  arguments.add_work(parser)


def run(args: argparse.Namespace) -> int:
  """Detect, and print boxes or a summary; return the exit status."""
  see = None if args.out or args.json else _print_boxes
  try:
    report = arguments.call(delf.detect, args, say=output.error, see=see)
  except errors.Interrupted as interrupted:
    report = interrupted.report
  if not (args.out or args.json):
    print(report.summary(), file=sys.stderr)
    return report.exit_status
  folders = {
    name: os.path.abspath(folder) if folder else None
    for name, folder in arguments.pick(args, "out", "pictures").items()
  }
  photos = [{"path": p.path, "boxes": _rows(p)} for p in report.photos]
  tail = {} if args.out else {"images": photos}
  return output.print_report(args, report, folders, tail)


def _rows(photo):
  """Boxes of a photo in pixels, the best first."""
  return [
    {"score": score, "class": kind, "box": box}
    for score, kind, box in zip(
      photo.scores.tolist(),
      photo.classes.tolist(),
      photo.boxes.round(1).tolist(),
      strict=True,
    )
  ]


def _print_boxes(photo):
  from delf.base import progress

  number = len(photo)
  progress.say(f"{photo.path}: {number} box{'' if number == 1 else 'es'}")
  for row in _rows(photo):
    edges = ",".join(f"{edge:.0f}" for edge in row["box"])
    progress.say(f"  {row['score']:.3f}  {edges}")
