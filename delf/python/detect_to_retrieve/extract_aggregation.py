"""Script that aggregates the features of a data set's images."""

from delf.aggregation import aggregate_files
from delf.base import errors
from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.formats import configs
from delf.python.datasets.revisited_op import dataset


def define_flags():
  """Define the flags."""
  help = "AggregationConfig: kind, codebook and settings"
  define("aggregation_config_path", "/tmp/aggregation_config.pbtxt", help)
  help = "ground truth of Revisited Oxford or Paris, which names the images"
  define("dataset_file_path", "/tmp/gnd_roxford5k.mat", help)
  help = "whether to aggregate the query images, and not the index images"
  define("use_query_images", False, help)
  define("features_dir", "/tmp/features", "folder of <image>.delf")
  define(
    "index_mapping_path",
    "",
    "CSV file that says which feature files hold the regions of each index "
    "image; without it the features of an image are in <image>.delf",
  )
  help = "folder for <image>.asmk_star and the like"
  define("output_aggregation_dir", "/tmp/aggregation", help)


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
