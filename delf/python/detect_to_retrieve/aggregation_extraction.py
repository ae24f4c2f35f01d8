"""Aggregation of the images of a data set, under the original's name."""

from collections.abc import Sequence

from absl import logging

from delf.aggregation import aggregate_files
from delf.base import files
from delf.formats import configs


def ExtractAggregatedRepresentationsToFiles(
  image_names: Sequence[str],
  features_dir: files.Path,
  aggregation_config_path: files.Path,
  mapping_path: files.Path,
  output_aggregation_dir: files.Path,
) -> aggregate_files.AggregateReport:
  """Aggregate features of images; see `aggregate_files.aggregate_to_files`.

  Args:
    image_names: Names without extension, in the order of the data set.
    mapping_path: CSV file of regions' feature files, or "" for `<image>.delf`.
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
