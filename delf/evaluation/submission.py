"""Submission files of the Google Landmarks contests, from search results."""

import os
import re
from collections.abc import Sequence

import numpy as np

from delf.base import arrays, errors, files
from delf.evaluation import ground_truth

MAX_RETRIEVED = 100  # Index images per query that the retrieval contest counts.
NEIGHBOURS = 5  # Most similar images that vote for a landmark.

_LANDMARK = re.compile("[0-9]{1,18}")  # An int64.
_SEPARATORS = re.compile(r"""[\s,"']""")


def image_id(name: str) -> str:
  """Return the contest's id of an image: its base name without extension."""
  return os.path.splitext(os.path.basename(name))[0]


def read_landmarks(path: str | os.PathLike) -> dict[str, int]:
  """Read the landmark of each image, by image id.

  CSV files are `train.csv` (`id,url,landmark_id`), `train_clean.csv`
  (`landmark_id,images`, images separated by spaces) and
  `index_image_to_landmark.csv` (`id,landmark_id`), each with a header.
  """
  rows = files.read_csv(path, header=True)
  _, header = next(rows)
  if "landmark_id" not in header or not {"id", "images"} & set(header):
    columns = f"landmark_id, and id or images: '{','.join(header)[:80]}'"
    raise errors.InputError(f"the header needs {columns}", path=path)
  label = header.index("landmark_id")
  images = header.index("images" if "images" in header else "id")
  landmarks: dict[str, int] = {}
  for line, row in rows:
    where = f"{path}, line {line}"
    if len(row) != len(header) or not _LANDMARK.fullmatch(row[label]):
      text = f"'{','.join(row)[:80]}' does not fit '{','.join(header)}'"
      raise errors.InputError(text, path=where)
    landmark = int(row[label])
    for name in row[images].split():
      if landmarks.setdefault(name, landmark) != landmark:
        both = f"{landmarks[name]} and {landmark}"
        raise errors.InputError(f"{name} has landmarks {both}", path=where)
  return landmarks


def vote(
  ids: np.ndarray,
  scores: np.ndarray,
  landmarks: Sequence[int],
  neighbours: int = NEIGHBOURS,
) -> tuple[np.ndarray, np.ndarray]:
  """Predict a landmark for each query from its most similar images.

  Index images vote for their landmarks with their similarity; of equal sums the
  lower landmark wins. `ids` and `scores` are [Q, k], best first; padding (-1)
  and negative similarities do not vote. Returns landmarks, [Q] int64, and their
  sums, [Q] float64; -1 and 0 without votes.
  """
  ids = np.asarray(ids)[:, :neighbours]
  weights = np.asarray(scores, np.float64)[:, :neighbours]
  votes = (ids >= 0) & (weights > 0)
  table = np.append(np.asarray(landmarks, np.int64), -1)
  labels = table[np.where(votes, ids, -1)]
  sums = np.zeros(labels.shape)
  for i, label in enumerate(labels.T):
    weight = np.where(votes[:, i], weights[:, i], 0)
    sums += weight[:, None] * (labels == label[:, None])
  best = sums.max(axis=1, initial=0)
  most = np.iinfo(np.int64).max
  is_best = sums == best[:, None]
  predicted = np.where(is_best, labels, most).min(axis=1, initial=most)
  return np.where(best > 0, predicted, -1), best


def write_retrieval(
  path: str | os.PathLike,
  queries: Sequence[str],
  index: Sequence[str],
  ids: np.ndarray,
) -> None:
  """Write a submission to the retrieval contest, whole or not at all.

  The columns are `id,images`, with the first 100 of `ids`: positions in
  `index`, [Q, k] int, best first, padded with -1.
  """
  names = np.array(_contest_ids(index, "index image"), object)
  ids = np.asarray(ids)
  if ids.ndim != 2 or ids.max(initial=-1) >= len(names):
    raise errors.InputError(
      f"ids of {len(names)} index images, [queries, results], cannot have shape"
      f" {list(ids.shape)} and values up to {ids.max(initial=-1)}"
    )
  rows = [" ".join(names[row[row >= 0]]) for row in ids[:, :MAX_RETRIEVED]]
  _write(path, "images", queries, rows)


def write_recognition(
  path: str | os.PathLike,
  queries: Sequence[str],
  predicted: Sequence[int],
  scores: Sequence[float],
) -> None:
  """Write a submission to the recognition contest, whole or not at all.

  The columns are `id,landmarks`, with a landmark (-1 for none) and a finite
  score for each query.
  """
  if len(predicted) != len(scores):
    raise errors.InputError(f"{len(scores)} scores of {len(predicted)} labels")
  arrays.check_finite(np.asarray(scores), "scores")
  rows = [
    f"{label} {score:.9g}" if label >= 0 else ""
    for label, score in zip(predicted, scores, strict=True)
  ]
  _write(path, "landmarks", queries, rows)


def _write(path, column, queries, rows):
  ids = _contest_ids(queries, "query")
  if len(ids) != len(rows):
    raise errors.InputError(f"{len(rows)} results of {len(ids)} queries")
  with (
    files.atomic_path(path) as temporary,
    open(temporary, "w", encoding="utf-8", newline="\n") as file,
  ):
    file.write(f"id,{column}\n")
    file.writelines(f"{i},{row}\n" for i, row in zip(ids, rows, strict=True))


def _contest_ids(names, kind):
  ids = list(map(image_id, names))
  for one in ids:
    if not one or _SEPARATORS.search(one):
      problem = "is no id: ids have no spaces, commas or quotes"
      raise errors.InputError(f"{one!r} {problem}")
  if (twice := ground_truth.first_duplicate(ids)) is not None:
    raise errors.InputError(f"the {kind} {twice} occurs twice")
  return ids
