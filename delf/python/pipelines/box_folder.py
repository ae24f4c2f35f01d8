"""The boxes of photos in one folder, and what detector they are of."""

import json
import os

import delf
from delf.python import box_io, detections, errors, files
from delf.python.pipelines import photo_record, provenance, target_folder

# Says what detector the boxes beside it are of.
RECORD = "detection.json"

# What two records are compared by; the rest is for people. Which boxes were
# kept: None stands for all that the detector gave, for whole images.
_CHOICE = ("threshold", "most_overlap", "max_size")
_COMPARED = ("detector", "apply_rotation", *_CHOICE)


class BoxFolder:
  """`<image>.boxes` of one detector in one folder.

  A photo counts as done while it has the size that it had, and its file is
  whole. Files of other programs, without a record, are kept where they can be
  read.
  """

  def __init__(
    self, folder, detector=None, apply_rotation=False, replace=False, **choice
  ):
    """Reads what is there; nothing is written yet.

    Args:
      folder: Local path; need not exist.
      detector: Folder of the detector, or None: boxes that are there are used,
        whatever they are of.
      apply_rotation: Whether photos are turned as their EXIF orientation says.
      replace: Whether boxes of another detector may be there, as the caller
        removes them; `difference` then says in which way they are others.
      **choice: Which boxes are kept, as fields of `detect.DetectOptions`:
        `threshold`, `most_overlap`, `max_size`; None for all.

    Raises:
      InputError: If the folder is none, or has boxes of another detector.
      FileNotFoundError: If there is no such detector.
    """
    self.folder = target_folder.local_folder(folder)
    self._made_with, self.difference = None, ""
    if detector is not None:
      self._made_with = {
        "delf_version": delf.__version__,
        "detector_path": os.fspath(detector),
        "detector": provenance.fingerprint(detector),
        "apply_rotation": bool(apply_rotation),
        **{name: choice.get(name) for name in _CHOICE},
      }
      self.difference = self._compare()
    if self.difference and not replace:
      raise errors.InputError(
        "boxes of the same detector and settings, or another folder",
        f"boxes {self.difference}",
        self.folder / RECORD,
      )
    self._photos = photo_record.PhotoRecord(self.folder)

  def path(self, job):
    """Returns the pathlib.Path of the boxes of a photo."""
    return self.folder / f"{job.name}{files.BOXES}"

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
    return detections.of_model(*box_io.ReadFromFile(path), path)

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
    target_folder.remove_leftovers(self.folder, jobs, RECORD)

  def write(self, job, found):
    """Writes the boxes of a photo, whole or not at all.

    Args:
      job: jobs.Job of the whole photo.
      found: detections.Detections.
    """
    data = box_io.SerializeToString(found.boxes, found.scores, found.classes)
    files.write_bytes(self.path(job), data)
    self._photos.add(job, {files.BOXES: len(data)})

  def close(self):
    """Ends the writing."""
    self._photos.close()

  def _compare(self):
    """Returns words for how boxes that are there differ, "" if they do not."""
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
