"""Boxes of many photos, and features of each box, from photos to files."""

import dataclasses
import math
import os
from collections.abc import Sequence

from delf.python import errors, files
from delf.python.pipelines import (
  box_folder,
  extract_report,
  jobs,
  output_folder,
  provenance,
  region_plan,
  region_run,
  side_by_side,
)


@dataclasses.dataclass(frozen=True)
class RegionOptions:
  """How to extract; the configuration says what.

  Attributes:
    threshold: The least score of a box that is a region.
    most: The most regions of a photo beside the whole of it, those of the
      highest scores; None for all over the threshold.
    names: Name of each image, without extension and relative to the output
      folders, or None for their base names.
    workers: Threads that decode.
    extract_workers: Regions that a CPU extracts at once, or None: one per core.
    device: Device such as "cpu" or "gpu:1", or None for the best there is.
    apply_rotation: Whether photos are turned as their EXIF orientation says.
    extractor: Extractor to use in place of one made from the configuration.
    one_core_each: Whether operations of TensorFlow are to run on one core each,
      a region per core; for programs that do nothing else with TensorFlow, as
      it is for the whole process (`devices.use_one_core_each`).
  """

  threshold: float = 0.1
  most: int | None = None
  names: Sequence[str] | None = None
  workers: int = 1
  extract_workers: int | None = None
  device: str | None = None
  apply_rotation: bool = False
  extractor: object = None
  one_core_each: bool = False

  def __post_init__(self):
    if not math.isfinite(self.threshold):
      raise errors.InputError(
        "a finite threshold of scores", f"{self.threshold}"
      )


def extract_regions(
  images, config, detector, features_dir, boxes_dir, mapping_path, **options
):
  """Finds boxes in photos, and extracts features of the photos and the boxes.

  Written are `<image>.boxes` with all boxes, `<image>_0.delf` of the whole
  image, `<image>_1.delf` and so on of the boxes at or over the threshold, in
  pixels of the part, and at the end the mapping that lists these files. A photo
  is decoded once. One that fails is reported, and the others go on.

  A run that was ended at any moment can be repeated: it does what is missing.
  A mapping that is there is that of a whole run: it is removed before anything
  is changed.

  Args:
    images: Paths of photos.
    config: delf_config_pb2.DelfConfig.
    detector: Folder or name of a detector, or an object with `detect`; None for
      boxes that are there.
    features_dir: Local folder, made if need be.
    boxes_dir: Local folder, made if need be; may be the same.
    mapping_path: Path of the CSV file, or None for none.
    **options: Fields of RegionOptions.

  Returns:
    region_report.RegionReport. An interrupt by the user (SIGINT) also ends in
    one.

  Raises:
    InputError: If nothing can be done: no images, two for one name, a model or
      detector that does not work, folders of other features or boxes.
    OSError: If files cannot be written. What was done until then is in its
      attribute `report`, if it was begun.
  """
  options = RegionOptions(**options)
  plan = jobs.plan(images, options.names)
  if mapping_path is not None and os.path.isdir(mapping_path):
    raise errors.InputError("a file or a new name", "a folder", mapping_path)
  boxes = box_folder.BoxFolder(
    boxes_dir, _folder_of(detector), options.apply_rotation
  )
  folder = output_folder.OutputFolder(
    features_dir, config, files.DELF, _made_with(config, options)
  )
  folder.check([], overwrite=False)
  run = region_run.Run(
    plan,
    (boxes, folder, mapping_path),
    region_plan.Choice(options.threshold, options.most, options.apply_rotation),
    _all_names(images, options.names),
  )
  if run.todo:
    folder.prepare()
    return run.do(
      options.extractor or _make_extractor(config, options),
      _load_detector(detector, options) if run.needs_detector else None,
      config,
      options,
    )
  return run.finish()


def extract_and_say(*args, say, **options):
  """Does `extract_regions` for a program; what failed is said in any case.

  Args:
    *args: As of `extract_regions`.
    say: Function of a line: called for each photo that failed, also before an
      error, as of a full disk.
    **options: As of `extract_regions`.

  Returns:
    region_report.RegionReport.
  """
  return extract_report.say_failures(
    lambda: extract_regions(*args, **options), say
  )


def _all_names(images, names):
  """Returns the name of each image, those that are repeated too."""
  if names is not None:
    return list(names)
  return [os.path.splitext(os.path.basename(path))[0] for path in images]


def _folder_of(detector):
  if detector is None or hasattr(detector, "detect"):
    return None
  from delf.python.inference import zoo

  return zoo.resolve(detector)


def _made_with(config, options):
  from delf.python.inference import zoo

  folder = None
  if options.extractor is None or config.model_path:
    folder = zoo.resolve(config.model_path)
  return provenance.describe(config, folder, options.apply_rotation)


def _make_extractor(config, options):
  # TensorFlow is loaded here, once there is something to do.
  from delf.python.inference import devices, extractor

  workers = side_by_side.number_of_workers(options.extract_workers)
  if options.one_core_each and workers >= side_by_side.number_of_cores():
    devices.use_one_core_each(options.device)
  return extractor.make_extractor(config, device=options.device)


def _load_detector(detector, options):
  if detector is None:
    return None
  if hasattr(detector, "detect"):
    return detector
  from delf.python.inference import detector as detectors

  return detectors.load(_folder_of(detector), options.device)
