"""Trains the embedded compact model on a CPU."""

import itertools
import pathlib
import sys

if __name__ == "__main__":  # Run by its path, from anywhere.
  sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from absl import logging

from tools import photo_sets

_HELP = """\
Trains the compact model on folders of photos without labels. The true geometry
of two views of a photo under random homographies and lighting is known; pairs
of photos of a place are added if SIFT matches them reliably. An interrupted run
resumes from its checkpoint in --out. At the end, the model is written as a
SavedModel.

  python -m tools.train_compact \\
      --photos photos_a photos_b --out run --minutes 75 \\
      --export run/delf-compact

Each folder of photos holds train.csv (id, url, landmark_id; url is the path
under images/) and optionally groups.json.
"""

_SAVE_SECONDS = 180.0
_PENDING = 4  # Most batches drawn ahead.


def add_arguments(parser):
  """Add the flags to an argparse parser."""
  photo_sets.add_arguments(parser)
  parser.add_argument("--minutes", type=float, default=75)
  parser.add_argument("--rate", type=float, default=1.5e-3)
  parser.add_argument("--pairs", type=int, default=8, help="per batch")
  parser.add_argument(
    "--side", type=int, default=192, help="view side in pixels"
  )
  parser.add_argument(
    "--real", type=float, default=0.3, help="share of photo pairs"
  )
  parser.add_argument("--threads", type=int, default=1)


def run(args):
  """Train the compact model; see the flags."""
  import keras

  from delf.learning import compact_model, loop, view_pairs
  from delf.networks import compact, heads

  keras.utils.set_random_seed(args.seed)
  if args.bfloat16:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
  training, _ = photo_sets.split(photo_sets.load(args.photos))
  pairs = photo_sets.cached_pairs(args.out / "pairs.npz", training)
  logging.info("%d photos, %d pairs of photos", len(training), len(pairs))

  checkpoint = args.out / "checkpoint.npz"
  learner = compact_model.CompactTrainer(
    compact.CompactBackbone(),
    heads.AttentionModel(),
    path=checkpoint,
    rate=args.rate,
    side=args.side,
  )
  learner.resume()
  # The seed depends on the step, so that a resumed run draws new batches.
  seed = (args.seed, learner.step)
  options = view_pairs.Options(
    pairs=args.pairs, side=args.side, real=args.real, seed=seed
  )
  source = view_pairs.Source(training, pairs, options)
  learner.batches = lambda: batches(source)
  budget = loop.Budget(seconds=60 * args.minutes)
  live = loop.Live(budget, every=50)
  save = loop.Every(seconds=_SAVE_SECONDS)
  stopped = loop.run(learner, budget, [live], save)
  if args.export and stopped is None:
    finish(checkpoint, args.export, training, pairs)


def batches(source):
  """Return the batches of a source, drawn ahead in a thread."""
  import cv2

  from delf.base import concurrency

  cv2.setNumThreads(1)
  draw = itertools.count()
  return concurrency.map_ahead(lambda _: source.batch(), draw, 1, _PENDING)


def finish(checkpoint, folder, training, pairs):
  """Whiten the global descriptor and write the SavedModel.

  Args:
    checkpoint: Path of the checkpoint of the training.
    folder: Folder to write the SavedModel to.
    training: list of view_pairs.Photo.
    pairs: list of view_pairs.Pair of the photos.
  """
  from delf.learning import compact_model

  model = compact_model.from_checkpoint(checkpoint)
  compact_model.whiten(model.backbone, training, pairs)
  compact_model.export(model, folder)
  print(f"wrote {folder}")


if __name__ == "__main__":
  sys.exit(photo_sets.main(_HELP, add_arguments, run))
