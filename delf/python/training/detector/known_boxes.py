"""Boxes of photos that were drawn by eye."""

import csv
import dataclasses
import hashlib
import pathlib

import numpy as np

from delf.python import errors

# Boxes of photos of `train_pool` and `train_pool_more`.
DRAWN = pathlib.Path(__file__).with_name("drawn_boxes.csv")
_SIDES = ("ymin", "xmin", "ymax", "xmax")
_NONE = "none"


@dataclasses.dataclass(frozen=True)
class Known:
  """A photo with its boxes.

  Attributes:
    image: uint8 [H, W, 3], RGB.
    boxes: float32 [N, 4], (ymin, xmin, ymax, xmax) in [0, 1].
    weight: How far it is believed, in [0, 1].
    pool: Number of the place.
  """

  image: np.ndarray
  boxes: np.ndarray
  weight: float
  pool: int


def drawn(photos, path=DRAWN):
  """Finds the photos whose boxes are drawn.

  Args:
    photos: list of photos.Photo.
    path: pathlib.Path of a CSV file with the columns photo (`key` of its name),
      kind, and ymin, xmin, ymax, xmax in [0, 1]. The kinds are "whole" and
      "part" of landmarks, "other" of other things (people, animals, vehicles),
      and "none", a line without a box, of a photo on which there is nothing to
      draw. Boxes of all kinds are taken.

  Returns:
    list of Known, in the order of the photos.

  Raises:
    InputError: If no photo has a line.
  """
  found = {}
  with path.open(newline="") as lines:
    for row in csv.DictReader(lines):
      boxes = found.setdefault(row["photo"], [])
      if row["kind"] != _NONE:
        boxes.append([float(row[side]) for side in _SIDES])
  known = []
  for photo in photos:
    boxes = found.get(key(photo.name))
    if boxes is not None:
      boxes = np.float32(boxes).reshape(-1, 4)
      known.append(Known(photo.image, boxes, 1.0, photo.pool))
  if not known:
    raise errors.InputError(
      "photos of which boxes are drawn", f"{len(photos)} others", path
    )
  return known


def key(name):
  """Returns what stands for the name of a photo in the file of drawn boxes."""
  return hashlib.sha256(name.encode()).hexdigest()[:12]
