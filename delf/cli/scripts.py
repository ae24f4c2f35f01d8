"""Shared parts of the original's scripts: running as a program, and flags."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from delf.base import errors

FLAGS = flags.FLAGS
# Flags that are defined by functions of this module are those of the script.
flags.disclaim_key_flags()

# Kind of a flag by the type of its default; else it is a string.
_KINDS = {bool: "boolean", int: "integer", float: "float"}
# Values that absl reads as booleans.
_BOOLEANS = ("true", "t", "1", "false", "f", "0")
# Flags of `define_local_export` that say how the model is built.
_LOCAL_MODEL = (
  "block3_strides",
  "use_autoencoder",
  "autoencoder_dimensions",
  "local_feature_map_channels",
)


def run(
  main: Callable[[], int | None],
  define_flags: Callable[[], None],
  argv: Sequence[str] | None = None,
) -> None:
  """Run a script as `absl.app.run` does, and exit.

  Flags are defined here and not when a script is imported, so that two scripts
  with flags of the same name can be imported side by side. Bad input, and files
  that cannot be read or written, end the script with one line on standard error
  and status 1, an interrupt with 130.

  Args:
    main: Does the work, reading `FLAGS`; returns the exit status.
    define_flags: Defines the flags.
    argv: Arguments, the program's name first; by default `sys.argv`.
  """
  known = set(FLAGS)
  define_flags()
  for name in set(FLAGS) - known:
    # For `--help`, also if it was defined by a function of this module.
    FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])
  argv = list(sys.argv if argv is None else argv)
  try:
    app.run(lambda rest: _call(main, rest), _join_booleans(argv))
  finally:
    for name in set(FLAGS) - known:
      delattr(FLAGS, name)
    FLAGS.unparse_flags()


def print_problem(line: str) -> None:
  """Print a line about a failure; results go to standard output."""
  print(line, file=sys.stderr)


def print_report(folder: str, report: Any) -> int:
  """Print the summary of work in a folder; returns its exit status."""
  print(f"{folder}: {report.summary()}")
  return report.exit_status


def end_stopped(number: int, place: str, how: str) -> int:
  """Print where a signal stopped a run; return the exit status."""
  print_problem(f"{sys.argv[0]}: stopped {place}; {how}")
  return 128 + number  # As shells have it.


def define(
  name: str, default: Any, help: str, choices: Sequence = (), **more: Any
) -> None:
  """Define a flag of its default's type; None stands for a string."""
  if choices:
    flags.DEFINE_enum(name, default, choices, help, **more)
    return
  kind = _KINDS.get(type(default), "string")
  getattr(flags, f"DEFINE_{kind}")(name, default, help, **more)


def define_device() -> None:
  """Define --device."""
  define("device", None, "cpu, gpu or gpu:N; the best one if not set")


def define_list(default: str) -> None:
  """Define the list of images."""
  define("list_images_path", default, "text file, one image path per line")


def define_config() -> None:
  """Define the configuration of extraction."""
  default = "/tmp/delf_config_example.pbtxt"
  define("delf_config_path", default, "DelfConfig: model and settings")


def define_extraction(outputs: str) -> None:
  """Define the flags of scripts that extract features of a data set's images.

  `outputs` describes the files in `output_features_dir`.
  """
  define_config()
  _define_dataset()
  define("images_dir", "/tmp/images", "folder with <name>.jpg of each image")
  define("output_features_dir", "/tmp/features", outputs)
  define_device()


def images(image_set: str, scale_limits: bool = False) -> Any:
  """Return the `ground_truth.DatasetImages` that the flags name."""
  from delf.evaluation import ground_truth

  return ground_truth.read_dataset_images(
    FLAGS.dataset_file_path, image_set, FLAGS.images_dir, scale_limits
  )


def extract_images(config: Any, dataset_images: Any, **options: Any) -> int:
  """Extract features of `DatasetImages`, with options of `extract_to_files`.

  Prints a summary; returns the exit status.
  """
  from delf.extraction import extract

  report = extract.extract_to_files(
    dataset_images.paths,
    config,
    FLAGS.output_features_dir,
    say=print_problem,
    names=dataset_images.names,
    crops=dataset_images.crops,
    device=FLAGS.device,
    **options,
  )
  return print_report(FLAGS.output_features_dir, report)


def define_retrieval() -> None:
  """Define the flags of scripts that rank a data set's images."""
  _define_dataset()
  help = "Whether the first 100 of each query are re-ranked by their inliers."
  define("use_geometric_verification", False, help)
  help = "folder for metrics.txt and the record of verified pairs"
  define("output_dir", "/tmp/retrieval", help)


