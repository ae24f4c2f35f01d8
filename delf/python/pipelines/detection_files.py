"""The boxes of one detection in a folder, and pictures of them in another."""

import pathlib

from delf.python import errors, files
from delf.python.pipelines import box_folder, target_folder

PICTURE = "_viz.jpg"


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
      InputError: If a folder is not a local one, or is a file, or has boxes of
        another detector or of other settings that are not to be made anew.
    """
    self._boxes = None
    if folder is not None:
      self._boxes = box_folder.BoxFolder(
        folder,
        detector,
        options.apply_rotation,
        replace=True,
        threshold=float(options.threshold),
        most_overlap=options.most_overlap,
        max_size=options.max_size,
      )
    self._pictures = None
    if pictures is not None:
      self._pictures = target_folder.local_folder(pictures)
    self._see = options.see
    self.wants_images = pictures is not None or options.see is not None
    self.number = 0

  def check(self, jobs, overwrite):
    """Checks that no file would be under a record of other settings.

    Args:
      jobs: Images that are asked for.
      overwrite: Whether their files are to be made anew.

    Raises:
      InputError: If boxes that are there were made with another detector or
        settings, and would stay. Nothing has been changed then.
    """
    if self._boxes is None or not self._boxes.difference:
      return
    difference, folder = self._boxes.difference, self._boxes.folder
    if not overwrite:
      raise errors.InputError(
        "boxes of the same detector and settings, or --overwrite",
        f"boxes {difference}",
        folder / box_folder.RECORD,
      )
    ours = {job.name for job in jobs}
    for path in folder.rglob(f"*{files.BOXES}"):
      name = path.relative_to(folder).as_posix()
      is_temporary = path.name.startswith(".")
      if name.removesuffix(files.BOXES) not in ours and not is_temporary:
        raise errors.InputError(
          f"--overwrite of all images that have boxes {difference}",
          f"only some: {name} would stay",
          folder,
        )

  def divide(self, todo):
    """Returns the jobs that are to be done, and those that are done.

    Done are images whose boxes are there, as `box_folder.BoxFolder.read` says,
    and that have a picture if one is asked for. Without a folder of boxes none
    is.
    """
    done = [] if self._boxes is None else list(filter(self._is_done, todo))
    names = {job.name for job in done}
    return [job for job in todo if job.name not in names], done

  def prepare(self):
    """Makes the folders, and sees whether files can be written in them.

    Raises:
      OSError: If not; it names the folder.
    """
    for folder in (self._boxes and self._boxes.folder, self._pictures):
      if folder is not None:
        target_folder.make_and_try(folder)

  def claim(self, jobs, overwrite):
    """Records what the boxes will be made with, and removes what is stale."""
    if self._pictures is not None:
      target_folder.remove_leftovers(self._pictures, jobs, box_folder.RECORD)
    if self._boxes is None:
      return
    # First, so that a run that is killed leaves no boxes of another detector
    # under the new record.
    for job in jobs if overwrite else ():
      self._boxes.path(job).unlink(missing_ok=True)
    self._boxes.claim(jobs)

  def write(self, job, found, image=None):
    """Writes the files of one image, each whole or not at all.

    Args:
      job: jobs.Job.
      found: detections.Detections.
      image: [H, W, 3] uint8, if `wants_images`.
    """
    if self._pictures is not None:
      # Only who asks for pictures loads what draws.
      from delf.python import viz_boxes

      viz_boxes.draw_boxes(
        self._picture(job),
        image,
        found.boxes,
        found.scores,
        caption=pathlib.PurePath(job.path).name,
      )
    if self._boxes is not None:
      self._boxes.write(job, found)
    self.number += len(found)
    if self._see is not None:
      self._see(job, found, image.shape[:2])

  def close(self):
    """Ends the writing."""
    if self._boxes is not None:
      self._boxes.close()

  def _picture(self, job):
    return self._pictures / f"{job.name}{PICTURE}"

  def _is_done(self, job):
    if self._pictures is not None and not self._picture(job).exists():
      return False
    try:
      return self._boxes.read(job) is not None
    except errors.InputError:
      return False  # Damaged, and of another program.
