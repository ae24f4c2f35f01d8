"""Photo sets for training and measuring the embedded models.

A set is a folder with `train.csv` (columns id, url, landmark_id; url is the
path under `images/`), and optionally `groups.json`, whose `groups` may name the
`pool` of a group.
"""

import argparse
import csv
import io
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import logging

from delf.base import errors, files, progress

_HELD_OUT = 10  # One pool in this number is held out.


def load(folders: Sequence[str | os.PathLike]) -> list:
  """Read photo sets; return the view_pairs.Photo of each photo.

  Raises:
    InputError: If a photo cannot be decoded, or a list is damaged.
    FileNotFoundError: If a folder has no `train.csv`.
  """
  from delf.learning import view_pairs

  photos, groups, pools = [], {}, {}
  for folder in map(pathlib.Path, folders):
    pool_of = _pools(folder)
    rows = _rows(folder / "train.csv")
    for row in progress.track(rows, f"reading {folder.name}"):
      group = groups.setdefault((folder, row["landmark_id"]), len(groups))
      pool = pool_of.get(row["landmark_id"], row["landmark_id"])
      pool = pools.setdefault((folder, pool), len(pools))
      image = _read(folder / "images" / row["url"])
      photos.append(view_pairs.Photo(row["url"], image, group, pool))
  return photos


def split(photos: list) -> tuple[list, list]:
  """Split photos into training and held-out photos, by whole pools."""
  held_out = [photo for photo in photos if photo.pool % _HELD_OUT == 7]
  training = [photo for photo in photos if photo.pool % _HELD_OUT != 7]
  return training, held_out


def cached_pairs(path: pathlib.Path, photos: list) -> list:
  """Read the matching view_pairs.Pair from a file, or find and write them."""
  from delf.learning import view_pairs

  if path.exists():
    pairs = view_pairs.load(path, photos)
    if pairs is not None:
      return pairs
    logging.info("%s: pairs of other photos, matching again", path)
  view_pairs.save(path, view_pairs.match_groups(photos), photos)
  return view_pairs.load(path, photos)


def _rows(path):
  """Return the rows of a `train.csv` as dicts by column."""
  try:
    text = files.read_bytes(path).decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
  except (UnicodeDecodeError, csv.Error) as error:
    raise errors.InputError(f"not a CSV file: {error}", path=path) from None
  for number, row in enumerate(rows, start=1):
    for column in ("url", "landmark_id"):
      if not row.get(column):
        message = f"the column {column} is missing in row {number}"
        raise errors.InputError(message, path=path)
  return rows


def _pools(folder):
  """Return the pool names of the groups in `groups.json`, by landmark_id."""
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
    message = f"each group must have a landmark_id ({error})"
    raise errors.InputError(message, path=path) from None


def _read(path):
  import cv2

  image = cv2.imread(str(path), cv2.IMREAD_COLOR)
  if image is None:
    raise errors.InputError("the image cannot be decoded", path=path)
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the flags that all training scripts share."""
  parser.add_argument("--photos", nargs="+", required=True, metavar="DIR")
  parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
  parser.add_argument("--export", type=pathlib.Path, metavar="DIR")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--bfloat16", action="store_true", help="faster on some CPUs"
  )


def main(description: str, add_arguments: Callable, run: Callable) -> int:
  """Run a training script; return its exit status."""
  parser = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add_arguments(parser)
  args = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  import tensorflow as tf

  tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  tf.config.threading.set_inter_op_parallelism_threads(2)
  try:
    run(args)
  except (errors.InputError, OSError) as error:
    print(f"{parser.prog}: {errors.one_line(error)}", file=sys.stderr)
    return 1
  return 0
