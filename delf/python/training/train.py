r"""Train DELF or DELG on labelled photos.

  python train.py \
    --train_file_pattern='tfrecord/train*' \
    --validation_file_pattern='tfrecord/validation*' \
    --num_classes=0 --imagenet_checkpoint=resnet50_notop.h5 --logdir=run

The same command resumes a stopped run. build_image_dataset.py writes the
TFRecords; --overfit_one_batch tests the settings. See README.md in this folder.
"""

import typing

from absl import logging

from delf.cli import scripts
from delf.cli.scripts import FLAGS
from delf.learning import delg_settings

if typing.TYPE_CHECKING:
  from delf.python.training.model import delf_model

define_flags = delg_settings.define_flags


def create_model(num_classes: int) -> "delf_model.Delf":
  """Create the Delf or Delg of the flags, with classifiers.

  Without flags, as in another program, their defaults apply.
  """
  from delf.learning import delg_steps

  network = delg_settings.Network()
  if "delg_global_features" in FLAGS and FLAGS.is_parsed():
    network = delg_settings.of_flags(delg_settings.Network)
  return delg_steps.make_model(network, num_classes)


def main() -> int:
  """Train; return 0, or 128 plus the number of a signal that stopped it."""
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
    how = f"the same command resumes from {report.checkpoint}"
    place = f"after step {report.step}"
    return scripts.end_stopped(report.signal, place, how)
  print(f"wrote {report.weights} after step {report.step}")  # noqa: T201
  return 0


def _overfit(settings):
  """Return 0 if training can overfit one batch, otherwise 1."""
  from delf.learning import delg, watchers

  settings.check()
  source = delg.Source(settings.data, settings.learning.seed)
  observers = [watchers.Live(settings.reporting.report_every)]
  verdict = watchers.overfit(settings, source, observers)
  if verdict.learns:
    print(verdict)  # noqa: T201
    return 0
  scripts.print_problem(
    f"{verdict}. Try a tenth of --initial_lr, then ten times as much, with and "
    "without initial weights"
  )
  return 1


if __name__ == "__main__":
  scripts.run(main, define_flags)
