r"""Script that trains a global descriptor on retrieval-SfM-120k.

  python delf/python/training/global_features/train.py \
    --data_root=data --directory=runs --arch=ResNet101 --pool=gem \
    --test_datasets=roxford5k,rparis6k

The same command with --resume goes on where a run has ended.
"""

import subprocess
import sys

from absl import flags, logging

from delf.base import errors
from delf.cli import scripts
from delf.learning import pairs_settings

FLAGS = flags.FLAGS

# Exit status after a signal: this and its number, as shells have it.
_SIGNALLED = 128


def define_flags():
  """Defines the flags."""
  pairs_settings.define_flags()
  flags.DEFINE_enum(
    "training_dataset",
    "retrieval-SfM-120k",
    ["retrieval-SfM-120k"],
    "data set to train on",
  )
  flags.DEFINE_boolean(
    "debug",
    False,
    "step by step without graphs, reporting each batch "
    "if --print_freq does not say otherwise",
  )
  flags.DEFINE_string("gpu_ids", "0", "GPUs that the program sees, such as 0")
  flags.DEFINE_boolean(
    "launch_tensorboard", False, "whether to start TensorBoard beside it"
  )


def _use_gpus():
  """Has TensorFlow see the GPUs of --gpu_ids alone, where there are any."""
  import tensorflow as tf

  gpus = tf.config.list_physical_devices("GPU")
  if not gpus:
    return
  try:
    chosen = [gpus[int(number)] for number in FLAGS.gpu_ids.split(",")]
  except (ValueError, IndexError):
    raise errors.InputError(
      f"--gpu_ids from 0 to {len(gpus) - 1}", FLAGS.gpu_ids
    ) from None
  tf.config.set_visible_devices(chosen, "GPU")


def main():
  """Trains; returns the exit status."""
  import tensorflow as tf

  from delf.learning import pairs

  logging.set_verbosity(logging.INFO)
  _use_gpus()
  tf.config.run_functions_eagerly(FLAGS.debug)
  board = None
  if FLAGS.launch_tensorboard:
    command = ["-m", "tensorboard.main", "--logdir", FLAGS.directory]
    board = subprocess.Popen([sys.executable, *command])
  try:
    report = pairs.fit(pairs_settings.settings_of_flags())
  finally:
    if board is not None:
      board.terminate()
  place = report.place
  if report.signal is not None:
    scripts.print_problem(
      f"{sys.argv[0]}: stopped in epoch {place.epoch + 1}; --resume goes on"
    )
    return _SIGNALLED + report.signal
  print(  # noqa: T201
    f"wrote {report.folder}: best of {place.epoch} epochs is"
    f" {place.best_epoch}, score {place.best_score:.4f}"
  )
  return 1 if place.left_out else 0


if __name__ == "__main__":
  scripts.run(main, define_flags)
