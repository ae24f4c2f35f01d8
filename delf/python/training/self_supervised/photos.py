"""Photos to train on, and which of them show one place."""

import csv
import dataclasses
import io
import json
import pathlib

import cv2
import numpy as np

from delf.python import errors, files, progress

# Of the groups and of the single photos, one in so many is for validation.
HELD_OUT = 10


@dataclasses.dataclass(frozen=True)
class Photo:
  """One decoded photo.

  Attributes:
    name: Path under the folder of its set.
    image: uint8 [H, W, 3], RGB.
    group: Number of the group of photos that overlap.
    pool: Number of the place; photos of one pool are never each other's
      negatives. It is at least as wide as `group`.
  """

  name: str
  image: np.ndarray
  group: int
  pool: int


def load(folders):
  """Reads photo sets.

  Args:
    folders: Folders that hold `train.csv` (columns id, url, landmark_id; url is
      the path under `images/`) and perhaps `groups.json`, whose `groups` may
      give the `pool` of a group by name.

  Returns:
    list of Photo.

  Raises:
    InputError: If a photo cannot be decoded, or if a list is not as it should
      be.
    FileNotFoundError: If a folder has no `train.csv`.
  """
  photos, groups, pools = [], {}, {}
  for folder in map(pathlib.Path, folders):
    pool_of = _pools(folder)
    rows = _rows(folder / "train.csv")
    for row in progress.track(rows, f"reading {folder.name}"):
      path = folder / "images" / row["url"]
      group = groups.setdefault((folder, row["landmark_id"]), len(groups))
      pool = pool_of.get(row["landmark_id"], row["landmark_id"])
      pool = pools.setdefault((folder, pool), len(pools))
      photos.append(Photo(row["url"], _read(path), group, pool))
  return photos


def split(photos):
  """Splits photos into those to train on and those to validate with.

  Whole pools go to one side.

  Args:
    photos: list of Photo.

  Returns:
    Two lists of Photo, for training and validation.
  """
  held_out = [photo for photo in photos if photo.pool % HELD_OUT == 7]
  training = [photo for photo in photos if photo.pool % HELD_OUT != 7]
  return training, held_out


def _rows(path):
  """Returns the rows of a `train.csv`, each a dict by column."""
  try:
    text = files.read_bytes(path).decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
  except (UnicodeDecodeError, csv.Error) as error:
    raise errors.InputError("a CSV file", str(error), path) from None
  for number, row in enumerate(rows, start=1):
    for column in ("url", "landmark_id"):
      if not row.get(column):
        raise errors.InputError(
          f"a column {column}", f"none in row {number}", path
        )
  return rows


def _pools(folder):
  """Returns the pool's name by landmark_id, of what `groups.json` knows."""
  path = folder / "groups.json"
  if not path.exists():
    return {}
  try:
    groups = json.loads(path.read_text(encoding="utf-8"))["groups"].values()
    return {
      str(group["landmark_id"]): group["pool"]
      for group in groups
      if "pool" in group
    }
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise errors.InputError(
      "groups that have a landmark_id each", f"others ({error})", path
    ) from None


def _read(path):
  image = cv2.imread(str(path), cv2.IMREAD_COLOR)
  if image is None:
    raise errors.InputError("an image", "a file that does not decode", path)
  return np.ascontiguousarray(image[:, :, ::-1])
