"""`delf detect`: boxes around the landmarks of many images."""

import os
import sys

from delf.cli import arguments, output

EXAMPLES = """\
examples:
  delf detect photo.jpg                           prints the boxes
  delf detect photos/ --pictures pictures/        draws them
  delf detect photos/ --out boxes/                writes <photo>.boxes files
  delf detect photos/ --out boxes/ --detector d2r_frcnn --threshold 0.8
  delf detect photos/ --out boxes/ --detector my_saved_model/ --json

A box is printed with its score and its left, upper, right and lower edge in
pixels of the photo, the best first. Files hold shares of the photo.
With --out or --pictures, a run that was interrupted goes on where it was when
it is repeated: what is there already is neither made nor printed again. Files
of another detector or threshold are refused, but with --overwrite.
Images that fail are named at the end, and the exit status is then 1.
"""

_THRESHOLD = 0.3  # Of a box that is more likely right than wrong.


def add_arguments(parser):
  """Add the arguments of this command."""
  arguments.add_images(parser, "PHOTOS")
  add = parser.add_argument
  add("--out", metavar="DIR", help="folder for the boxes (default: print them)")
  add("--pictures", metavar="DIR", help="folder for pictures with the boxes")
  help = (
    "known detector (`delf models`) or folder of a SavedModel (default: "
    "delf-boxes, the embedded one)"
  )
  add("--detector", default="delf-boxes", metavar="NAME|PATH", help=help)
  help = f"least score of a box (default: {_THRESHOLD})"
  kind = {"type": arguments.finite, "default": _THRESHOLD, "metavar": "SCORE"}
  add("--threshold", **kind, help=help)
  help = (
    "drop boxes that overlap a better one by more, from 0 to 1 (default: "
    "keep all that the detector gives)"
  )
  add("--overlap", type=arguments.share, metavar="IOU", help=help)
  arguments.add(parser, "--max-size")
  arguments.add_work(parser)


def run(args):
  """Detect, print boxes or a summary; returns the exit status."""
  from delf.extraction import detect, engine

  images, names = engine.find(args.images)
  documents = []

  def see(job, detections, size):
    rows = _rows(detections, size)
    if args.json:
      documents.append({"path": job.path, "boxes": rows})
    else:
      _print_boxes(job.path, rows)

  report = detect.detect_to_files(
    images,
    args.detector,
    args.out,
    args.pictures,
    say=output.error,
    names=names,
    threshold=args.threshold,
    most_overlap=args.overlap,
    max_size=args.max_size,
    see=None if args.out else see,
    **arguments.work(args),
  )
  if not (args.out or args.json):
    print(report.summary(), file=sys.stderr)
    return report.exit_status
  folders = {
    name: os.path.abspath(folder) if folder else None
    for name, folder in arguments.pick(args, "out", "pictures").items()
  }
  tail = {} if args.out else {"images": documents}
  return output.print_report(args, report, folders, tail)


def _rows(detections, size):
  """Boxes of an image in pixels, the best first."""
  from delf.base import boxes

  rows = [
    {"score": score, "class": kind, "box": [left, upper, right, lower]}
    for score, kind, (upper, left, lower, right) in zip(
      detections.scores.tolist(),
      detections.classes.tolist(),
      boxes.to_pixels(detections.boxes, *size).round(1).tolist(),
      strict=True,
    )
  ]
  return sorted(rows, key=lambda row: -row["score"])


def _print_boxes(path, rows):
  from delf.base import progress

  progress.say(f"{path}: {len(rows)} box{'' if len(rows) == 1 else 'es'}")
  for row in rows:
    edges = ",".join(f"{edge:.0f}" for edge in row["box"])
    progress.say(f"  {row['score']:.3f}  {edges}")
