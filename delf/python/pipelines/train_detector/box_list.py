"""Photos with boxes, by a CSV file such as those of Google Landmark Boxes."""

import dataclasses
import os

import numpy as np

from delf.python import boxes as box_arithmetic
from delf.python import errors
from delf.python.datasets import csv_file
from delf.python.pipelines import image_names

# With fewer there is nothing to hold out.
FEWEST_PHOTOS = 10
_NAMES = ("image_id", "image", "id", "photo", "name", "filename", "path")
_SIDES = ("ymin", "xmin", "ymax", "xmax")
_BOX = ("box", "bbox", "bounding_box")
_EXPECTED = (
  "a first line image_id,box (four numbers with spaces between) or "
  "image_id,ymin,xmin,ymax,xmax"
)


@dataclasses.dataclass(frozen=True)
class BoxList:
  """Photos with boxes.

  Attributes:
    paths: list of paths of photos.
    boxes: list of float32 [N, 4], one for each: (ymin, xmin, ymax, xmax) in
      [0, 1].
    missing: Names in the CSV file of which there is no photo.
  """

  paths: list
  boxes: list
  missing: tuple


def read(path, given):
  """Finds photos and their boxes.

  Args:
    path: CSV file of a row for each box, with a first line that names columns:
      `image_id,box`, where a box is "ymin xmin ymax xmax", or
      `image_id,ymin,xmin,ymax,xmax`, in any order; all in [0, 1]. The first is
      that of `boxes_split1.csv` and `boxes_split2.csv` of Google Landmark
      Boxes, as it is remembered: the files can no longer be had. Where both are
      written one behind the other, the second first line is passed over.
    given: Folders, patterns, lists and photos. Photos without a row are left
      out.

  Returns:
    BoxList, in the order of the photos.

  Raises:
    FileNotFoundError: If the file or a source is not there.
    InputError: If it is another file, has a box that is none, or if fewer than
      FEWEST_PHOTOS photos have boxes.
  """
  listed = _rows(path)
  paths, names = image_names.find(given)
  found, used = [], set()
  for each, name in zip(paths, names, strict=True):
    base = os.path.basename(each)
    keys = (name, base, os.path.splitext(base)[0])
    key = next((key for key in keys if key in listed), None)
    if key is not None:
      used.add(key)
      found.append((each, np.stack(listed[key])))
  if len(found) < FEWEST_PHOTOS:
    raise errors.InputError(
      f"boxes of at least {FEWEST_PHOTOS} of the photos",
      f"of {len(found)} ({len(paths)} photos, {len(listed)} names in the file)",
      path,
    )
  missing = tuple(name for name in listed if name not in used)
  return BoxList([p for p, _ in found], [b for _, b in found], missing)


def _rows(path):
  """Returns dict by name of a photo of its boxes, list of [4] float32."""
  rows = csv_file.rows(path, header=True)
  _, head = next(rows)
  name_at, box_at = _columns([value.strip().lower() for value in head], path)
  listed = {}
  for line, row in rows:
    if row == head:
      continue
    try:
      name = row[name_at].strip()
      numbers = [float(v) for i in box_at for v in _split(row[i])]
    except (IndexError, ValueError):
      name, numbers = "", []
    if not name or len(numbers) != 4:
      raise errors.InputError(
        "a photo and four numbers a row",
        f"{','.join(row)!r} in line {line}",
        path,
      )
    where = f"{os.fspath(path)}, line {line}"
    box = box_arithmetic.check(np.array([numbers]), where)[0]
    listed.setdefault(name, []).append(box)
  return listed


def _columns(head, path):
  """Returns the column of the name, and those of the box."""
  name = next((head.index(each) for each in _NAMES if each in head), None)
  box = next(([head.index(each)] for each in _BOX if each in head), None)
  if box is None and all(side in head for side in _SIDES):
    box = [head.index(side) for side in _SIDES]
  if name is None or box is None:
    raise errors.InputError(_EXPECTED, repr(",".join(head))[:80], path)
  return name, box


def _split(text):
  return text.replace(",", " ").strip(" []()").split()
