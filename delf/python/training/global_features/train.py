r"""Train a global descriptor on retrieval-SfM-120k.

  python delf/python/training/global_features/train.py \
    --data_root=data --directory=runs --arch=ResNet101 --pool=gem \
    --test_datasets=roxford5k,rparis6k

The same command with --resume resumes a stopped run.
"""

import subprocess
import sys

from absl import logging

from delf.base import errors
from delf.cli import scripts
from delf.cli.scripts import FLAGS
from delf.learning import pairs_settings


def define_flags() -> None:
  """Define the flags."""
  pairs_settings.define_flags()
  name = "retrieval-SfM-120k"
  scripts.define("training_dataset", name, "data set to train on", [name])
  help = "whether to run eagerly; reports each batch unless --print_freq is set"
  scripts.define("debug", False, help)
  scripts.define("gpu_ids", "0", "GPUs to use, separated by commas")
  help = "whether to start TensorBoard too"
  scripts.define("launch_tensorboard", False, help)


def _use_gpus():
  """Restrict TensorFlow to the GPUs of --gpu_ids, if the machine has any."""
  import tensorflow as tf

  gpus = tf.config.list_physical_devices("GPU")
  if not gpus:
    return
  try:
    chosen = [gpus[int(number)] for number in FLAGS.gpu_ids.split(",")]
  except (ValueError, IndexError):
    raise errors.InputError(
      f"--gpu_ids must be from 0 to {len(gpus) - 1}, not {FLAGS.gpu_ids}"
    ) from None
  tf.config.set_visible_devices(chosen, "GPU")


def main() -> int:
  """Train; return the exit status."""
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
    where = f"in epoch {place.epoch + 1}"
    return scripts.end_stopped(report.signal, where, "--resume resumes it")
  print(  # noqa: T201
    f"wrote {report.folder}: best of {place.epoch} epochs is"
    f" {place.best_epoch}, score {place.best_score:.4f}"
  )
  return 1 if place.left_out else 0


if __name__ == "__main__":
  scripts.run(main, define_flags)
