"""What the scripts share that extract features of a data set's images."""

import logging
import os
import sys

from absl import app, flags

from delf.base import errors
from delf.evaluation import ground_truth
from delf.extraction import extract

# Values that absl reads as booleans.
_BOOLEANS = ("true", "t", "1", "false", "f", "0")


def run(main, define, argv=None):
  """Runs a script as `absl.app.run` does, and exits.

  Flags are defined here and not when a script is imported, so that two scripts
  with flags of the same name can be imported side by side. Bad input, and files
  that cannot be read or written, end the script with one line on standard error
  and status 1, an interrupt with 130.

  Args:
    main: Function without arguments that does the work, reading
      `flags.FLAGS`; what it returns is the exit status (None for success).
    define: Function without arguments that defines the flags with
      `flags.DEFINE_string` and the like.
    argv: list of str, the program's name first; `sys.argv` if None.

  Raises:
    SystemExit: Always, with the status.
  """
  known = set(flags.FLAGS)
  define()
  for name in set(flags.FLAGS) - known:
    # For `--help`, also if it was defined by a function of this module.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  argv = list(sys.argv if argv is None else argv)
  try:
    app.run(lambda rest: _call(main, rest), join_booleans(argv))
  finally:
    for name in set(flags.FLAGS) - known:
      delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


def join_booleans(argv, flag_values=flags.FLAGS):
  """Turns `--flag True` into `--flag=True` for boolean flags.

  absl alone would take `True` for a positional argument; scripts that were
  written with argparse accept this form.

  Args:
    argv: list of str, the program's name first.
    flag_values: flags.FlagValues that knows which flags are boolean.

  Returns:
    list of str; what follows `--` is left alone.
  """
  joined = []
  for position, word in enumerate(argv):
    if word == "--":
      return joined + list(argv[position:])
    if (
      joined
      and word.lower() in _BOOLEANS
      and joined[-1].startswith("-")
      and _is_boolean(joined[-1].lstrip("-"), flag_values)
    ):
      joined[-1] += f"={word}"
    else:
      joined.append(word)
  return joined


def define_export():
  """Defines the flags of all scripts that export."""
  flags.DEFINE_string(
    "ckpt_path",
    "/tmp/delf-logdir/delf-weights",
    "Prefix of the checkpoint, this library's or the original's.",
  )
  flags.DEFINE_string("export_path", None, "Folder of the SavedModel to be.")
  flags.DEFINE_string(
    "backbone",
    "resnet50",
    "Backbone: resnet50, resnet101 or compact.",
  )
  flags.DEFINE_boolean(
    "overwrite", False, "Whether to replace a finished export."
  )


def define_local_export():
  """Defines the flags of scripts that export local features."""
  flags.DEFINE_boolean(
    "block3_strides", True, "Whether the model was trained with them."
  )
  flags.DEFINE_float(
    "iou",
    1.0,
    "Overlap of two receptive boxes over which one is dropped; 1 keeps all.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  flags.DEFINE_boolean(
    "use_autoencoder", True, "Whether local features are an autoencoder's."
  )
  flags.DEFINE_float("autoencoder_dimensions", 128, "Size of its codes.")
  flags.DEFINE_float(
    "local_feature_map_channels", 1024, "Channels of what it reconstructs."
  )


def define_global_export(delg_global_features):
  """Defines the flags of scripts that export the global descriptor.

  Args:
    delg_global_features: Default of the flag of this name.
  """
  flags.DEFINE_boolean(
    "delg_global_features",
    delg_global_features,
    "Whether it is a DELG model, with GeM pooling and an embedding layer.",
  )
  flags.DEFINE_float("delg_gem_power", 3.0, "Power of the GeM pooling.")
  flags.DEFINE_integer(
    "delg_embedding_layer_dim", 2048, "Size of the global descriptor."
  )


def define_retrieval():
  """Defines the flags of all scripts that rank a data set's images."""
  flags.DEFINE_string(
    "dataset_file_path",
    "/tmp/gnd_roxford5k.mat",
    "ground truth of the data set, .mat or .pkl",
  )
  flags.DEFINE_boolean(
    "use_geometric_verification",
    False,
    "Whether the first 100 of each query are re-ranked by their inliers.",
  )
  flags.DEFINE_string(
    "output_dir",
    "/tmp/retrieval",
    "folder for metrics.txt and the record of what was verified",
  )


def print_problem(line):
  """Prints a line about what failed; results go to standard output."""
  print(line, file=sys.stderr)  # noqa: T201


def print_report(folder, report):
  """Prints what became of work on many images.

  Args:
    folder: Where its results are.
    report: Object with `summary()` and `exit_status`.

  Returns:
    The exit status.
  """
  print(f"{folder}: {report.summary()}")  # noqa: T201
  return report.exit_status


def _is_for_people(record):
  """Returns whether a log record is worth a line.

  TensorFlow tells of each file that it writes, and of each name in it.
  """
  by_tensorflow = f"{os.sep}tensorflow{os.sep}" in record.pathname
  return record.levelno > logging.INFO or not by_tensorflow


def _is_boolean(name, flag_values):
  return name in flag_values and flag_values[name].boolean


def _call(main, rest):
  if len(rest) > 1:
    raise app.UsageError(f"expected flags only, received {' '.join(rest[1:])}")
  errors.log_warnings()
  # It tells which of its builds it loads.
  logging.getLogger("faiss").setLevel(logging.WARNING)
  logging.getLogger("absl").addFilter(_is_for_people)
  try:
    return main()
  except (errors.InputError, OSError) as error:
    message = errors.one_line(error)
    print(f"{sys.argv[0]}: {message}", file=sys.stderr)  # noqa: T201
    return 1
  except KeyboardInterrupt:
    print(f"{sys.argv[0]}: interrupted", file=sys.stderr)  # noqa: T201
    return errors.INTERRUPTED


FLAGS = flags.FLAGS


def define(outputs):
  """Defines the flags of all of them.

  Args:
    outputs: Words for what is written to `output_features_dir`.
  """
  flags.DEFINE_string(
    "delf_config_path",
    "/tmp/delf_config_example.pbtxt",
    "DelfConfig: model and settings",
  )
  flags.DEFINE_string(
    "dataset_file_path",
    "/tmp/gnd_roxford5k.mat",
    "ground truth of the data set, .mat or .pkl",
  )
  flags.DEFINE_string(
    "images_dir", "/tmp/images", "folder with <name>.jpg of each image"
  )
  flags.DEFINE_string("output_features_dir", "/tmp/features", outputs)
  flags.DEFINE_string(
    "device", None, "cpu, gpu or gpu:N; the best there is if not set"
  )


def images(image_set, scale_limits=False):
  """Returns the dataset_images.DatasetImages that the flags name.

  Args:
    image_set: "query" or "index".
    scale_limits: As of `dataset_images.read`.
  """
  return ground_truth.read_dataset_images(
    FLAGS.dataset_file_path, image_set, FLAGS.images_dir, scale_limits
  )


def extract_images(config, found, **options):
  """Extracts features of images, and says what became of it.

  Args:
    config: delf_config_pb2.DelfConfig.
    found: dataset_images.DatasetImages.
    **options: More fields of extract.ExtractOptions.

  Returns:
    The exit status.
  """
  report = extract.extract_and_say(
    found.paths,
    config,
    FLAGS.output_features_dir,
    print_problem,
    names=found.names,
    crops=found.crops,
    device=FLAGS.device,
    **options,
  )
  return print_report(FLAGS.output_features_dir, report)
