r"""Script that trains DELF or DELG on labelled photos.

  python train.py \
    --train_file_pattern='tfrecord/train*' \
    --validation_file_pattern='tfrecord/validation*' \
    --num_classes=0 --imagenet_checkpoint=resnet50_notop.h5 --logdir=run

The same command goes on where a run has ended. build_image_dataset.py makes the
TFRecords, --overfit_one_batch tries the settings, README.md here has the rest.
"""

import sys

from absl import flags, logging

from delf.python import script_flags
from delf.python.training import flag_settings, train_flags

FLAGS = flags.FLAGS

define_flags = train_flags.define_flags

# Exit status after a signal: this and its number, as shells have it.
_SIGNALLED = 128


def create_model(num_classes):
  """Makes the model that the flags say, with random weights.

  Args:
    num_classes: Number of classes.

  Returns:
    delf_model.Delf, or delg_model.Delg, with its classifiers. Where no flags
    are defined, as in another program, it is that of their defaults.
  """
  from delf.python.training.supervised import networks, settings

  defined = "delg_global_features" in FLAGS and FLAGS.is_parsed()
  network = flag_settings.network(settings) if defined else settings.Network()
  return networks.make(network, num_classes)


def main():
  """Trains; returns 0, or 128 and the number of the signal that stopped it."""
  import tensorflow as tf

  from delf.python.pipelines import watch_training
  from delf.python.training.supervised import fitting

  logging.set_verbosity(logging.INFO)
  if FLAGS.deterministic:
    tf.config.experimental.enable_op_determinism()
  settings = flag_settings.settings_of_flags()
  if FLAGS.overfit_one_batch:
    return _overfit(settings)
  report = fitting.fit(settings, watch_training.watching(settings))
  if report.signal is not None:
    script_flags.print_problem(
      f"{sys.argv[0]}: stopped after step {report.step}; the same command goes "
      f"on from {report.checkpoint}"
    )
    return _SIGNALLED + report.signal
  print(f"wrote {report.weights} after step {report.step}")  # noqa: T201
  return 0


def _overfit(settings):
  """Tests whether one batch is learnt; returns 1 where it is not."""
  from delf.python.training.supervised import data_source, live, one_batch

  settings.check()
  source = data_source.Source(settings.data, settings.learning.seed)
  watching = [live.Live(settings.reporting.report_every)]
  verdict = one_batch.overfit(settings, source, watching)
  if verdict.learns:
    print(verdict)  # noqa: T201
    return 0
  script_flags.print_problem(
    f"{verdict}. Try --initial_lr ten times as low, then as high; with weights "
    "to start from and without"
  )
  return 1


if __name__ == "__main__":
  script_flags.run(main, define_flags)
