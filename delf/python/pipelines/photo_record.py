"""Which photo each output name stands for, and how large its files are."""

import json
import pathlib

from delf.python import files, line_file

# A line per finished image: its name, the size of the photo, and the size of
# each feature file by extension, in bytes; of a part of a photo also which.
# Paths and times are not in it, as data sets are moved.
RECORD = "extraction_images.jsonl"


class PhotoRecord:
  """The record of one output folder, which is only ever appended to."""

  def __init__(self, folder):
    """Reads what is there.

    Args:
      folder: Path of the output folder; need not exist.
    """
    self._path = pathlib.Path(folder) / RECORD
    self._photos, self._crops, self._files = _read(self._path)
    self._file = None

  def has(self, job):
    """Returns whether a photo of this name was recorded."""
    return job.name in self._photos

  def has_changed(self, job):
    """Returns whether it is another photo, or part, than that recorded."""
    if self.has(job) and self._crops.get(job.name) != _crop(job):
      return True
    found = self._photos.get(job.name)
    return None not in (found, job.size) and found != job.size

  def is_whole(self, job, path):
    """Returns whether a feature file is there and as large as it was."""
    size = self._files.get(job.name, {}).get(path.suffix)
    return size is not None and path.exists() and path.stat().st_size == size

  def box(self, name):
    """Returns (x1, y1, x2, y2) in pixels of a part, None for a whole photo."""
    crop = self._crops.get(name)
    return None if crop is None else tuple(crop["box"])

  def add(self, job, sizes):
    """Records a photo whose feature files are written.

    Args:
      job: jobs.Job.
      sizes: dict of extension to the bytes of the file.
    """
    if self._file is None:
      self._file = line_file.open_to_append(self._path)
    entry = {"name": job.name, "bytes": job.size, "files": sizes}
    if job.crop is not None:
      entry["crop"] = _crop(job)
    self._file.write(f"{json.dumps(entry)}\n".encode())
    self._file.flush()

  def remove_after(self, name_of, number):
    """Removes the files of parts of a photo that are no more.

    Args:
      name_of: Function from the number of a part to its name.
      number: Number of parts that there are now; what was recorded of those
        after is removed.
    """
    while (name := name_of(number)) in self._photos:
      for extension in self._files[name]:
        (self._path.parent / f"{name}{extension}").unlink(missing_ok=True)
      number += 1

  def close(self):
    """Closes the file."""
    if self._file is not None:
      self._file.close()
      self._file = None


def _crop(job):
  """Returns the part of a photo as the record has it, None for all of it."""
  if job.crop is None:
    return None
  return {"box": list(job.crop.box), "scale_limits": job.crop.scale_limits}


def _read(path):
  """Returns {name: size of the photo}, {name: crop}, {name: {ending: size}}.

  The last line of a name counts, and of its files those of earlier lines too:
  heads may be extracted apart.
  """
  photos, crops, outputs = {}, {}, {}
  for line in files.read_bytes(path).splitlines() if path.exists() else []:
    try:
      entry = json.loads(line)
      name, size, written = entry["name"], entry["bytes"], entry["files"]
      outputs[name] = outputs.get(name, {}) | written
      photos[name], crops[name] = size, entry.get("crop")
    except (ValueError, KeyError, TypeError, RecursionError):
      continue  # Cut, as a run was killed.
  return photos, crops, outputs
