"""The photos that a training is on, and the class of each."""

import dataclasses
import os

from delf.python import errors, files
from delf.python.datasets import csv_file
from delf.python.pipelines import image_names
from delf.python.pipelines.train import options

# First value of a row that names columns.
_HEADS = ("photo", "image", "file", "filename", "path", "url", "name", "id")


@dataclasses.dataclass(frozen=True)
class Sources:
  """Photos to train on.

  Attributes:
    paths: list of str.
    names: list of str, one for each, without extension.
    labels: list of str or None: class of each, None of a photo that is in none;
      or None where there are no classes.
  """

  paths: list
  names: list
  labels: list | None

  def classes(self):
    """Returns dict by class of its number of photos; {} without classes."""
    counts = {}
    for label in self.labels or ():
      if label is not None:
        counts[label] = counts.get(label, 0) + 1
    return counts


def find(given, labels=options.AUTO):
  """Finds photos and their classes.

  Args:
    given: Folders, patterns, lists and photos.
    labels: As `TrainOptions.labels`.

  Returns:
    Sources; labels that tell no two photos of a class apart are an error.

  Raises:
    FileNotFoundError: If a source is not there.
    InputError: If there are too few photos, a class has none, it is not clear
      what is a class, or a CSV file is not right.
  """
  paths, names = image_names.find(given)
  if len(paths) < options.FEWEST_PHOTOS:
    raise errors.InputError(
      f"at least {options.FEWEST_PHOTOS} photos to train on",
      len(paths),
      os.fspath(given[0]),
    )
  if labels == options.AUTO:
    labels = _guess(given, names)
  if labels == options.NO_LABELS:
    return Sources(paths, names, None)
  if labels == options.FOLDERS:
    _refuse_empty_folders(given)
    found = [name.split("/")[0] if "/" in name else None for name in names]
  elif not os.path.exists(labels):
    raise FileNotFoundError(
      f"{labels}: expected labels that are folders, none, or a CSV file; found "
      "no such file"
    )
  else:
    found = _listed(labels, paths, names)
  sources = Sources(paths, names, found)
  _check(sources, given)
  return sources


def refuse_inside(given, out):
  """Refuses a model among the photos, as its pictures would be some of them.

  Args:
    given: As for `find`.
    out: pathlib.Path of the model to be.

  Raises:
    InputError: If it would lie in one of the folders.
  """
  for source in filter(os.path.isdir, given):
    if out.resolve().is_relative_to(os.path.realpath(source)):
      raise errors.InputError(
        "a folder outside those of the photos", f"one inside {source}", out
      )


def _guess(given, names):
  """Returns "folders" or "none"."""
  if len(given) > 1 or not os.path.isdir(given[0]):
    return options.NO_LABELS
  inside = ["/" in name for name in names]
  if all(inside):
    return options.FOLDERS
  if any(inside):
    raise errors.InputError(
      "photos in a folder for each class, or none in folders (--labels says "
      "what they are)",
      f"some in folders ({names[inside.index(True)]}), some not "
      f"({names[inside.index(False)]})",
      os.fspath(given[0]),
    )
  return options.NO_LABELS


def _refuse_empty_folders(given):
  """Raises InputError for a folder of a class that has no photo."""
  for source in filter(os.path.isdir, given):
    with os.scandir(source) as entries:
      folders = sorted(e.path for e in entries if e.is_dir())
    for folder in folders:
      if not os.path.basename(folder).startswith("."):
        files.find_images(folder)


def _listed(path, paths, names):
  """Returns the class of each photo by a CSV file; None where it lists none."""
  places = {name: i for i, name in enumerate(names)}
  for i, each in enumerate(paths):
    places.setdefault(os.path.basename(each), i)
    places.setdefault(os.path.splitext(os.path.basename(each))[0], i)
  found = [None] * len(names)
  for line, row in csv_file.rows(path, header=True):
    photo, label = _row(row, line, path)
    place = places.get(photo, places.get(os.path.splitext(photo)[0]))
    if place is None and line == 1 and photo.lower() in _HEADS:
      continue
    if place is None:
      raise errors.InputError(
        "photos that are among those given", f"{photo} in line {line}", path
      )
    found[place] = label
  return found


def _row(row, line, path):
  row = [value.strip() for value in row[:2]]
  if len(row) < 2 or not all(row):
    raise errors.InputError(
      "a photo and its class a row, with a comma between",
      f"{','.join(row)!r} in line {line}",
      path,
    )
  return row


def _check(sources, given):
  """Raises InputError where labels tell nothing."""
  counts = sources.classes()
  good = [label for label, number in counts.items() if number > 1]
  if len(good) < 2:
    some = ", ".join(f"{label}: {n}" for label, n in list(counts.items())[:4])
    raise errors.InputError(
      "at least 2 classes of 2 photos or more (--labels none trains without)",
      f"{len(good)} ({some or 'no classes'})",
      os.fspath(given[0]),
    )
