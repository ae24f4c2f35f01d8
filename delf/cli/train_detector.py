"""`delf train-detector`: a detector trained on your own photos and boxes."""

import argparse

import delf
from delf.cli import output, train

EXAMPLES = """\
examples:
  delf train-detector boxes.csv photos/ --out my_boxes
  delf train-detector boxes.csv photos/ --out my_boxes --minutes 60
  delf train-detector boxes.csv photos/ --out my_boxes --steps 2000
  delf train-detector boxes.csv photos/ --out my_boxes --from scratch
  delf train-detector more.csv more/ --out better --from my_boxes
  delf detect photos/ --detector my_boxes --out boxes/

BOXES.csv has a header and a row for each box, with the columns image_id and
box, four numbers "ymin xmin ymax xmax" separated by spaces, as in Google
Landmark Boxes; or image_id,ymin,xmin,ymax,xmax. Coordinates are from 0 to 1, of
the height and the width of the photo. image_id is the name of a photo, with or
without its folder and extension. Photos without a row are left out.

One photo in ten is held out. The detector is measured on them before and after,
and compared with the whole image and a box of median size in the middle; the
better one is kept, and MODEL_CARD.md in MODEL says which.
"""

RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  from delf.inference import zoo
  from delf.learning.finetune import detector

  parser.add_argument("boxes", metavar="BOXES.csv", help="file of boxes")
  start = (
    "a detector that this command made, or scratch (default: "
    f"{zoo.EMBEDDED_DETECTOR}, the embedded one, whose backbone scratch has "
    "too)"
  )
  batch = f"views in a step (default: {detector.BATCH})"
  train.add_training(parser, "detector", start, f"{detector.RATE:g}", batch)


def run(args: argparse.Namespace) -> int:
  """Train, and print the report; return the exit status."""

  def see(report, document):
    missing = report.details["missing"]
    if missing:
      output.warning(
        f"{len(missing)} names in the CSV file have no photo, such as "
        f"{missing[0]}"
      )

  return train.run_training(delf.train_detector, args, see)
