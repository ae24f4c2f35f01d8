"""Boxes and features of the images of a data set, under the original's name."""

from collections.abc import Sequence

from absl import logging

from delf.base import errors, files
from delf.extraction import regions
from delf.formats import configs


def ExtractBoxesAndFeaturesToFiles(  # noqa: PLR0913 (the contract's signature)
  image_names: Sequence[str],
  image_paths: Sequence[files.Path],
  delf_config_path: files.Path,
  detector_model_dir: files.Path,
  detector_thresh: float,
  output_features_dir: files.Path,
  output_boxes_dir: files.Path,
  output_mapping: files.Path,
) -> regions.RegionReport:
  """Detect boxes and extract features; see `regions.extract_regions`.

  Args:
    image_names: Names without extension, in the order of the data set.
    delf_config_path: Text DelfConfig; only local features are extracted.
    detector_thresh: Least score of a box whose features are extracted.
    output_features_dir: Folder for `<image>_0.delf` of the whole image, and
      `<image>_1.delf` and so on of boxes, in pixels of the crop.
    output_boxes_dir: Folder for `<image>.boxes`, with all boxes.
    output_mapping: CSV file of the feature files, written here.
  """
  names, paths = len(image_names), len(image_paths)
  if names != paths:
    raise errors.InputError(f"{names} image_names, but {paths} image_paths")
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
