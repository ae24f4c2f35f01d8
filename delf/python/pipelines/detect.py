"""Boxes in many images, from image files to `.boxes` files and pictures."""

import dataclasses
import typing
from collections.abc import Callable

import numpy as np

from delf.protos import delf_config_pb2
from delf.python import errors, utils
from delf.python.pipelines import (
  detection_files,
  extract_report,
  image_run,
  jobs,
  run_options,
)


@dataclasses.dataclass(frozen=True)
class DetectOptions(run_options.RunOptions):
  """How to detect: as RunOptions, and more.

  Attributes:
    threshold: The least score of a box.
    most_overlap: IoU up to which a box may overlap a better one of its class,
      or None: the boxes are the detector's, which has chosen already.
    max_size: Pixels that the longer side of an image is scaled down to before,
      or None. Boxes do not depend on the unit.
    see: Function of (jobs.Job, detections.Detections, (height, width) of the
      image), called when an image is done, or None.
  """

  threshold: float = 0.0
  most_overlap: float | None = None
  max_size: int | None = None
  see: Callable | None = None

  def __post_init__(self):
    """Checks the numbers."""
    if not np.isfinite(self.threshold):
      raise errors.InputError("a number as threshold", f"{self.threshold}")
    if self.most_overlap is not None and not 0 <= self.most_overlap <= 1:
      raise errors.InputError(
        "an overlap of boxes in [0, 1]", f"{self.most_overlap}"
      )


@dataclasses.dataclass(frozen=True)
class DetectReport(extract_report.ExtractReport):
  """What became of each image, as ExtractReport.

  Attributes:
    boxes: Number of boxes in the images that were done.
  """

  boxes: int = 0

  _verb: typing.ClassVar[str] = "searched for boxes"

  def summary(self):
    """Returns one line for people."""
    boxes = f"{self.boxes} box{'' if self.boxes == 1 else 'es'}; "
    return f"{boxes if self.done else ''}{super().summary()}"


def detect_and_say(images, detector, folder, pictures, say, **options):
  """Does `detect_to_files` for a program; what failed is said in any case.

  Args:
    images: As in `detect_to_files`.
    detector: As there.
    folder: As there.
    pictures: As there.
    say: Function of a line: called for each image that failed, also before an
      error, as of a full disk.
    **options: Fields of DetectOptions.

  Returns:
    DetectReport.
  """
  return extract_report.say_failures(
    lambda: detect_to_files(images, detector, folder, pictures, **options), say
  )


def detect_to_files(images, detector, folder=None, pictures=None, **options):
  """Finds boxes in images, and writes them, each file whole or not at all.

  Images are decoded in the background; an image that fails is reported and the
  others go on. A run that was ended at any moment can be repeated: it does what
  is missing in the folders. `detection.json` in each says what detector and
  settings the boxes or pictures are of; others are refused.

  Args:
    images: Paths of image files.
    detector: Name of a detector, or folder of its SavedModel.
    folder: Local folder, made if need be, for `<name>.boxes`; or None.
    pictures: Local folder for `<name>_viz.jpg`, the image with its boxes and
      scores; or None.
    **options: Fields of DetectOptions.

  Returns:
    DetectReport. An interrupt by the user (SIGINT) also ends in one.

  Raises:
    InputError: If nothing can be done: no images, two for one output name, a
      detector that does not work, a folder of boxes or pictures of other
      settings.
    OSError: If files cannot be written. What was done until then is in its
      attribute `report`, a DetectReport, if it was begun.
  """
  from delf.python.inference import zoo

  options = DetectOptions(**options)
  todo, done = jobs.plan(images, options.names), []
  outputs = detection_files.DetectionFiles(
    folder, pictures, zoo.resolve(detector), options
  )
  outputs.check(todo, overwrite=not options.resume)
  if options.resume:
    todo, done = outputs.divide(todo)
  report = DetectReport(skipped=tuple(job.path for job in done))
  if not todo:
    return report
  outputs.prepare()
  finder = _Finder(detector, options)
  run = image_run.ImageRun(
    finder, finder.config, outputs, options, report, "detecting"
  )
  try:
    report = run.do(todo)
  except OSError as error:
    if isinstance(getattr(error, "report", None), DetectReport):
      error.report = dataclasses.replace(error.report, boxes=outputs.number)
    raise
  return dataclasses.replace(report, boxes=outputs.number)


class _Finder:
  """A detector in the form that batches of images are done with."""

  def __init__(self, detector_name, options):
    # TensorFlow is loaded here, once there is something to do.
    from delf.python.inference import detector

    self._detector = detector.load(detector_name, options.device)
    self.device = self._detector.device
    self._options = options
    self.config = delf_config_pb2.DelfConfig(
      image_scales=[1.0], max_image_size=options.max_size or -1
    )

  def extract(self, image):
    """Returns the Detections of an image."""
    return self.extract_batch([image])[0]

  def extract_batch(self, images):
    """Returns the Detections of images of one size."""
    resized = [utils.ResizeImage(image, self.config)[0] for image in images]
    return [
      self._choose(found) for found in self._detector.detect(np.stack(resized))
    ]

  def _choose(self, found):
    found = found.at_least(self._options.threshold)
    if self._options.most_overlap is None:
      return found
    return found.apart(self._options.most_overlap)
