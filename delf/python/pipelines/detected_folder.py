"""Files of what one detector finds in photos, in a folder that says so."""

import json
import os

import delf
from delf.python import errors, files
from delf.python.pipelines import photo_record, provenance, target_folder

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
      raise self._refusal("another folder")
    self._photos = photo_record.PhotoRecord(self.folder)

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
    target_folder.remove_leftovers(self.folder, jobs, RECORD, self.ending)

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
