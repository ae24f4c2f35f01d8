"""The boxes of photos in one folder, and what detector they are of."""

import json
import os
import pathlib

import delf
from delf.python import box_io, detections, errors, files
from delf.python.pipelines import photo_record, provenance

# Says what detector the boxes beside it are of.
RECORD = "detection.json"

# What two records are compared by; the rest is for people.
_COMPARED = ("detector", "apply_rotation")


class BoxFolder:
  """`<image>.boxes` of one detector in one folder.

  A photo counts as done while it has the size that it had, and its file is
  whole. Files of other programs, without a record, are kept where they can be
  read.
  """

  def __init__(self, folder, detector=None, apply_rotation=False):
    """Reads what is there; nothing is written yet.

    Args:
      folder: Local path; need not exist.
      detector: Folder of the detector, or None: boxes that are there are used,
        whatever they are of.
      apply_rotation: Whether photos are turned as their EXIF orientation says.

    Raises:
      InputError: If the folder is none, or has boxes of another detector.
      FileNotFoundError: If there is no such detector.
    """
    if files.is_remote(folder):
      raise errors.InputError("a local folder", "a remote one", folder)
    self.folder = pathlib.Path(folder)
    if self.folder.exists() and not self.folder.is_dir():
      raise errors.InputError("a folder to write to", "a file", folder)
    self._made_with = None
    if detector is not None:
      self._made_with = {
        "delf_version": delf.__version__,
        "detector_path": os.fspath(detector),
        "detector": provenance.fingerprint(detector),
        "apply_rotation": bool(apply_rotation),
      }
      self._check()
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
    stems = {}
    for job in jobs:
      parent, stem = os.path.split(job.name)
      stems.setdefault(parent, {RECORD[:-5]}).add(stem)
    for parent, names in stems.items():
      for path in files.leftovers(self.folder / parent, names):
        path.unlink(missing_ok=True)

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

  def _check(self):
    """Raises an InputError if the boxes that are there are of another one."""
    path = self.folder / RECORD
    if not path.exists():
      return
    try:
      found = json.loads(files.read_bytes(path))
      differs = [k for k in _COMPARED if found[k] != self._made_with[k]]
    except (ValueError, KeyError, TypeError, RecursionError):
      raise errors.InputError(
        "a record of what the boxes were made with", "something else", path
      ) from None
    if differs:
      raise errors.InputError(
        "boxes of the same detector and photos turned alike, or another folder",
        f"boxes of another {' and '.join(differs)}"
        f" ({found.get('detector_path')})",
        path,
      )
