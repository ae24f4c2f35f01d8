"""The boxes of one detection in a folder, and pictures of them in another."""

import pathlib

from delf.python import errors
from delf.python.pipelines import box_folder, detected_folder, target_folder


class PictureFolder(detected_folder.DetectedFolder):
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
    from delf.python import viz_boxes

    viz_boxes.draw_boxes(
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

    self._boxes = make(box_folder.BoxFolder, folder)
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
      target_folder.make_and_try(each.folder)

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
