"""Pairs of images of one object each, from groups or from a list."""

import csv
import os

import numpy as np

from delf.python import errors, files

# Most pairs of one group: 500 of one thing say little that 5000 do not.
_MOST_IN_GROUP = 500


def from_folders(names, seed=0):
  """Pairs images that are in one folder; those in no folder are in no pair.

  Args:
    names: Names of images such as `colosseum/1`.
    seed: int, decides which pairs of a large group are in.

  Returns:
    [P, 2] int, positions in `names`.

  Raises:
    InputError: If there are no two images in one folder.
  """
  found = _within([os.path.dirname(name) for name in names], seed)
  if not len(found):
    raise errors.InputError(
      "folders with two or more images of one object each (or --pairs, or "
      "--groups)",
      "none",
    )
  return found


def from_groups(path, names, seed=0):
  """Pairs images that a file puts into one group.

  Args:
    path: Path of a CSV file: image name, name of its group.
    names: Names of images; extensions in the file do not matter.
    seed: int, decides which pairs of a large group are in.

  Returns:
    [P, 2] int, positions in `names`.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If a row has less than two values, or no group has two images.
  """
  places = {name: place for place, name in enumerate(names)}
  groups = [""] * len(names)
  for name, group in _rows(path):
    place = _find(name, places)
    if place is not None:
      groups[place] = group
  found = _within(groups, seed)
  if not len(found):
    raise errors.InputError(
      f"groups of two or more of the images, such as {names[0]}", "none", path
    )
  return found


def from_pairs(path, names):
  """Reads pairs; those of an image that is not there are left out.

  Args:
    path: Path of a CSV file: name of an image, name of another.
    names: Names of images; extensions in the file do not matter.

  Returns:
    [P, 2] int, positions in `names`.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If a row has less than two values, or no pair is there.
  """
  places = {name: place for place, name in enumerate(names)}
  found = [[_find(one, places), _find(two, places)] for one, two in _rows(path)]
  found = [pair for pair in found if None not in pair]
  if not found:
    raise errors.InputError(
      f"pairs of the images, such as {names[0]}", "none", path
    )
  return np.array(found)


def _within(groups, seed):
  """Returns the pairs of places, [P, 2], of one group that is not ""."""
  labels, inverse = np.unique(groups, return_inverse=True)
  order = np.argsort(inverse, kind="stable")
  members = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
  generator = np.random.default_rng(seed)
  found = [np.zeros([0, 2], dtype=np.int64)]
  for label, places in zip(labels, members, strict=True):
    if label and len(places) > 1:
      one, two = np.triu_indices(len(places), 1)
      if len(one) > _MOST_IN_GROUP:
        some = generator.choice(len(one), _MOST_IN_GROUP, replace=False)
        one, two = one[some], two[some]
      found.append(np.stack([places[one], places[two]], axis=1))
  return np.concatenate(found)


def _rows(path):
  """Returns the first two values of each row of a CSV file."""
  try:
    rows = list(csv.reader(files.read_lines(path)))
  except csv.Error as error:
    raise errors.InputError("a CSV file", f"{error}", path) from None
  for number, row in enumerate(rows, 1):
    if len(row) < 2:
      raise errors.InputError(
        "two values a row, with a comma between",
        f"{','.join(row)!r} in row {number}",
        path,
      )
  return [[value.strip() for value in row[:2]] for row in rows]


def _find(name, places):
  """Returns the place of a name, which may have an extension, or None."""
  return places.get(name, places.get(os.path.splitext(name)[0]))
