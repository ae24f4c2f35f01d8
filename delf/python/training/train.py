r"""Script that trains DELF or DELG on labelled photos.

  python train.py \
    --train_file_pattern='tfrecord/train*' \
    --validation_file_pattern='tfrecord/validation*' \
    --num_classes=0 --imagenet_checkpoint=resnet50_notop.h5 --logdir=run

The same command goes on where a run has ended. build_image_dataset.py makes the
TFRecords, --overfit_one_batch tries the settings, README.md here has the rest.
"""

from absl import logging

from delf.cli import scripts
from delf.cli.scripts import FLAGS
from delf.learning import delg_settings

define_flags = delg_settings.define_flags


def create_model(num_classes):
  """Makes the Delf or Delg that the flags say, with classifiers.

  Where no flags are defined, as in another program, it is that of their
  defaults.
  """
  from delf.learning import delg_steps

  network = delg_settings.Network()
  if "delg_global_features" in FLAGS and FLAGS.is_parsed():
    network = delg_settings.of_flags(delg_settings.Network)
  return delg_steps.make_model(network, num_classes)


def main():
  """Trains; returns 0, or 128 and the number of the signal that stopped it."""
  import tensorflow as tf

  from delf.learning import delg, watchers

  logging.set_verbosity(logging.INFO)
  if FLAGS.deterministic:
    tf.config.experimental.enable_op_determinism()
  settings = delg_settings.settings_of_flags()
  if FLAGS.overfit_one_batch:
    return _overfit(settings)
  report = delg.fit(settings, watchers.standard(settings))
  if report.signal is not None:
    how = f"the same command goes on from {report.checkpoint}"
    place = f"after step {report.step}"
    return scripts.end_stopped(report.signal, place, how)
  print(f"wrote {report.weights} after step {report.step}")  # noqa: T201
  return 0


def _overfit(settings):
  """Tests whether one batch is learnt; returns 1 where it is not."""
  from delf.learning import delg, watchers

  settings.check()
  source = delg.Source(settings.data, settings.learning.seed)
  watching = [watchers.Live(settings.reporting.report_every)]
  verdict = watchers.overfit(settings, source, watching)
  if verdict.learns:
    print(verdict)  # noqa: T201
    return 0
  scripts.print_problem(
    f"{verdict}. Try --initial_lr ten times as low, then as high; with weights "
    "to start from and without"
  )
  return 1


if __name__ == "__main__":
  scripts.run(main, define_flags)
