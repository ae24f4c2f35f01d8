"""The boxes of photos in one folder, and what detector they are of."""

from delf.python import box_io, detections, files
from delf.python.pipelines import detected_folder


class BoxFolder(detected_folder.DetectedFolder):
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
    return detections.of_model(*box_io.ReadFromFile(path), path)

  def write(self, job, found):
    """Writes the boxes of a photo, whole or not at all.

    Args:
      job: jobs.Job of the whole photo.
      found: detections.Detections.
    """
    data = box_io.SerializeToString(found.boxes, found.scores, found.classes)
    files.write_bytes(self.path(job), data)
    self.note(job)
