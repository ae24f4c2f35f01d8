"""Photo sets that the embedded models are trained on and measured with.

A set is a folder with `train.csv` (columns id, url, landmark_id; url is the
path under `images/`) and perhaps `groups.json`, whose `groups` may give the
`pool` of a group by name.
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

# One pool in so many is held out.
_HELD_OUT = 10


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
  """Split photos into those to train on and held-out ones, by whole pools."""
  held_out = [photo for photo in photos if photo.pool % _HELD_OUT == 7]
  training = [photo for photo in photos if photo.pool % _HELD_OUT != 7]
  return training, held_out


def cached_pairs(path: pathlib.Path, photos: list) -> list:
  """Read the view_pairs.Pair of photos that match, or find and write them."""
  from delf.learning import view_pairs

  if path.exists():
    pairs = view_pairs.load(path, photos)
    if pairs is not None:
      return pairs
    logging.info("%s is of other photos: finding the pairs anew", path)
  view_pairs.save(path, view_pairs.match_groups(photos), photos)
  return view_pairs.load(path, photos)


def _rows(path):
  """Return the rows of a `train.csv`, each a dict by column."""
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
  """Return the pool's name by landmark_id, of the groups in `groups.json`."""
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
  import cv2

  image = cv2.imread(str(path), cv2.IMREAD_COLOR)
  if image is None:
    raise errors.InputError("an image", "a file that does not decode", path)
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the flags that all training scripts have."""
  parser.add_argument("--photos", nargs="+", required=True, metavar="DIR")
  parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
  parser.add_argument("--export", type=pathlib.Path, metavar="DIR")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--bfloat16", action="store_true", help="faster on some")


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
