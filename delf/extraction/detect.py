"""Boxes of many images, from image files to `.boxes` files and pictures."""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

import delf
from delf.base import boxes, errors, files
from delf.extraction import engine, extract
from delf.inference import zoo
from delf.protos import delf_config_pb2
from delf.python import box_io, utils

# Settings of the boxes or pictures in the same folder.
RECORD = "detection.json"


def describe(
  detector: str | os.PathLike | None,
  apply_rotation: bool,
  threshold: float | None = None,
  most_overlap: float | None = None,
  max_size: int | None = None,
) -> dict:
  """Return the settings that determine boxes, for OutputFolder.

  Without a detector they are empty: existing files of any settings are used.
  """
  if detector is None:
    return {}
  made_with = {
    "delf_version": delf.__version__,
    "detector_path": os.fspath(detector),
    "detector": extract.fingerprint(detector),
    "apply_rotation": bool(apply_rotation),
    "threshold": threshold,
    "most_overlap": most_overlap,
    "max_size": max_size,
  }
  return {"": made_with}


class BoxFolder(extract.OutputFolder):
  """`<image>.boxes` of one detector in one folder."""

  record, content, maker = RECORD, "boxes", "detector"
  for_people = ("delf_version", "detector_path")
  endings = (files.BOXES,)

  def read(self, job: engine.Job) -> boxes.Detections | None:
    """Read the detections of a photo; None if missing, or of another photo.

    InputError if a file without a record is damaged.
    """
    (path,) = self.paths(job)
    if not path.exists() or self.photos.has_changed(job):
      return None
    if self.photos.has(job) and not self.photos.is_whole(job, path):
      return None
    return boxes.make_detections(*box_io.ReadFromFile(path), path)

  def write(
    self, job: engine.Job, detections: boxes.Detections, image: Any = None
  ) -> None:
    """Write the boxes of a photo atomically."""
    arrays = (detections.boxes, detections.scores, detections.classes)
    box_io.WriteToFile(self.paths(job)[0], *arrays)
    self.photos.add(job, self.paths(job))

  def _is_readable(self, path):
    with contextlib.suppress(OSError, ValueError):
      boxes.make_detections(*box_io.ReadFromFile(path), path)
      return True
    return False

  def _read_record(self):
    record = super()._read_record()
    return {"": record} if record else {}


class PictureFolder(BoxFolder):
  """`<image>_viz.jpg`, photos with boxes; redrawn if not recorded."""

  content, endings = "pictures", ("_viz.jpg",)

  def write(
    self, job: engine.Job, detections: boxes.Detections, image: Any = None
  ) -> None:
    """Draw the boxes of a photo [H, W, 3] atomically."""
    from delf.pictures import figures  # Imports matplotlib.

    caption = pathlib.PurePath(job.path).name
    arrays = (detections.boxes, detections.scores)
    figures.draw_boxes(self.paths(job)[0], image, *arrays, caption=caption)
    self.photos.add(job, self.paths(job))

  def _is_readable(self, path):
    return False  # The content of a picture is unknown.


def check_threshold(threshold: float) -> None:
  """Raise InputError about a threshold that is not a finite number."""
  if not math.isfinite(threshold):
    message = f"the threshold must be a finite number, not {threshold}"
    raise errors.InputError(message)


@dataclasses.dataclass(frozen=True)
class DetectOptions(engine.ImageOptions):
  """Options of a detection."""

  threshold: float = 0.0  # Least score of a box.
  # Largest IoU of a box with a better one of its class; None keeps the boxes
  # that the detector selects.
  most_overlap: float | None = None
  max_size: int | None = None  # Longer side of images for the detector.
  # Called with engine.Job, boxes.Detections and the image's (height, width).
  see: Callable | None = None

  def __post_init__(self) -> None:
    check_threshold(self.threshold)
    if self.most_overlap is not None and not 0 <= self.most_overlap <= 1:
      message = f"the overlap must be in [0, 1], not {self.most_overlap}"
      raise errors.InputError(message)


