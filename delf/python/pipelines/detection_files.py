"""The boxes of one detection in a folder, and pictures of them in another."""

import json
import pathlib

from delf.python import box_io, errors, files
from delf.python.pipelines import output_folder, photo_record

# Says what the boxes beside it were found with.
RECORD = "detection.json"
PHOTOS = "detection_images.jsonl"

PICTURE = "_viz.jpg"

# Of the record, for people.
_NOT_COMPARED = ("delf_version", "detector_path")


class DetectionFiles:
  """Files of the boxes that one detector finds with one set of settings."""

  def __init__(self, folder, pictures, made_with, see=None):
    """Creates it; nothing is written yet.

    Args:
      folder: Local path for the boxes, which need not exist, or None for none.
      pictures: The same for the pictures.
      made_with: dict for JSON of what decides the boxes.
      see: Function of (jobs.Job, detections.Detections, (height, width)),
        called after the files of an image are written, or None.

    Raises:
      InputError: If a folder is not a local one, or is a file.
    """
    self._folders = [
      None if each is None else output_folder.local_folder(each)
      for each in (folder, pictures)
    ]
    self.folder, self.pictures = self._folders
    self.wants_images = pictures is not None or see is not None
    self.boxes = 0
    self._made_with = made_with
    self._see = see
    self._differs = False
    self._photos = None
    if folder is not None:
      self._photos = photo_record.PhotoRecord(self.folder, PHOTOS)

  def check(self, jobs, overwrite):
    """Checks that no file would be under a record of other settings.

    Args:
      jobs: Images that are asked for.
      overwrite: Whether their files are to be made anew.

    Raises:
      InputError: If what is there was made with another detector or settings,
        and stays there. Nothing has been changed then.
    """
    path = self.folder / RECORD if self.folder is not None else None
    if path is None or not path.exists():
      return
    difference = self._difference(path)
    if not difference:
      return
    if not overwrite:
      raise errors.InputError(
        "boxes of the same detector and settings, or --overwrite",
        f"some made with {difference}",
        path,
      )
    names = {job.name for job in jobs}
    for other in self.folder.rglob(f"*{files.BOXES}"):
      name = other.relative_to(self.folder).as_posix()
      if name.removesuffix(files.BOXES) not in names | {""}:
        raise errors.InputError(
          f"--overwrite of all images that have boxes made with {difference}",
          f"only some: {name} would stay",
          self.folder,
        )
    self._differs = True

  def divide(self, todo):
    """Returns the jobs that are to be done, and those that are done.

    Done are images whose boxes are as large as they were written, for the photo
    that is there today, by its size, and that have a picture if one is asked
    for. Without a folder of boxes none is.
    """
    if self._photos is None:
      return todo, []
    done = [job for job in todo if self._is_done(job)]
    names = {job.name for job in done}
    return [job for job in todo if job.name not in names], done

  def prepare(self):
    """Makes the folders, and sees whether files can be written in them.

    Raises:
      OSError: If not; it names the folder.
    """
    for folder in filter(None, self._folders):
      output_folder.make_and_try(folder)

  def claim(self, jobs, overwrite):
    """Records what the boxes will be made with, and removes what is stale."""
    for folder in filter(None, self._folders):
      output_folder.remove_leftovers(folder, jobs, RECORD)
    if self.folder is None:
      return
    # First, so that a run that is killed leaves no boxes of another detector
    # under the new record.
    for job in jobs:
      if overwrite or self._differs or self._photos.has_changed(job):
        for path in filter(None, self._paths(job)):
          path.unlink(missing_ok=True)
    text = json.dumps(self._made_with, indent=2) + "\n"
    files.write_bytes(self.folder / RECORD, text.encode())

  def write(self, job, found, image=None):
    """Writes the files of one image, each whole or not at all.

    Args:
      job: jobs.Job.
      found: detections.Detections.
      image: [H, W, 3] uint8, if `wants_images`.
    """
    boxes, picture = self._paths(job)
    if picture is not None:
      # Only who asks for pictures loads what draws.
      from delf.python import viz_boxes

      name = pathlib.PurePath(job.path).name
      viz_boxes.draw_boxes(
        picture, image, found.boxes, found.scores, caption=name
      )
    if boxes is not None:
      data = box_io.SerializeToString(found.boxes, found.scores, found.classes)
      files.write_bytes(boxes, data)
      self._photos.add(job, {files.BOXES: len(data)})
    self.boxes += len(found)
    if self._see is not None:
      self._see(job, found, image.shape[:2])

  def close(self):
    """Ends the writing."""
    if self._photos is not None:
      self._photos.close()

  def _paths(self, job):
    """Returns the paths of the boxes and of the picture, None for none."""
    endings = (files.BOXES, PICTURE)
    return [
      None if folder is None else folder / f"{job.name}{ending}"
      for folder, ending in zip(self._folders, endings, strict=True)
    ]

  def _is_done(self, job):
    boxes, picture = self._paths(job)
    return (
      not self._photos.has_changed(job)
      and self._photos.is_whole(job, boxes)
      and (picture is None or picture.exists())
    )

  def _difference(self, path):
    """Returns words for what the record has and these settings have not."""
    try:
      found = dict(json.loads(files.read_bytes(path)))
    except (ValueError, TypeError, RecursionError):
      return "what is not known"
    return ", ".join(
      f"{name} {str(found.get(name))[:20]} and not {str(value)[:20]}"
      for name, value in self._made_with.items()
      if name not in _NOT_COMPARED and found.get(name) != value
    )
