"""Reading the ground truth files of Revisited Oxford and Paris."""

import os

import numpy as np

from delf.python import errors
from delf.python.datasets import matlab, plain_pickle

LABELS = ("easy", "hard", "junk")

_LISTS = ("imlist", "qimlist", "gnd")


def read(path):
  """Reads ground truth.

  Args:
    path: Path of a `.pkl` file, which is read without running what it may hold;
      any other name is a Matlab file's.

  Returns:
    (queries, index, ground_truth) as of `dataset.ReadDatasetFile`.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no such file, or names images that it does not list.
  """
  if os.fspath(path).lower().endswith((".pkl", ".pickle")):
    found, first = read_pickle(path), 0
  else:
    found, first = _read_matlab(path), 1
  return parse(found, first, path)


def parse(found, first, path):
  """Checks the content of a ground truth file.

  Args:
    found: dict with the lists "imlist", "qimlist" and "gnd".
    first: The id of the first image, 0 or 1.
    path: Path of the file, for errors.

  Returns:
    (queries, index, ground_truth) as of `dataset.ReadDatasetFile`.

  Raises:
    InputError: If it cannot be.
  """
  truth = [
    _truth(entry, first, i, path) for i, entry in enumerate(found["gnd"])
  ]
  queries, index = list(found["qimlist"]), list(found["imlist"])
  _check(queries, index, truth, path)
  return queries, index, truth


def read_pickle(path):
  """Reads a pickle of ground truth; its ids are not checked.

  Args:
    path: Path of the pickle.

  Returns:
    dict with at least the lists "imlist", "qimlist" and "gnd".

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is another file.
  """
  found = plain_pickle.read(path)
  if not (
    isinstance(found, dict)
    and all(isinstance(found.get(key), (list, tuple)) for key in _LISTS)
  ):
    raise errors.InputError(
      f"a dict with the lists {', '.join(_LISTS)}", "another content", path
    )
  return found


def ids(values):
  """Returns ids as an array: [n], of the type that they have, int64 if none."""
  array = np.asarray(_flat(values)).reshape(-1)
  if not array.size and not isinstance(values, np.ndarray):
    return array.astype(np.int64)
  if array.dtype.kind not in "iuf":
    raise TypeError(array.dtype)
  return array


def _flat(values):
  """Returns values; lists in lists are refused, for their size is hidden.

  In a pickle a list may be in another many times, and so forth.
  """
  if isinstance(values, (list, tuple)):
    for value in values:
      if isinstance(value, (list, tuple, dict)):
        raise TypeError("a list in a list")
  return values


def _read_matlab(path):
  found = matlab.read(path, _LISTS)
  for name in _LISTS:
    if not isinstance(found.get(name), list):
      received = "another kind" if name in found else "none"
      raise errors.InputError(f"a list '{name}'", received, path)
  return found


def _truth(entry, first, query, path):
  """Returns the ground truth of one query; its ids start at `first`."""
  if not isinstance(entry, dict):
    raise errors.InputError(
      f"labels of query {query + 1}", "something else", path
    )
  if "ok" in entry and "easy" not in entry:
    raise errors.InputError(
      "ground truth of a Revisited data set, with 'easy' and 'hard'",
      "'ok', as the older Oxford5k and Paris6k have",
      path,
    )
  try:
    truth = {key: ids(entry[key]) for key in LABELS if key in entry}
    if "bbx" in entry:
      truth["bbx"] = np.array(_flat(entry["bbx"]), np.float64)
  except (TypeError, ValueError, OverflowError):
    raise errors.InputError(
      f"ids of images and a box for query {query + 1}", "something else", path
    ) from None
  for label, array in truth.items():
    if label in LABELS and first:
      if (array < first).any():
        raise errors.InputError(
          f"ids from {first} in '{label}' of query {query + 1}",
          f"{array.min():g}",
          path,
        )
      truth[label] = array - array.dtype.type(first)
  return truth


def _check(queries, index, ground_truth, path):
  """Refuses ground truth that cannot be."""
  for name in [*queries, *index]:
    if not isinstance(name, str):
      raise errors.InputError(
        "names of images", f"a {type(name).__name__}", path
      )
  if len(queries) != len(ground_truth):
    raise errors.InputError(
      f"ground truth of {len(queries)} queries", f"{len(ground_truth)}", path
    )
  for query, truth in zip(queries, ground_truth, strict=True):
    for label in LABELS:
      array = truth.get(label, np.zeros([0]))
      wrong = ~((array >= 0) & (array < len(index)) & (array % 1 == 0))
      if wrong.any():
        raise errors.InputError(
          f"ids of the {len(index)} index images in '{label}' of {query}",
          f"{array[wrong][0]:g} (from 0)",
          path,
        )
    box = truth.get("bbx", np.zeros([4]))
    if box.shape != (4,) or not np.isfinite(box).all():
      raise errors.InputError(
        f"four numbers in 'bbx' of {query}", "other", path
      )
