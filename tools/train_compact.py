"""Trains the model that comes with the package, on a processor."""

import argparse
import pathlib
import sys

from absl import logging

from delf.base import errors

_HELP = """\
Trains the compact model on folders of photos, without labels: two views of one
photo under random homographies and lighting are their own truth, and photos of
one place give more where SIFT is sure. A run that is stopped continues from its
checkpoint in --out. At the end, the model is written as a SavedModel.

  python -m tools.train_compact \\
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

  from delf.learning import compact_training, synthetic_views, view_pairs
  from delf.networks import compact, heads

  keras.utils.set_random_seed(args.seed)
  if args.bfloat16:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
  training, _ = synthetic_views.split(synthetic_views.load(args.photos))
  pairs = view_pairs.cached(args.out / "pairs.npz", training)
  logging.info("%d photos, %d pairs of photos", len(training), len(pairs))
  schedule = compact_training.Schedule(minutes=args.minutes, rate=args.rate)
  learner = compact_training.Trainer(
    compact.CompactBackbone(),
    heads.AttentionModel(),
    schedule,
    args.side,
  )
  checkpoint = args.out / "checkpoint.npz"
  learner.resume(checkpoint)
  options = view_pairs.Options(
    pairs=args.pairs,
    side=args.side,
    real=args.real,
    # Of the step, so that a run that goes on draws batches of its own.
    seed=(args.seed, learner.step),
  )
  source = view_pairs.Source(training, pairs, options)
  learner.fit(synthetic_views.batches(source), checkpoint)
  if args.export:
    finish(checkpoint, args.export, training, pairs)


def finish(checkpoint, folder, training, pairs):
  """Whitens the global descriptor and writes the SavedModel.

  Args:
    checkpoint: Of `trainer.Trainer`.
    folder: Folder of the SavedModel to be.
    training: list of photos.Photo.
    pairs: list of real_pairs.Pair of them.
  """
  from delf.learning import compact_heads, compact_training

  model = compact_training.load_export_compact(checkpoint)
  compact_heads.fit_global_head(model.backbone, training, pairs)
  compact_training.export(model, folder)
  print(f"wrote {folder}")  # noqa: T201


def _use_threads(number):
  import tensorflow as tf

  tf.config.threading.set_intra_op_parallelism_threads(number)
  tf.config.threading.set_inter_op_parallelism_threads(2)


def main():
  """Runs the script; returns its exit status."""
  parser = argparse.ArgumentParser(
    description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add_arguments(parser)
  args = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  _use_threads(args.threads)
  try:
    run(args)
  except (errors.InputError, OSError) as error:
    message = errors.one_line(error)
    print(f"{parser.prog}: {message}", file=sys.stderr)  # noqa: T201
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
