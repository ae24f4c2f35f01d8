"""Trains the detector that comes with the package, on a processor."""

import argparse
import dataclasses
import json
import pathlib
import sys
import time

from absl import logging

from delf.base import errors

_HELP = """\
Trains a detector of landmarks on folders of photos: boxes were drawn by eye
(drawn_boxes.csv beside this module), and things are pasted at known places. The
backbone starts as that of the compact model. A run that is stopped continues
from its checkpoint in --out. At the end, the detector is measured on held-out
photos and written as a SavedModel.

  python -m tools.train_boxes \\
      --photos photos_a photos_b --out run --minutes 15 \\
      --export run/delf-boxes

Each folder of photos holds train.csv (id, url, landmark_id; url is the path
under images/) and perhaps groups.json. Photos without a drawn box are left out.
"""

_SAVE_SECONDS = 60.0
# Views of held-out photos that are measured, of each kind.
_VIEWS = 200


def add_arguments(parser):
  """Adds the flags to an argparse parser."""
  parser.add_argument("--photos", nargs="+", required=True, metavar="DIR")
  parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
  parser.add_argument("--export", type=pathlib.Path, metavar="DIR")
  parser.add_argument("--minutes", type=float, default=15)
  parser.add_argument("--rate", type=float, default=2e-3)
  parser.add_argument(
    "--backbone-rate", type=float, default=3e-4, help="0: it does not learn"
  )
  parser.add_argument("--views", type=int, default=16, help="in a batch")
  parser.add_argument(
    "--pasted", type=float, default=0.25, help="share of views that are pasted"
  )
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--bfloat16", action="store_true", help="faster on some")


def run(args):
  """Trains; see the flags."""
  import keras

  from delf.learning import detector_network, detector_training

  keras.utils.set_random_seed(args.seed)
  args.out.mkdir(parents=True, exist_ok=True)
  known, held_out = _known(args.photos)
  if args.bfloat16:
    # Of layers that are made from here on.
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
  detector = detector_network.Detector(_compact().backbone)
  learner = detector_training.DetectorTrainer(
    detector, args.rate, args.backbone_rate
  )
  checkpoint = args.out / "detector.npz"
  learner.resume(checkpoint)
  options = detector_training.Options(
    number=args.views, pasted=args.pasted, seed=args.seed
  )
  fit(learner, known, options, 60 * args.minutes, checkpoint)
  keras.mixed_precision.set_global_policy("float32")
  detector = copied(detector)
  found = report(detector, known, held_out)
  found |= {"steps": learner.step, "seconds": round(learner.seconds)}
  if args.export:
    # The card is written by hand.
    kept = [(p.name, p.read_bytes()) for p in args.export.glob("*.md")]
    kept.append(("training.json", json.dumps(found, indent=2).encode()))
    detector_network.export(detector, args.export, overwrite=True, extra=kept)
    print(f"wrote {args.export}")  # noqa: T201


def fit(learner, known, options, budget, path):
  """Learns until the time is up.

  Args:
    learner: trainer.DetectorTrainer.
    known: list of known_boxes.Known.
    options: data.Options.
    budget: Seconds, over all runs that continue each other.
    path: pathlib.Path of the checkpoint that is written on the way.
  """
  import numpy as np

  from delf.learning import detector_training, synthetic_views

  source = detector_training.Source(known, options, learner.step)
  batches, recent = synthetic_views.batches(source), []
  saved = last = time.monotonic()
  while learner.seconds < budget:
    recent.append(learner.learn(next(batches), learner.seconds / budget))
    now = time.monotonic()
    learner.seconds, last = learner.seconds + now - last, now
    if learner.step % 50 == 0:
      means = np.mean(recent, axis=0)
      words = [
        f"{n} {v:.3f}"
        for n, v in zip(detector_training.TERMS, means, strict=True)
      ]
      logging.info(
        "step %d, %.0f s: %s", learner.step, learner.seconds, " ".join(words)
      )
      recent = []
    if now - saved > _SAVE_SECONDS:
      saved = now
      learner.save(path)
  batches.close()
  learner.save(path)


def report(detector, known, held_out):
  """Measures what is found of held-out boxes, by the kind of view.

  Args:
    detector: network.Detector.
    known: list of known_boxes.Known that it learnt from.
    held_out: list of known_boxes.Known.

  Returns:
    dict of plain values: `median_size` of the boxes, (height, width), and by
    kind and name what is found.
  """
  from delf.learning import detector_network, detector_training

  find = detector_network.finder(detector)
  learnt = [each.boxes for each in known]
  found = {"median_size": detector_training.median_size(learnt).tolist()}
  for kind, asked in _asked(held_out).items():
    for name, scores in detector_training.compare(find, learnt, asked).items():
      logging.info("held-out %s, %s: %s", kind, name, scores)
      values = dataclasses.asdict(scores)
      found.setdefault(f"held out, {kind}", {})[name] = {
        key: round(value, 4) for key, value in values.items()
      }
  return found


def _asked(held_out):
  """Returns (photo, boxes) to be found, lists by their kind."""
  from delf.learning import detector_training

  asked = {"photos": [(each.image, each.boxes) for each in held_out]}
  for kind, pasted in (("windows", 0.0), ("pasted", 1.0)):
    drawn = detector_training.batch(
      held_out, detector_training.Options(_VIEWS, pasted, seed=1), 0
    )
    asked[kind] = [
      (image, boxes[boxes.any(1)])
      for image, boxes in zip(drawn.images, drawn.boxes, strict=True)
    ]
  return asked


def copied(detector):
  """Returns the same detector with layers of the policy of now."""
  from delf.learning import detector_network

  made = detector_network.Detector()
  made.backbone.set_weights(detector.backbone.get_weights())
  made.head.set_weights(detector.head.get_weights())
  return made


def _compact():
  """Returns the embedded compact model, a delg_model.Delg."""
  from delf.inference import zoo
  from delf.learning import compact_training
  from delf.python.training.model import delg_model

  model = delg_model.Delg(backbone="compact", block3_strides=False)
  compact_training.load(model, zoo.resolve(zoo.EMBEDDED))
  return model


def _known(folders):
  """Returns two lists of known_boxes.Known: to train on, and held out."""
  from delf.learning import detector_training, synthetic_views

  sides = synthetic_views.split(synthetic_views.load(folders))
  known, held_out = map(detector_training.drawn, sides)
  for name, side in (("trained on", known), ("held out", held_out)):
    number = sum(len(each.boxes) for each in side)
    logging.info("%s: %d photos, %d boxes", name, len(side), number)
  return known, held_out


def main():
  """Runs the script; returns its exit status."""
  parser = argparse.ArgumentParser(
    description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add_arguments(parser)
  args = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  try:
    _use_threads(args.threads)
    run(args)
  except (errors.InputError, OSError) as error:
    message = errors.one_line(error)
    print(f"{parser.prog}: {message}", file=sys.stderr)  # noqa: T201
    return 1
  return 0


def _use_threads(number):
  import tensorflow as tf

  tf.config.threading.set_intra_op_parallelism_threads(number)
  tf.config.threading.set_inter_op_parallelism_threads(2)


if __name__ == "__main__":
  sys.exit(main())
