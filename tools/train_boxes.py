"""Trains the embedded detector on a CPU."""

import csv
import dataclasses
import hashlib
import json
import pathlib
import sys

if __name__ == "__main__":  # Run by its path, from anywhere.
  sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np
from absl import logging

from delf.base import errors
from tools import photo_sets

_HELP = """\
Trains a landmark detector on folders of photos, with boxes that were drawn by
hand (drawn_boxes.csv beside this module) and objects pasted at known places.
The backbone starts as that of the compact model. An interrupted run resumes
from its checkpoint in --out. At the end, the detector is measured on held-out
photos and written as a SavedModel.

  python -m tools.train_boxes \\
      --photos photos_a photos_b --out run --minutes 15 \\
      --export run/delf-boxes

Each folder of photos holds train.csv (id, url, landmark_id; url is the path
under images/) and optionally groups.json. Photos without a line in
drawn_boxes.csv are left out.
"""

# Boxes of photos of `train_pool` and `train_pool_more`.
DRAWN = pathlib.Path(__file__).with_name("drawn_boxes.csv")
_SIDES = ("ymin", "xmin", "ymax", "xmax")

_SAVE_SECONDS = 60.0
_VIEWS = 200  # Views of held-out photos to measure, of each kind.


def add_arguments(parser):
  """Add the flags to an argparse parser."""
  photo_sets.add_arguments(parser)
  parser.add_argument("--minutes", type=float, default=15)
  parser.add_argument("--rate", type=float, default=2e-3)
  parser.add_argument(
    "--backbone-rate", type=float, default=3e-4, help="0 freezes the backbone"
  )
  parser.add_argument("--views", type=int, default=16, help="per batch")
  parser.add_argument(
    "--pasted", type=float, default=0.25, help="share of pasted views"
  )
  parser.add_argument("--threads", type=int, default=2)


def run(args):
  """Train the detector; see the flags."""
  import keras

  from delf.learning import detector_network, detector_training, loop

  keras.utils.set_random_seed(args.seed)
  args.out.mkdir(parents=True, exist_ok=True)
  known, held_out = _photos(args.photos)
  if args.bfloat16:
    # The policy applies to layers created from here on.
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
  detector = detector_network.Detector(_embedded_backbone())
  options = detector_training.Options(
    number=args.views, pasted=args.pasted, seed=args.seed
  )
  learner = detector_training.DetectorTrainer(
    detector,
    args.rate,
    args.backbone_rate,
    lambda step: detector_training.batch(known, options, step),
    args.out / "detector.npz",
  )
  budget = loop.Budget(seconds=60 * args.minutes)
  live = loop.Live(budget, every=50)
  save = loop.Every(seconds=_SAVE_SECONDS)
  stopped = loop.run(learner, budget, [live], save)
  if stopped is not None:
    return
  keras.mixed_precision.set_global_policy("float32")
  detector = copied(detector)
  record = report(detector, known, held_out)
  record |= {"steps": learner.step, "seconds": round(learner.seconds)}
  if args.export:
    # The model card is written by hand, so keep it.
    kept = [(p.name, p.read_bytes()) for p in args.export.glob("*.md")]
    kept.append(("training.json", json.dumps(record, indent=2).encode()))
    detector_network.export(detector, args.export, overwrite=True, extra=kept)
    print(f"wrote {args.export}")


def drawn(photos, path=DRAWN):
  """Return the detector_training.BoxedPhoto of photos with drawn boxes.

  Args:
    photos: list of view_pairs.Photo.
    path: pathlib.Path of a CSV file with the columns photo (`key` of its name),
      kind, and ymin, xmin, ymax, xmax in [0, 1]. Kinds are "whole" and "part"
      for landmarks, "other" for people, animals, vehicles and so on, and "none"
      for a photo without boxes. Boxes of all kinds are used.

  Raises:
    InputError: If no photo has a line.
  """
  from delf.learning import detector_training

  listed = {}
  with path.open(newline="") as lines:
    for row in csv.DictReader(lines):
      boxes = listed.setdefault(row["photo"], [])
      if row["kind"] != "none":
        boxes.append([float(row[side]) for side in _SIDES])
  known = [
    detector_training.BoxedPhoto(
      photo.image,
      np.float32(listed[key(photo.name)]).reshape(-1, 4),
      photo.pool,
    )
    for photo in photos
    if key(photo.name) in listed
  ]
  if not known:
    message = f"none of {len(photos)} photos has drawn boxes"
    raise errors.InputError(message, path=path)
  return known


def key(name):
  """Return the key of a photo name in the file of drawn boxes."""
  return hashlib.sha256(name.encode()).hexdigest()[:12]


def report(detector, known, held_out):
  """Measure a detector on held-out photos and views of them.

  Args:
    detector: detector_network.Detector.
    known: list of detector_training.BoxedPhoto that it was trained on.
    held_out: list of detector_training.BoxedPhoto.

  Returns:
    dict for JSON: `median_size` (height, width) of the boxes, and scores by
    kind of view and name.
  """
  from delf.learning import detector_network, detector_training

  find = detector_network.finder(detector)
  learnt = [each.boxes for each in known]
  record = {"median_size": detector_training.median_size(learnt).tolist()}
  for kind, views in _views(held_out).items():
    for name, scores in detector_training.compare(find, learnt, views).items():
      logging.info("held-out %s, %s: %s", kind, name, scores)
      values = dataclasses.asdict(scores)
      record.setdefault(f"held out, {kind}", {})[name] = {
        key: round(value, 4) for key, value in values.items()
      }
  return record


def _views(held_out):
  """Return lists of (photo, true boxes) by kind of view."""
  from delf.learning import detector_training

  views = {"photos": [(each.image, each.boxes) for each in held_out]}
  for kind, pasted in (("windows", 0.0), ("pasted", 1.0)):
    options = detector_training.Options(_VIEWS, pasted, seed=1)
    batch = detector_training.batch(held_out, options, 0)
    views[kind] = [
      (image, boxes[boxes.any(1)])
      for image, boxes in zip(batch.images, batch.boxes, strict=True)
    ]
  return views


def copied(detector):
  """Return a copy of a detector whose layers have the current policy."""
  from delf.learning import detector_network

  made = detector_network.Detector()
  made.backbone.set_weights(detector.backbone.get_weights())
  made.head.set_weights(detector.head.get_weights())
  return made


def _embedded_backbone():
  from delf.inference import zoo
  from delf.learning import compact_model

  model = compact_model.create()
  compact_model.load(model, zoo.resolve(zoo.EMBEDDED))
  return model.backbone


def _photos(folders):
  """Return training photos and held-out photos, with their boxes."""
  sides = photo_sets.split(photo_sets.load(folders))
  known, held_out = map(drawn, sides)
  for name, side in (("training", known), ("held out", held_out)):
    number = sum(len(each.boxes) for each in side)
    logging.info("%s: %d photos, %d boxes", name, len(side), number)
  return known, held_out


if __name__ == "__main__":
  sys.exit(photo_sets.main(_HELP, add_arguments, run))
