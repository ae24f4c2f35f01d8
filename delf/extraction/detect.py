"""Boxes in many images, from image files to `.boxes` files and pictures."""

import dataclasses
import json
import os
import pathlib
import typing
from collections.abc import Callable

import numpy as np

import delf
from delf.base import boxes, errors, files
from delf.extraction import engine, jobs, output_folder
from delf.protos import delf_config_pb2
from delf.python import box_io, utils

# Says what detector the files beside it are of.
RECORD = "detection.json"

# What two records are compared by; the rest is for people. Which boxes were
# kept: None stands for all that the detector gave, for whole images.
_CHOICE = ("threshold", "most_overlap", "max_size")
_COMPARED = ("detector", "apply_rotation", *_CHOICE)


class DetectedFolder:
  """A file for each photo, of one detector, in one folder; of two kinds.

  Attributes:
    folder: pathlib.Path.
    difference: Words for how files that are there were made in another way, ""
      if they were not.
  """

  # Words for the files, and what follows the name of a photo.
  kind = ending = ""

  def __init__(
    self, folder, detector=None, apply_rotation=False, replace=False, **choice
  ):
    """Reads what is there; nothing is written yet.

    Args:
      folder: Local path; need not exist.
      detector: Folder of the detector, or None: files that are there are used,
        whatever they are of.
      apply_rotation: Whether photos are turned as their EXIF orientation says.
      replace: Whether files of another detector may be there, as the caller
        removes them; `check` then says whether all of them.
      **choice: Which boxes are kept, as fields of `detect.DetectOptions`:
        `threshold`, `most_overlap`, `max_size`; None for all.

    Raises:
      InputError: If the folder is none, or has files of another detector.
      FileNotFoundError: If there is no such detector.
    """
    self.folder = files.local_folder(folder)
    self._made_with, self.difference = None, ""
    if detector is not None:
      self._made_with = {
        "delf_version": delf.__version__,
        "detector_path": os.fspath(detector),
        "detector": output_folder.fingerprint(detector),
        "apply_rotation": bool(apply_rotation),
        **{name: choice.get(name) for name in _CHOICE},
      }
      self.difference = self._compare()
    if self.difference and not replace:
      raise self._refusal("another folder")
    self._photos = output_folder.PhotoRecord(self.folder)

  def path(self, job):
    """Returns the pathlib.Path of the file of a photo."""
    return self.folder / f"{job.name}{self.ending}"

  def check(self, jobs, overwrite):
    """Checks that no file would be under a record of other settings.

    Args:
      jobs: Images that are asked for.
      overwrite: Whether their files are to be made anew.

    Raises:
      InputError: If files that are there were made with another detector or
        settings, and would stay. Nothing has been changed then.
    """
    if not self.difference:
      return
    if not overwrite:
      raise self._refusal("--overwrite")
    ours = {job.name for job in jobs}
    for path in self.folder.rglob(f"*{self.ending}"):
      name = path.relative_to(self.folder).as_posix()
      is_temporary = path.name.startswith(".")
      if name.removesuffix(self.ending) not in ours and not is_temporary:
        raise errors.InputError(
          f"--overwrite of all images that have {self.kind} {self.difference}",
          f"only some: {name} would stay",
          self.folder,
        )

  def is_recorded(self, job):
    """Returns whether the file of a photo is there, as it was written."""
    return not self._photos.has_changed(job) and self._photos.is_whole(
      job, self.path(job)
    )

  def claim(self, jobs):
    """Makes the folder, records the detector, and tidies up.

    Args:
      jobs: Photos that are about to be worked on.

    Raises:
      OSError: If it cannot be written.
    """
    self.folder.mkdir(parents=True, exist_ok=True)
    if self._made_with is not None:
      text = json.dumps(self._made_with, indent=2) + "\n"
      files.write_bytes(self.folder / RECORD, text.encode())
    files.remove_leftovers(self.folder, jobs, RECORD, self.ending)

  def remove(self, jobs):
    """Removes the files of photos that are to be done again."""
    for job in jobs:
      self.path(job).unlink(missing_ok=True)

  def note(self, job):
    """Records that the file of a photo is written."""
    path = self.path(job)
    self._photos.add(job, {path.suffix: path.stat().st_size})

  def close(self):
    """Ends the writing."""
    self._photos.close()

  def _refusal(self, way_out):
    return errors.InputError(
      f"{self.kind} of the same detector and settings, or {way_out}",
      f"{self.kind} {self.difference}",
      self.folder / RECORD,
    )

  def _compare(self):
    path = self.folder / RECORD
    if not path.exists():
      return ""
    try:
      found = dict(json.loads(files.read_bytes(path)))
    except (ValueError, TypeError, RecursionError):
      return "made with what is not known"
    return ", ".join(
      f"made with {name} {str(found.get(name))[:20]}"
      f" and not {str(self._made_with[name])[:20]}"
      for name in _COMPARED
      if found.get(name) != self._made_with[name]
    )


