"""Trains the model that comes with the package, on a processor."""

import argparse
import pathlib

from absl import logging

_HELP = """\
Trains the compact model on folders of photos, without labels: two views of one
photo under random homographies and lighting are their own truth, and photos of
one place give more where SIFT is sure. A run that is stopped continues from its
checkpoint in --out. At the end, the model is written as a SavedModel.

  python -m delf.python.training.embedded.train_compact \\
      --photos photos_a photos_b --out run --minutes 75 \\
      --export run/delf-compact

Each folder of photos holds train.csv (id, url, landmark_id; url is the path
under images/) and perhaps groups.json.
"""


def add_arguments(parser):
  """Adds the flags to an argparse parser."""
  parser.add_argument("--photos", nargs="+", required=True, metavar="DIR")
  parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
  parser.add_argument("--export", type=pathlib.Path, metavar="DIR")
  parser.add_argument("--minutes", type=float, default=75)
  parser.add_argument("--rate", type=float, default=1.5e-3)
  parser.add_argument("--pairs", type=int, default=8, help="in a batch")
  parser.add_argument("--side", type=int, default=192, help="of a view, pixels")
  parser.add_argument("--real", type=float, default=0.3, help="share of pairs")
  parser.add_argument("--threads", type=int, default=1)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--bfloat16", action="store_true", help="faster on some")


def run(args):
  """Trains; see the flags."""
  import keras
  import tensorflow as tf

  from delf.python.training.embedded import data, photos, trainer
  from delf.python.training.model import compact

  tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  tf.config.threading.set_inter_op_parallelism_threads(2)
  keras.utils.set_random_seed(args.seed)
  if args.bfloat16:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
  training, _ = photos.split(photos.load(args.photos))
  pairs = _pairs(training, args.out / "pairs.npz")
  logging.info("%d photos, %d pairs of photos", len(training), len(pairs))
  schedule = trainer.Schedule(minutes=args.minutes, rate=args.rate)
  learner = trainer.Trainer(
    compact.CompactBackbone(), trainer.Attention(), schedule, args.side
  )
  options = data.Options(
    pairs=args.pairs, side=args.side, real=args.real, seed=args.seed
  )
  source = data.Source(training, pairs, options)
  learner.fit(data.background(source), args.out)
  if args.export:
    finish(args.out / "checkpoint.npz", args.export, training, pairs)


def finish(checkpoint, folder, training, pairs):
  """Whitens the global descriptor and writes the SavedModel.

  Args:
    checkpoint: Of `trainer.Trainer`.
    folder: Folder of the SavedModel to be.
    training: list of photos.Photo.
    pairs: list of real_pairs.Pair of them.
  """
  from delf.python.training.embedded import export_compact, global_head

  model = export_compact.load(checkpoint)
  global_head.fit(model.backbone, training, pairs)
  export_compact.export(model, folder)
  logging.info("model in %s", folder)


def _pairs(training, path):
  """Returns the pairs of photos of one place, from a file if it is there."""
  from delf.python.training.embedded import real_pairs

  if not path.exists():
    real_pairs.save(path, real_pairs.find(training))
  return real_pairs.load(path)


def main():
  """Runs the script."""
  parser = argparse.ArgumentParser(
    description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add_arguments(parser)
  logging.set_verbosity(logging.INFO)
  run(parser.parse_args())


if __name__ == "__main__":
  main()
