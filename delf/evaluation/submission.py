"""Files to submit to the Google Landmarks contests, from a search result."""

import os
import re

import numpy as np

from delf.base import arrays, errors, files
from delf.evaluation import ground_truth

# How many index images of a query the retrieval contest counts.
MAX_RETRIEVED = 100
# Neighbours that vote for a landmark.
NEIGHBOURS = 5
# Digits of a landmark's number: those of an int64.
_DIGITS = 18
_SEPARATORS = re.compile(r"""[\s,"']""")


def image_id(name):
  """Returns the contest's id of an image: its name without folder and ending.

  Args:
    name: Name or path of an image.
  """
  return os.path.splitext(os.path.basename(name))[0]


def read_landmarks(path):
  """Reads which landmark images show.

  Args:
    path: Path of a CSV file with a header: `train.csv` (`id,url,landmark_id`),
      `index_image_to_landmark.csv` (`id,landmark_id`) or `train_clean.csv`
      (`landmark_id,images`, these separated by spaces).

  Returns:
    dict by image id of int.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If a line is not as it should be, or has an image of another
      line and another landmark; it says which.
  """
  rows = files.read_csv(path, header=True)
  _, header = next(rows)
  if "landmark_id" not in header or not {"id", "images"} & set(header):
    raise errors.InputError(
      "the columns landmark_id and id or images", ",".join(header)[:80], path
    )
  label = header.index("landmark_id")
  images = header.index("images" if "images" in header else "id")
  landmarks = {}
  for line, row in rows:
    where = f"{path}, line {line}"
    if len(row) != len(header) or not _is_number(row[label]):
      raise errors.InputError(",".join(header), ",".join(row)[:80], where)
    landmark = int(row[label])
    for name in row[images].split():
      if landmarks.setdefault(name, landmark) != landmark:
        raise errors.InputError(
          f"one landmark for {name}", f"{landmarks[name]} and {landmark}", where
        )
  return landmarks


def _is_number(text):
  return text.isascii() and text.isdecimal() and len(text) <= _DIGITS


def vote(ids, scores, landmarks, neighbours=NEIGHBOURS):
  """Predicts a landmark for each query from its most similar images.

  Each of the neighbours votes for its landmark with its similarity; the sum is
  the score. Equal sums go to the lower landmark.

  Args:
    ids: [Q, k] int, index images, best first; -1 stands for none.
    scores: [Q, k] float, their similarities; those below 0 have no vote.
    landmarks: [N] int, landmark of each index image.
    neighbours: How many of the k vote.

  Returns:
    (predicted [Q] int64, sums [Q] float64); -1 and 0 where nothing has a vote.
  """
  ids = np.asarray(ids)[:, :neighbours]
  weights = np.asarray(scores, np.float64)[:, :neighbours]
  votes = (ids >= 0) & (weights > 0)
  landmarks = np.append(np.asarray(landmarks, np.int64), -1)
  labels = np.where(votes, landmarks[np.where(votes, ids, -1)], -1)
  return _best_sums(labels, np.where(votes, weights, 0))


def _best_sums(labels, weights):
  """Returns the label of each row whose weights add up to most, and that."""
  number, size = labels.shape
  if not labels.size:
    return np.full([number], -1, np.int64), np.zeros([number])
  order = np.argsort(labels, axis=1, kind="stable")
  labels = np.take_along_axis(labels, order, axis=1)
  # Runs of one label, each row beginning with a new one.
  begins = np.ones([number, size], bool)
  begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
  runs = np.flatnonzero(begins)
  weights = np.take_along_axis(weights, order, axis=1)
  sums = np.add.reduceat(weights.reshape(-1), runs)
  row = runs // size
  best = np.maximum.reduceat(sums, np.searchsorted(row, np.arange(number)))
  winners = np.flatnonzero(sums == best[row])
  first = winners[np.searchsorted(row[winners], np.arange(number))]
  predicted = labels.reshape(-1)[runs[first]]
  return np.where(best > 0, predicted, -1), best


def write_retrieval(path, queries, index, ids):
  """Writes a submission to the retrieval contest, whole or not at all.

  Args:
    path: Path of the CSV file, `id,images`.
    queries: list of Q str, names of the queries.
    index: list of N str, names of the index images.
    ids: [Q, k] int, index images, best first; -1 stands for none. The first 100
      are written.

  Raises:
    InputError: If the numbers of queries differ, two images have one id, an id
      cannot stand in the file, or a result is of no index image.
  """
  names = np.array(_ids(index, "index image"), object)
  ids = np.asarray(ids)
  if ids.ndim != 2 or ids.max(initial=-1) >= len(names):
    raise errors.InputError(
      f"ids of {len(names)} index images, [queries, results]",
      f"shape {list(ids.shape)}, up to {ids.max(initial=-1)}",
    )
  found = ids[:, :MAX_RETRIEVED]
  rows = (" ".join(names[row[row >= 0]]) for row in found)
  _write(path, "images", queries, rows, len(ids))


def write_recognition(path, queries, predicted, scores):
  """Writes a submission to the recognition contest, whole or not at all.

  Args:
    path: Path of the CSV file, `id,landmarks`.
    queries: list of Q str, names of the queries.
    predicted: [Q] int, landmarks; -1 stands for none.
    scores: [Q] float, finite.

  Raises:
    InputError: If the numbers of queries differ, two have one id, an id cannot
      stand in the file, or a score is not finite.
  """
  if len(predicted) != len(scores):
    raise errors.InputError(f"{len(predicted)} scores", f"{len(scores)}")
  arrays.check_finite(np.asarray(scores), "scores")
  pairs = zip(predicted, scores, strict=True)
  rows = (
    f"{label} {score:.9g}" if label >= 0 else "" for label, score in pairs
  )
  _write(path, "landmarks", queries, rows, len(predicted))


def _write(path, column, queries, rows, number):
  ids = _ids(queries, "query")
  if len(ids) != number:
    raise errors.InputError(f"results of {len(ids)} queries", f"{number}")
  with (
    files.atomic_path(path) as temporary,
    open(temporary, "w", encoding="utf-8", newline="\n") as file,
  ):
    file.write(f"id,{column}\n")
    file.writelines(f"{i},{row}\n" for i, row in zip(ids, rows, strict=True))


def _ids(names, what):
  """Returns the ids of images, each once and such as the file separates."""
  ids = [image_id(name) for name in names]
  for one in ids:
    if not one or _SEPARATORS.search(one):
      raise errors.InputError("ids without spaces, commas or quotes", repr(one))
  twice = ground_truth.first_twice(ids)
  if twice is not None:
    raise errors.InputError(f"each {what} once", f"{twice} twice")
  return ids