@dataclasses.dataclass(frozen=True)
class DetectReport(engine.ImageReport):
  """Result of a detection, with the number of detected boxes."""

  boxes: int = 0
  photos: tuple = ()  # Of `delf.detect`: PhotoBoxes of each photo.

  _verb: ClassVar[str] = "searched for boxes"

  def summary(self) -> str:
    """Return one line of text."""
    number = f"{self.boxes} box{'' if self.boxes == 1 else 'es'}; "
    return f"{number if self.done else ''}{super().summary()}"


class _Outputs:
  """Boxes in one folder and pictures in another; either may be None."""

  def __init__(self, folder, pictures, made_with, see):
    kinds = ((BoxFolder, folder), (PictureFolder, pictures))
    self._folders = [kind(f, made_with) for kind, f in kinds if f is not None]
    self._see = see
    self.wants_images = pictures is not None or see is not None
    self._number = 0

  def check(self, plan, overwrite):
    for each in self._folders:
      each.check(plan, overwrite)

  def divide(self, plan):
    """Returns jobs to do, and jobs that are done in all folders."""
    done = {job.name for job in plan} if self._folders else set()
    for each in self._folders:
      done &= {job.name for job in each.divide(plan)[1]}
    split: tuple[list, list] = ([], [])
    for job in plan:
      split[job.name in done].append(job)
    return split

  def prepare(self):
    for each in self._folders:
      each.prepare()

  def claim(self, todo, overwrite):
    for each in self._folders:
      each.claim(todo, overwrite or isinstance(each, PictureFolder))

  def write(self, job, detections, image=None):
    for each in reversed(self._folders):
      each.write(job, detections, image)
    self._number += len(detections)
    if self._see is not None:
      self._see(job, detections, image.shape[:2])

  def finish(self):
    pass

  def report_fields(self):
    return {"boxes": self._number}

  def close(self):
    for each in self._folders:
      each.close()


def detect_to_files(
  images: Sequence[str | os.PathLike],
  detector: str | os.PathLike,
  folder: str | os.PathLike | None = None,
  pictures: str | os.PathLike | None = None,
  **options: Any,
) -> DetectReport:
  """Detect boxes in images and write them to files.

  The run is resumable, as that of `extract.extract_to_files`; `detection.json`
  in each folder has the detector and settings.

  The detector is a name or the folder of a SavedModel. `folder` is for
  `<name>.boxes` and `pictures` for `<name>_viz.jpg`; either may be None.
  Options are fields of DetectOptions.
  """
  chosen = DetectOptions(**options)
  plan = engine.plan(images, chosen.names)
  least, overlap = float(chosen.threshold), chosen.most_overlap
  made_with = describe(
    zoo.resolve(detector),
    chosen.apply_rotation,
    least,
    overlap,
    chosen.max_size,
  )
  outputs = _Outputs(folder, pictures, made_with, chosen.see)

  def make():
    extractor = _DetectionExtractor(detector, chosen)
    return extractor, extractor.config

  report = DetectReport()
  return engine.run_images(plan, outputs, make, chosen, report, "detecting")


class _DetectionExtractor:
  """A detector with the methods of an extractor, for `engine.run_images`."""

  def __init__(self, detector_name, options):
    # Imports TensorFlow, which a run without missing files does not need.
    from delf.inference import detector

    self._detector = detector.load(detector_name, options.device)
    self.device = self._detector.device
    self._options = options
    self.config = delf_config_pb2.DelfConfig(
      image_scales=[1.0], max_image_size=options.max_size or -1
    )

  def extract(self, image):
    return self.extract_batch([image])[0]

  def extract_batch(self, images):
    resized = [utils.ResizeImage(image, self.config)[0] for image in images]
    results = []
    for detections in self._detector.detect(np.stack(resized)):
      selected = detections.at_least(self._options.threshold)
      if self._options.most_overlap is not None:
        selected = selected.apart(self._options.most_overlap)
      results.append(selected)
    return results
