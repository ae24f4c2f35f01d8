"""Boxes and features of a data set's images, under the original's name."""

from absl import logging

from delf.base import errors
from delf.extraction import regions
from delf.formats import configs


def ExtractBoxesAndFeaturesToFiles(  # noqa: PLR0913 (the contract's signature)
  image_names,
  image_paths,
  delf_config_path,
  detector_model_dir,
  detector_thresh,
  output_features_dir,
  output_boxes_dir,
  output_mapping,
):
  """Find boxes in images and extract features; see `regions.extract_regions`.

  Args:
    image_names: Names without extension, in the order of the data set.
    delf_config_path: DelfConfig in text format. Local features are extracted,
      whatever else it asks for.
    detector_thresh: Least score of a box whose features are extracted.
    output_features_dir: Folder for `<image>_0.delf` of the whole image,
      `<image>_1.delf` and so on of the boxes, in pixels of the crop.
    output_boxes_dir: Folder for `<image>.boxes`, with all boxes.
    output_mapping: CSV file to be, of the feature files.
  """
  if len(image_names) != len(image_paths):
    raise errors.InputError(
      "as many image_names as image_paths",
      f"{len(image_names)} and {len(image_paths)}",
    )
  report = regions.extract_regions(
    image_paths,
    configs.read_local_config(delf_config_path),
    detector_model_dir,
    output_features_dir,
    output_boxes_dir,
    output_mapping,
    names=list(map(str, image_names)),
    threshold=detector_thresh,
  )
  for failure in report.failed:
    logging.warning("%s", failure)
  return report
