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
  """Finds boxes in images, and extracts features of the images and the boxes.

  Written are `<image>.boxes` with all boxes; `<image>_0.delf` of the whole
  image and `<image>_1.delf` and so on of the boxes at or over the threshold, in
  pixels of the crop; and a CSV file that lists these. What is there already is
  left; images that fail are reported.

  Args:
    image_names: list of N str, names of images without extension, in the order
      of the data set.
    image_paths: list of N str, paths of their files.
    delf_config_path: Path of a DelfConfig in text format. Local features are
      extracted, whatever else it asks for.
    detector_model_dir: Folder or name of a detector.
    detector_thresh: Least score of a box whose features are extracted.
    output_features_dir: Folder for the features.
    output_boxes_dir: Folder for the boxes.
    output_mapping: Path of the CSV file.

  Returns:
    pipelines.region_report.RegionReport.

  Raises:
    FileNotFoundError: If something that is named is missing.
    InputError: As `pipelines.extract_regions.extract_regions`.
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
