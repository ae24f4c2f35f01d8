"""What was verified already, in a file that is only ever appended to."""

import json
import os
import pathlib

import delf
from delf.python import files, line_file

# A line per pair: version and settings, name, size in bytes and time of the
# query's and of the image's feature file, number of inliers. The time is in it
# because files of one number of features all have one size.
RECORD = "verified_pairs.jsonl"


class VerifiedRecord:
  """The record of one output folder."""

  def __init__(self, folder, options):
    """Reads what is there of the same version and settings.

    Args:
      folder: Path of the output folder; need not exist.
      options: verification.VerifyOptions.
    """
    self._path = pathlib.Path(folder) / RECORD
    self._settings = _settings(options)
    self._known = _read(self._path, self._settings)
    self._file = None

  def find(self, query, image):
    """Returns the inliers of a pair, or None if it is not known.

    Args:
      query: What `identify` returned for the query's feature file.
      image: The same for the index image's.
    """
    return self._known.get((query, image))

  def add(self, pairs, inliers):
    """Records pairs, all in one write.

    Args:
      pairs: Sequence of (query, image) as `find` takes them.
      inliers: Sequence of their numbers of inliers.
    """
    lines = [
      f"{json.dumps([self._settings, query, image, int(number)])}\n"
      for (query, image), number in zip(pairs, inliers, strict=True)
    ]
    if not lines:
      return
    if self._file is None:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._file = line_file.open_to_append(self._path)
    self._file.write("".join(lines).encode())
    self._file.flush()

  def close(self):
    """Closes the file."""
    if self._file is not None:
      self._file.close()
      self._file = None


def identify(name, path):
  """Returns (name, bytes, time in ns) of a file; None without one."""
  try:
    found = os.stat(path)
  except (OSError, ValueError):
    return None
  return name, found.st_size, found.st_mtime_ns


def _settings(options):
  """Returns words for what the number of inliers depends on."""
  test = "ratio" if options.use_ratio_test else "distance"
  return (
    f"delf {delf.__version__} {test} {float(options.descriptor_threshold)!r}"
    f" residual {float(options.residual_threshold)!r} seed {options.seed}"
  )


def _read(path, settings):
  """Returns {(query, image): inliers}; lines that are cut are left out."""
  known = {}
  for line in files.read_bytes(path).splitlines() if path.exists() else []:
    try:
      made_with, query, image, inliers = json.loads(line)
      is_number = isinstance(inliers, int) and 0 <= inliers < 2**31
      if made_with == settings and is_number:
        known[tuple(query), tuple(image)] = inliers
    except (ValueError, TypeError, RecursionError):
      continue  # Cut, as a run was killed.
  return known