def define_export() -> None:
  """Define the flags of all scripts that export."""
  help = "Prefix of the checkpoint, this library's or the original's."
  define("ckpt_path", "/tmp/delf-logdir/delf-weights", help)
  define("export_path", None, "Folder for the SavedModel.")
  define("backbone", "resnet50", "Backbone: resnet50, resnet101 or compact.")
  define("overwrite", False, "Whether to replace a finished export.")


def define_local_export() -> None:
  """Define the flags of scripts that export local features."""
  define("block3_strides", True, "Whether the model was trained with them.")
  define(
    "iou",
    1.0,
    "Overlap of two receptive boxes over which one is dropped; 1 keeps all.",
    lower_bound=0.0,
    upper_bound=1.0,
  )
  help = "Whether local features are an autoencoder's."
  define("use_autoencoder", True, help)
  define("autoencoder_dimensions", 128.0, "Size of its codes.")
  help = "Channels of the feature map that it reconstructs."
  define("local_feature_map_channels", 1024.0, help)


def define_global_export(delg_global_features: bool) -> None:
  """Define the flags of scripts that export the global descriptor."""
  help = "Whether it is a DELG model, with GeM pooling and an embedding layer."
  define("delg_global_features", delg_global_features, help)
  define("delg_gem_power", 3.0, "Power of the GeM pooling.")
  define("delg_embedding_layer_dim", 2048, "Size of the global descriptor.")


def load_model(*parts: str) -> Any:
  """Load the parts, "local" and "global", of the model that the flags name."""
  from delf.networks import exporting

  options = {"backbone": FLAGS.backbone, "block3_strides": False}
  if "local" in parts:
    options |= {name: FLAGS[name].value for name in _LOCAL_MODEL}
  if "global" in parts:
    options["delg"] = FLAGS.delg_global_features
    options["gem_power"] = FLAGS.delg_gem_power
    options["embedding_layer_dim"] = FLAGS.delg_embedding_layer_dim
  return exporting.load_model(FLAGS.ckpt_path, parts=parts, **options)


def define_contest(predictions: str, solution: str) -> None:
  """Define the files of a contest of Google Landmarks, of these columns."""
  define("predictions_path", "/tmp/predictions.csv", f"CSV: {predictions}")
  define("solution_path", "/tmp/solution.csv", f"CSV: {solution},Usage")


def print_metrics(task: str, label: str, lines: Callable) -> None:
  """Print `lines(predictions, solution)` of each part of a contest."""
  from delf.python.datasets.google_landmarks_dataset import dataset_file_io

  public, private, ignored = dataset_file_io.ReadSolution(
    FLAGS.solution_path, task
  )
  predictions = dataset_file_io.ReadPredictions(
    FLAGS.predictions_path, public, private, ignored, task
  )
  solutions = public, private
  parts = zip(("Public", "Private"), predictions, solutions, strict=True)
  for part, predicted, solution in parts:
    print(f"{part}: {len(solution)} test images, {len(predicted)} {label}")
    for line in lines(predicted, solution):
      print(line)
  print(f"Ignored: {len(ignored)} test images")


def _define_dataset():
  help = "ground truth of the data set, .mat or .pkl"
  define("dataset_file_path", "/tmp/gnd_roxford5k.mat", help)


def _join_booleans(argv):
  """Turn `--flag True` into `--flag=True` for boolean flags.

  absl alone would take `True` for a positional argument; scripts that were
  written with argparse accept this form. Arguments after `--` stay.
  """
  joined: list[str] = []
  for position, argument in enumerate(argv):
    if argument == "--":
      return joined + list(argv[position:])
    name = joined[-1].lstrip("-") if joined else ""
    if (
      argument.lower() in _BOOLEANS
      and name in FLAGS
      and joined[-1].startswith("-")
      and FLAGS[name].boolean
    ):
      joined[-1] += f"={argument}"
    else:
      joined.append(argument)
  return joined


def _call(main, rest):
  if len(rest) > 1:
    raise app.UsageError(f"not a flag: {' '.join(rest[1:])}")
  errors.log_warnings()
  # faiss logs which of its builds it loads.
  logging.getLogger("faiss").setLevel(logging.WARNING)
  logging.getLogger("absl").addFilter(_is_for_people)
  try:
    return main()
  except (errors.InputError, OSError) as error:
    print_problem(f"{sys.argv[0]}: {errors.one_line(error)}")
    return 1
  except KeyboardInterrupt:
    print_problem(f"{sys.argv[0]}: interrupted")
    return errors.INTERRUPTED


def _is_for_people(record):
  """Whether a log record is worth a line.

  TensorFlow logs each file that it writes, and each name in it.
  """
  by_tensorflow = f"{os.sep}tensorflow{os.sep}" in record.pathname
  return record.levelno > logging.INFO or not by_tensorflow
