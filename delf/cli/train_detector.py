"""`delf train-detector`: a detector of a user's own, from photos and boxes."""

import functools

from delf.cli import output, train

EXAMPLES = """\
examples:
  delf train-detector boxes.csv photos/ --out my_boxes
  delf train-detector boxes.csv photos/ --out my_boxes --minutes 60
  delf train-detector boxes.csv photos/ --out my_boxes --steps 2000
  delf train-detector boxes.csv photos/ --out my_boxes --from scratch
  delf train-detector more.csv more/ --out better --from my_boxes
  delf detect photos/ --detector my_boxes --out boxes/

BOXES.csv has a row for each box, below a line that names the columns: image_id
and box, where a box is four numbers with spaces between, "ymin xmin ymax xmax",
as in Google Landmark Boxes; or image_id,ymin,xmin,ymax,xmax. All are in [0, 1],
of the height and the width of the photo. image_id is the name of a photo, with
or without its folder and extension. Photos without a row are left out.

One photo in ten is held out. The detector is measured with them before and
after, beside the whole image and a box of median size in the middle, and the
better one is kept; MODEL_CARD.md in MODEL says which.
"""


def add_arguments(parser):
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


def run(args):
  """Train and print the report; return the exit status."""
  from delf.learning.finetune import detector

  def see(report, document):
    missing = report.details["missing"]
    if missing:
      output.warning(
        f"{len(missing)} names in the CSV file have no photo, such as "
        f"{missing[0]}"
      )

  first = ["delf", "train-detector", args.boxes]
  learn = functools.partial(detector.train, args.boxes)
  return train.run_training(first, args, learn, see)
