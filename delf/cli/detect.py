"""`delf detect`: boxes around the landmarks of many images."""

import dataclasses
import os
import sys

from delf.cli import arguments, output

_EXAMPLES = """\
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

# Of a box that is more likely right than wrong.
_THRESHOLD = 0.3


def add_arguments(parser):
  """Adds the arguments of this command to an `argparse` parser."""
  parser.epilog = _EXAMPLES
  parser.add_argument(
    "images",
    nargs="+",
    metavar="PHOTOS",
    help="folder (searched with its sub-folders), quoted pattern, image, or "
    "text file of image paths",
  )
  parser.add_argument(
    "--out", metavar="DIR", help="folder for the boxes (default: print them)"
  )
  parser.add_argument(
    "--pictures", metavar="DIR", help="folder for pictures with the boxes"
  )
  parser.add_argument(
    "--detector",
    default="delf-boxes",
    metavar="NAME|PATH",
    help="known detector (`delf models`) or folder of a SavedModel (default: "
    "delf-boxes, the embedded one)",
  )
  parser.add_argument(
    "--threshold",
    type=arguments.finite,
    default=_THRESHOLD,
    metavar="SCORE",
    help=f"least score of a box (default: {_THRESHOLD})",
  )
  parser.add_argument(
    "--overlap",
    type=arguments.share,
    metavar="IOU",
    help="drop boxes that overlap a better one by more, from 0 to 1 (default: "
    "keep all that the detector gives)",
  )
  arguments.add_max_size(parser)
  arguments.add_rotate(parser)
  arguments.add_work(parser)


def run(args):
  """Detects, prints what was found or a summary; returns the exit status."""
  from delf.extraction import detect, jobs

  images, names = jobs.find(args.images)
  found = []
  report = detect.detect_and_say(
    images,
    args.detector,
    args.out,
    args.pictures,
    output.error,
    names=names,
    threshold=args.threshold,
    most_overlap=args.overlap,
    max_size=args.max_size,
    see=None if args.out else _collect(args, found),
    **arguments.work(args),
  )
  if args.json:
    document = {
      name: os.path.abspath(folder) if folder else None
      for name, folder in (("out", args.out), ("pictures", args.pictures))
    }
    document |= dataclasses.asdict(report)
    output.print_json(document | ({} if args.out else {"images": found}))
  elif args.out:
    print(f"{args.out}: {report.summary()}")
  else:
    print(report.summary(), file=sys.stderr)
  return report.exit_status


def _collect(args, found):
  """Returns a function that prints the boxes of an image, or keeps them."""
  from delf.base import boxes, progress

  def see(job, detections, size):
    pixels = boxes.to_pixels(detections.boxes, *size).round(1)
    rows = [
      {"score": score, "class": kind, "box": [left, upper, right, lower]}
      for score, kind, (upper, left, lower, right) in zip(
        detections.scores.tolist(),
        detections.classes.tolist(),
        pixels.tolist(),
        strict=True,
      )
    ]
    rows.sort(key=lambda row: -row["score"])
    if args.json:
      found.append({"path": job.path, "boxes": rows})
      return
    progress.say(f"{job.path}: {len(rows)} box{'' if len(rows) == 1 else 'es'}")
    for row in rows:
      edges = ",".join(f"{edge:.0f}" for edge in row["box"])
      progress.say(f"  {row['score']:.3f}  {edges}")

  return see
