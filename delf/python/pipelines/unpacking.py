"""Puts the files of a data set in their place, after a look at them."""

import dataclasses
import hashlib
import os
import pathlib
import re
import shutil

from delf.python import errors, files
from delf.python.datasets import (
  downloads,
  plain_pickle,
  tuples_file,
  tuples_paths,
)
from delf.python.inference import archive

_IMAGE = ".jpg"

# Far above the largest published archive, which has about 100 000 images, most
# of them in a folder of their own.
_MAX_MEMBERS = 1_000_000
_MAX_BYTES = 64 * 2**30

# Ids of images of Google Landmarks v2.
_ID = re.compile(rb"\b[0-9a-f]{16}\b")


@dataclasses.dataclass(frozen=True)
class ImageIds:
  """Ids of the images to keep.

  Attributes:
    ids: Set of int: the ids are hexadecimal.
    digest: SHA-256 of them, to compare subsets by.
  """

  ids: frozenset
  digest: str

  def __contains__(self, stem):
    """Returns whether an image is wanted, by its name without extension."""
    return bool(_ID.fullmatch(os.fsencode(stem))) and int(stem, 16) in self.ids


def read_ids(path):
  """Reads which images are wanted.

  Args:
    path: Path of a text file with ids of Google Landmarks v2 anywhere in it:
      a list, `train_clean.csv`, or another CSV.

  Returns:
    ImageIds.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If no id is in it.
  """
  ids = set()
  with open(path, "rb") as file:
    for line in file:
      ids.update(int(found, 16) for found in _ID.findall(line))
  if not ids:
    raise errors.InputError(
      "ids of images, 16 hexadecimal digits", "none", path
    )
  text = ",".join(f"{each:x}" for each in sorted(ids))
  return ImageIds(frozenset(ids), hashlib.sha256(text.encode()).hexdigest())


def install(path, file, out, work, only=None):
  """Puts one file in its place.

  Args:
    path: Path of the file.
    file: downloads.RemoteFile that it is.
    out: Folder of the data set.
    work: Folder for what is on its way, on the same disk as `out`.
    only: ImageIds of the images to keep, or None for all.

  Returns:
    Number of images that were unpacked.

  Raises:
    InputError: If it is not what it should be. Nothing is changed then.
  """
  target = pathlib.Path(out, file.target)
  if file.kind == downloads.ARCHIVE:
    return _install_images(path, target, file, work, only)
  _CHECKS[file.kind](path)
  with files.atomic_path(target) as temporary:
    shutil.copyfile(path, temporary)
  return 0


def _install_images(path, target, file, work, only):
  """Unpacks apart, so that a bad archive leaves nothing; then moves."""
  unpacked = pathlib.Path(work, f"{path.name}.unpacked")
  for left in pathlib.Path(work).glob(f".{unpacked.name}.*"):
    shutil.rmtree(left, ignore_errors=True)  # Of a run that was killed.
  archive.unpack(
    path,
    unpacked,
    required=_pattern(file),
    max_bytes=_MAX_BYTES,
    max_members=_MAX_MEMBERS,
  )
  try:
    moves = _plan(unpacked, target, file, only)
    for folder in {goal.parent for goal in moves}:
      folder.mkdir(parents=True, exist_ok=True)
    for goal, source in moves.items():
      os.replace(source, goal)
    target.mkdir(parents=True, exist_ok=True)
  finally:
    shutil.rmtree(unpacked, ignore_errors=True)
  return len(moves)


def _plan(unpacked, target, file, only):
  """Returns {where to: from where} of the images that are wanted."""
  moves = {}
  for source in sorted(unpacked.rglob(_pattern(file))):
    if not source.is_file() or (only is not None and source.stem not in only):
      continue
    inside = source.name if file.flatten else source.relative_to(unpacked)
    if file.by_id:
      inside = tuples_paths.image_path(source.name, "")
    if moves.setdefault(target / inside, source) != source:
      raise errors.InputError(
        "images of different names", f"two of {source.name}", unpacked.stem
      )
  return moves


def _pattern(file):
  """Returns what images in an archive are called; ids have no ending."""
  return "*" if file.by_id else f"*{_IMAGE}"


def _check_pairs(path):
  """Raises InputError if pairs cannot be read, by mode or without."""
  content = plain_pickle.read(path)
  modes = [
    m for m in ("train", "val") if isinstance(content, dict) and m in content
  ]
  for mode in modes or [None]:
    tuples_file.read(path, mode)


def _check_truth(path):
  """Raises InputError if ground truth cannot be read."""
  from delf.python.datasets.revisited_op import dataset

  dataset.ReadDatasetFile(os.fspath(path))


def _check_text(path):
  """Raises InputError for what is no text, or a page in place of the file."""
  with open(path, "rb") as file:
    start = file.read(2**12)
  if not start.strip() or b"\0" in start or start.lstrip().startswith(b"<"):
    raise errors.InputError("text", "something else", path)


_CHECKS = {
  downloads.GROUND_TRUTH: _check_truth,
  downloads.PAIRS: _check_pairs,
  downloads.TEXT: _check_text,
}
