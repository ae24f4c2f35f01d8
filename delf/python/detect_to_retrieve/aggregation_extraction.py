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
  """Aggregate the features of images; see `aggregate_files`.

  Args:
    image_names: Names without extension, in the order of the data set.
    mapping_path: CSV file of the feature files of each image's regions, or "":
      `<image>.delf` of each.
    output_aggregation_dir: Folder for `<image>.rasmk_star` and the like.
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
