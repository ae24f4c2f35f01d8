"""Aggregate the features of a data set's images (script)."""

from delf.aggregation import aggregate_files
from delf.base import errors
from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.formats import configs
from delf.python.datasets.revisited_op import dataset


def define_flags() -> None:
  """Define the flags."""
  help = "AggregationConfig: type, codebook and settings."
  define("aggregation_config_path", "/tmp/aggregation_config.pbtxt", help)
  help = "Ground truth of Revisited Oxford or Paris, which lists the images."
  define("dataset_file_path", "/tmp/gnd_roxford5k.mat", help)
  help = "Whether to aggregate the query images instead of the index images."
  define("use_query_images", False, help)
  define("features_dir", "/tmp/features", "Folder of <image>.delf.")
  help = (
    "CSV file of the regions' feature files; by default <image>.delf is used."
  )
  define("index_mapping_path", "", help)
  help = "Folder for <image>.asmk_star and the like."
  define("output_aggregation_dir", "/tmp/aggregation", help)


def main() -> int:
  """Aggregate images that the folder lacks; return the exit status."""
  if FLAGS.use_query_images and FLAGS.index_mapping_path:
    raise errors.InputError("index_mapping_path is for index images only")
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
      scripts.print_problem(str(failure))
  return scripts.print_report(FLAGS.output_aggregation_dir, report)


if __name__ == "__main__":
  scripts.run(main, define_flags)
