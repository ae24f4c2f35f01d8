"""Script that aggregates the features of a data set's images."""

from absl import flags

from delf.aggregation import aggregate_files
from delf.base import errors
from delf.cli import scripts
from delf.formats import configs
from delf.python.datasets.revisited_op import dataset

FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags."""
  flags.DEFINE_string(
    "aggregation_config_path",
    "/tmp/aggregation_config.pbtxt",
    "AggregationConfig: kind, codebook and settings",
  )
  flags.DEFINE_string(
    "dataset_file_path",
    "/tmp/gnd_roxford5k.mat",
    "ground truth of Revisited Oxford or Paris, which names the images",
  )
  flags.DEFINE_boolean(
    "use_query_images",
    False,
    "whether to aggregate the query images, and not the index images",
  )
  flags.DEFINE_string("features_dir", "/tmp/features", "folder of <image>.delf")
  flags.DEFINE_string(
    "index_mapping_path",
    "",
    "CSV file that says which feature files hold the regions of each index "
    "image; without it the features of an image are in <image>.delf",
  )
  flags.DEFINE_string(
    "output_aggregation_dir",
    "/tmp/aggregation",
    "folder for <image>.asmk_star and the like",
  )


def main():
  """Aggregates what is missing in the folder; returns the exit status."""
  if FLAGS.use_query_images and FLAGS.index_mapping_path:
    raise errors.InputError(
      "index_mapping_path for index images alone", "use_query_images too"
    )
  queries, index, _ = dataset.ReadDatasetFile(FLAGS.dataset_file_path)
  report = None
  try:
    report = aggregate_files.aggregate_to_files(
      queries if FLAGS.use_query_images else index,
      FLAGS.features_dir,
      configs.read_aggregation_config(FLAGS.aggregation_config_path),
      FLAGS.output_aggregation_dir,
      FLAGS.index_mapping_path,
    )
  except OSError as error:
    report = getattr(error, "report", None)
    raise
  finally:
    for failure in report.failed if report else ():
      scripts.print_problem(failure)
  return scripts.print_report(FLAGS.output_aggregation_dir, report)


if __name__ == "__main__":
  scripts.run(main, define_flags)
