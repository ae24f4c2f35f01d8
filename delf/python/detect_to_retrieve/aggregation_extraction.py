"""Aggregates of a data set's images, under the original's name."""

from absl import logging

from delf.aggregation import aggregate_files
from delf.formats import configs


def ExtractAggregatedRepresentationsToFiles(
  image_names,
  features_dir,
  aggregation_config_path,
  mapping_path,
  output_aggregation_dir,
):
  """Aggregates the features of images, and writes a file for each.

  Images that have one already are skipped; images whose features cannot be read
  are reported.

  Args:
    image_names: list of str, names of images without extension, in the order of
      the data set.
    features_dir: Folder with their `.delf` files.
    aggregation_config_path: Path of an AggregationConfig in text format.
    mapping_path: Path of the CSV file that says which feature files hold the
      regions of each image, or "": `<image>.delf` of each.
    output_aggregation_dir: Folder for `<image>.rasmk_star` and the like.

  Returns:
    pipelines.aggregate.AggregateReport.

  Raises:
    FileNotFoundError: If something that is named is missing.
    InputError: As `pipelines.aggregate.aggregate_to_files`.
  """
  report = aggregate_files.aggregate_to_files(
    image_names,
    features_dir,
    configs.read_aggregation_config(aggregation_config_path),
    output_aggregation_dir,
    mapping_path,
  )
  for failure in report.failed:
    logging.warning("%s", failure)
  return report