class BoxFolder(DetectedFolder):
  """`<image>.boxes` of one detector in one folder.

  A photo counts as done while it has the size that it had, and its file is
  whole. Files of other programs, without a record, are kept where they can be
  read.
  """

  kind, ending = "boxes", files.BOXES

  def read(self, job):
    """Returns the detections of a photo.

    Args:
      job: jobs.Job of the whole photo.

    Returns:
      detections.Detections, or None where there are none yet, or those of
      another photo.

    Raises:
      InputError: If a file of another program is damaged, or has boxes that
        cannot be.
    """
    path = self.path(job)
    if not path.exists() or self._photos.has_changed(job):
      return None
    if self._photos.has(job) and not self._photos.is_whole(job, path):
      return None
    return boxes.make_detections(*box_io.ReadFromFile(path), path)

  def write(self, job, found):
    """Writes the boxes of a photo, whole or not at all.

    Args:
      job: jobs.Job of the whole photo.
      found: detections.Detections.
    """
    data = box_io.SerializeToString(found.boxes, found.scores, found.classes)
    files.write_bytes(self.path(job), data)
    self.note(job)


class PictureFolder(DetectedFolder):
  """`<image>_viz.jpg`, photos with the boxes of one detector, in one folder.

  A photo counts as done while it has the size that it had, and its picture the
  one that was written.
  """

  kind, ending = "pictures", "_viz.jpg"

  def write(self, job, found, image):
    """Draws the boxes of a photo, whole or not at all.

    Args:
      job: jobs.Job of the whole photo.
      found: detections.Detections.
      image: [H, W, 3] uint8.
    """
    # Only who asks for pictures loads what draws.
    from delf.pictures import figures

    figures.draw_boxes(
      self.path(job),
      image,
      found.boxes,
      found.scores,
      caption=pathlib.PurePath(job.path).name,
    )
    self.note(job)


class DetectionFiles:
  """Files of the boxes that one detector finds with one set of settings."""

  def __init__(self, folder, pictures, detector, options):
    """Creates it; nothing is written yet.

    Args:
      folder: Local path for the boxes, which need not exist, or None for none.
      pictures: The same for the pictures.
      detector: Folder of the detector.
      options: detect.DetectOptions.

    Raises:
      InputError: If a folder is not a local one, or is a file.
    """

    def make(kind, path):
      if path is None:
        return None
      return kind(
        path,
        detector,
        options.apply_rotation,
        replace=True,
        threshold=float(options.threshold),
        most_overlap=options.most_overlap,
        max_size=options.max_size,
      )

    self._boxes = make(BoxFolder, folder)
    self._pictures = make(PictureFolder, pictures)
    self._folders = [
      each for each in (self._boxes, self._pictures) if each is not None
    ]
    self._see = options.see
    self.wants_images = pictures is not None or options.see is not None
    self.number = 0

  def check(self, jobs, overwrite):
    """Checks the folders; see `detected_folder.DetectedFolder.check`."""
    for each in self._folders:
      each.check(jobs, overwrite)

  def divide(self, todo):
    """Returns the jobs that are to be done, and those that are done.

    Done are images whose boxes are there, as `box_folder.BoxFolder.read` says,
    and whose pictures are, of what is asked for. Where neither is, none is.
    """
    done = list(filter(self._is_done, todo)) if self._folders else []
    names = {job.name for job in done}
    return [job for job in todo if job.name not in names], done

  def prepare(self):
    """Makes the folders, and sees whether files can be written in them.

    Raises:
      OSError: If not; it names the folder.
    """
    for each in self._folders:
      files.make_writable_folder(each.folder)

  def claim(self, jobs, overwrite):
    """Records what the files will be made with, and removes what is stale.

    First, so that a run that is killed leaves no files of another detector, or
    of another photo, under the new record.
    """
    if self._boxes is not None and overwrite:
      self._boxes.remove(jobs)
    if self._pictures is not None:
      self._pictures.remove(jobs)
    for each in self._folders:
      each.claim(jobs)

  def write(self, job, found, image=None):
    """Writes the files of one image, each whole or not at all.

    Args:
      job: jobs.Job.
      found: detections.Detections.
      image: [H, W, 3] uint8, if `wants_images`.
    """
    if self._pictures is not None:
      self._pictures.write(job, found, image)
    if self._boxes is not None:
      self._boxes.write(job, found)
    self.number += len(found)
    if self._see is not None:
      self._see(job, found, image.shape[:2])

  def close(self):
    """Ends the writing."""
    for each in self._folders:
      each.close()

  def _is_done(self, job):
    if self._pictures is not None and not self._pictures.is_recorded(job):
      return False
    try:
      return self._boxes is None or self._boxes.read(job) is not None
    except errors.InputError:
      return False  # Damaged, and of another program.


@dataclasses.dataclass(frozen=True)
class DetectOptions(engine.RunOptions):
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
class DetectReport(engine.ExtractReport):
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
  return engine.say_failures(
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
  from delf.inference import zoo

  options = DetectOptions(**options)
  todo, done = jobs.plan(images, options.names), []
  outputs = DetectionFiles(folder, pictures, zoo.resolve(detector), options)
  outputs.check(todo, overwrite=not options.resume)
  if options.resume:
    todo, done = outputs.divide(todo)
  report = DetectReport(skipped=tuple(job.path for job in done))
  if not todo:
    return report
  outputs.prepare()
  finder = _Finder(detector, options)
  run = engine.ImageRun(
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
    from delf.inference import detector

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
