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
from delf.networks import backbones

FLAGS = flags.FLAGS

# Exit status after a signal: this and its number, as shells have it.
_SIGNALLED = 128


def define_flags():
  """Defines the flags."""
  _define_data()
  _define_network()
  _define_learning()
  _define_run()


def _define_data():
  flags.DEFINE_string(
    "data_root",
    "data",
    "folder with train/retrieval-SfM-120k/, and gnd_<name>.pkl and photos of "
    "the data sets that are searched",
  )
  flags.DEFINE_enum(
    "training_dataset",
    "retrieval-SfM-120k",
    ["retrieval-SfM-120k"],
    "data set to train on",
  )
  flags.DEFINE_boolean("val", True, "whether there is validation")
  flags.DEFINE_boolean(
    "val_eccv2020", False, "whether validation is on the set of 2020"
  )
  flags.DEFINE_list(
    "test_datasets",
    "roxford5k,rparis6k",
    "data sets that are searched now and then, of roxford5k and rparis6k; "
    "empty for none",
  )
  flags.DEFINE_enum(
    "precompute_whitening",
    None,
    ["retrieval-SfM-30k", "retrieval-SfM-120k"],
    "data set that a whitening is learned on in the end",
  )
  flags.DEFINE_string(
    "multiscale",
    "[1.]",
    "scales that photos of searches are described at, such as "
    "[1, 2**(1/2), 1/2**(1/2)]",
  )
  flags.DEFINE_integer("image_size", 1024, "largest side of a photo, pixels")
  flags.DEFINE_integer("neg_num", 5, "negatives of a query")
  flags.DEFINE_integer("query_size", 2000, "queries of an epoch")
  flags.DEFINE_integer(
    "pool_size", 20000, "photos that negatives are looked for in"
  )
  flags.DEFINE_integer("workers", 8, "threads that load photos")


def _define_network():
  flags.DEFINE_enum(
    "arch", "ResNet101", list(backbones.ARCHITECTURES), "network of Keras"
  )
  flags.DEFINE_enum("pool", "gem", ["mac", "spoc", "gem"], "pooling")
  flags.DEFINE_boolean(
    "whitening", False, "whether the network ends in a whitening layer"
  )
  flags.DEFINE_boolean(
    "pretrained",
    True,
    "whether it starts with ImageNet weights, of <arch>*notop*.h5 in data_root "
    "or of Keras' site",
  )


def _define_learning():
  flags.DEFINE_enum(
    "loss", "contrastive", ["contrastive", "triplet"], "loss of a tuple"
  )
  flags.DEFINE_float("loss_margin", 0.7, "its margin")
  flags.DEFINE_integer("epochs", 100, "epochs in all")
  flags.DEFINE_integer("batch_size", 5, "queries of a batch")
  flags.DEFINE_integer("update_every", 1, "batches of an update")
  flags.DEFINE_enum("optimizer", "adam", ["sgd", "adam"], "optimizer")
  flags.DEFINE_float("lr", 1e-6, "learning rate of the first step")
  flags.DEFINE_float("momentum", 0.9, "momentum of sgd")
  flags.DEFINE_float(
    "weight_decay", 1e-6, "share of each weight that an update takes away"
  )
  flags.DEFINE_integer("seed", 0, "of random weights and of the tuples' draws")


def _define_run():
  flags.DEFINE_boolean(
    "debug",
    False,
    "step by step without graphs, reporting each batch "
    "if --print_freq does not say otherwise",
  )
  flags.DEFINE_string("directory", "data", "folder of the run's own folder")
  flags.DEFINE_integer(
    "test_freq", 5, "epochs from one validation and search to the next"
  )
  flags.DEFINE_string("gpu_ids", "0", "GPUs that the program sees, such as 0")
  flags.DEFINE_integer("print_freq", 10, "batches between two reports")
  flags.DEFINE_integer(
    "save_every", 100, "batches between two savings; 0: after epochs alone"
  )
  flags.DEFINE_boolean("resume", False, "whether a run that is there goes on")
  flags.DEFINE_boolean(
    "launch_tensorboard", False, "whether to start TensorBoard beside it"
  )


def settings_of_flags():
  """Returns the settings.Settings that the flags say."""
  from delf.learning import pairs_settings

  data = pairs_settings.Data(
    data_root=FLAGS.data_root,
    image_size=FLAGS.image_size,
    negatives=FLAGS.neg_num,
    queries=FLAGS.query_size,
    pool=FLAGS.pool_size,
    validation=FLAGS.val,
    validation_2020=FLAGS.val_eccv2020,
    tests=tuple(filter(None, FLAGS.test_datasets)),
    scales=pairs_settings.parse(FLAGS.multiscale),
    whitening=FLAGS.precompute_whitening,
    workers=FLAGS.workers,
  )
  learning = pairs_settings.Learning(
    loss=FLAGS.loss,
    margin=FLAGS.loss_margin,
    optimizer=FLAGS.optimizer,
    rate=FLAGS.lr,
    momentum=FLAGS.momentum,
    weight_decay=FLAGS.weight_decay,
    batch=FLAGS.batch_size,
    update_every=FLAGS.update_every,
    epochs=FLAGS.epochs,
    seed=FLAGS.seed,
  )
  network = pairs_settings.Network(
    FLAGS.arch, FLAGS.pool, FLAGS.whitening, FLAGS.pretrained
  )
  return pairs_settings.Settings(
    directory=FLAGS.directory,
    data=data,
    network=network,
    learning=learning,
    test_every=FLAGS.test_freq,
    print_every=_print_every(),
    save_every=FLAGS.save_every,
    resume=FLAGS.resume,
  )


def _print_every():
  """Returns --print_freq; 1 of --debug, where that is not given."""
  flag = FLAGS["print_freq"]
  return 1 if FLAGS.debug and flag.using_default_value else flag.value


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
    report = pairs.fit(settings_of_flags())
  finally:
    if board is not None:
      board.terminate()
  if report.signal is not None:
    scripts.print_problem(
      f"{sys.argv[0]}: stopped in epoch {report.epochs + 1}; --resume goes on"
    )
    return _SIGNALLED + report.signal
  print(  # noqa: T201
    f"wrote {report.folder}: best of {report.epochs} epochs is"
    f" {report.best_epoch}, score {report.best_score:.4f}"
  )
  return 1 if report.left_out else 0


if __name__ == "__main__":
  scripts.run(main, define_flags)
