"""Rows of the table of bad input: training of DELF and DELG."""

import functools
import types

import tensorflow as tf

from delf.cli import scripts
from delf.learning import delg_settings, delg_steps, loop
from delf.python.training import train
from tests.stand_ins import full_disk, tiny_training

# What -> (function of a folder that returns arguments, words of the line).
CASES = {}
_SCRIPT = "training/train.py"
SCRIPTS = {_SCRIPT: train}


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _train(folder, *more, records=True):
  """Returns the arguments of a short run on records in the folder."""
  if records:
    tiny_training.write_records(folder)
  return [
    _SCRIPT,
    f"--logdir={folder.parent / 'run'}",
    f"--train_file_pattern={folder / 'train*'}",
    "--validation_file_pattern=",
    "--num_classes=3",
    "--backbone=compact",
    "--image_size=32",
    "--debug",
    *more,
  ]


@_case("training without TFRecords", "train*", "no TFRecords for training")
def _nothing(folder):
  return _train(folder, records=False)


@_case("validation without TFRecords", "validation*", "without validation")
def _no_validation(folder):
  pattern = folder / "validation*"
  return _train(folder, f"--validation_file_pattern={pattern}")


@_case("training on TFRecords of another label space", "14951", "has 3 classes")
def _label_space(folder):
  return [a for a in _train(folder) if not a.startswith("--num_classes")]


@_case("training on TFRecords with a label too high", "photo", "-of-00002", "2")
def _label(folder):
  argv = _train(folder, "--num_classes=2")
  (folder / "labels.json").unlink()
  return argv


@_case("training that counts classes without labels.json", "labels.json")
def _no_labels(folder):
  argv = _train(folder, "--num_classes=0")
  (folder / "labels.json").unlink()
  return argv


@_case("training on TFRecords that are cut", "train-00000-of-00002")
def _cut(folder):
  argv = _train(folder)
  path = folder / "train-00000-of-00002"
  path.write_bytes(path.read_bytes()[:-9])
  return argv


@_case("training on from another architecture", "ckpt-1", "DELF", "conv9")
def _architecture(folder):
  checkpoint = tf.train.Checkpoint(model={"conv9": tf.Variable(1.0)})
  run = folder.parent / "run" / "delf_tf2-ckpt"
  tf.train.CheckpointManager(checkpoint, str(run), 10).save()
  return _train(folder)


@_case("training whose loss is no number", "step 1", "inf", "photo", "batch 0")
def _infinite(folder):
  return _train(folder, "--reconstruction_loss_weight=3e38")


@_case("full disk while a checkpoint is saved", "ckpt-1", "cannot be written")
def _full_disk(folder):
  argv = _train(folder)

  def run():
    # More than pictures and tables take, and less than a checkpoint.
    with full_disk.limit(1 << 20):
      scripts.run(train.main, train.define_flags, argv)

  return run


class _FullWriter:
  """Raises what TensorFlow does."""

  def flush(self):
    message = "{{function_node a}} logs/b.v2; No space left on device\n\tFailed"
    raise tf.errors.ResourceExhaustedError(None, None, f"{message} [Op:Flush]")


@_case(
  "full disk while TensorBoard's file is written",
  "TensorBoard",
  "(No space left",
)
def _full_board(folder):
  # TensorFlow tells of no space, but not of a limit on the size of files.
  def write():
    observer = loop.BoardObserver()
    observer.start(types.SimpleNamespace(train_logs=folder / "logs"))
    observer.close()
    observer._writer = _FullWriter()
    observer.flush()

  return write


@_case("training compact from ImageNet weights", "ImageNet", "compact")
def _weights(folder):
  return _train(folder, f"--imagenet_checkpoint={folder / 'none.h5'}")


@_case("training on a device that is not there", "GPU:7", "CPU:0")
def _device(folder):
  return _train(folder, "--devices=GPU:7")


@_case("XLA and statistics of two devices", "--xla", "frozen", "synchronized")
def _xla(folder):
  given = delg_settings.Settings(
    str(folder),
    network=delg_settings.Network(normalization="synchronized"),
    execution=delg_settings.Execution(xla=True),
  )
  two = types.SimpleNamespace(num_replicas_in_sync=2)
  return functools.partial(delg_steps.Stepper, given, two)


@_case("training with a learning rate below 0", "initial_lr", "-1")
def _rate(folder):
  return _train(folder, "--initial_lr=-1")
