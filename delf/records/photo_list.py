"""Lists of photos with labels, before they are written to records."""

import dataclasses
import glob
import itertools
import json
import os
import re
from collections.abc import Sequence

import numpy as np

from delf.base import errors, files
from delf.evaluation import submission

NAME = "labels.json"
RELABELING = "relabeling.csv"  # New and old labels.
_MOST_BYTES = 2**28  # Of labels.json; 200 000 landmarks take 5 MB.
_NAMED = 3  # Names that a message lists.
# Labels are 0 to the largest landmark_id; Google Landmarks has 203 094.
_MOST_LANDMARKS = 10_000_000

# Usual names of columns; earlier ones take precedence.
_IMAGE_COLUMNS = (
  "image", "image_path", "path", "filepath", "file_path", "file", "filename",
  "file_name", "image_name", "img", "photo", "picture", "images", "name", "url",
  "image_id", "id",
)  # fmt: skip
_LABEL_COLUMNS = (
  "label", "class", "class_name", "landmark_id", "label_name", "category",
  "target", "class_id", "label_id", "category_id", "labels", "y",
)  # fmt: skip
_NUMBER = re.compile("[0-9]{1,18}")  # Longer ones are names.


# With slots, since Google Landmarks has four million photos.
@dataclasses.dataclass(frozen=True, slots=True)
class Photo:
  """A photo: its file, its id in records, and its class from 0, if known."""

  path: str
  identity: str
  label: int | None = None


@dataclasses.dataclass(frozen=True)
class PhotoList:
  """Photos, and their classes."""

  photos: list[Photo]
  classes: list[str]  # Name of each label.
  absent: Sequence[str] = ()  # Listed names without a photo.
  unlisted: Sequence[str] = ()  # Photos without a known class, left out.
  old_labels: list[int] | None = None  # By new label, if relabelled.
  complete: bool = True  # Whether all listed photos must exist.


def first_names(names: Sequence) -> str:
  """Return text with the first few names and the number of the others."""
  more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
  return ", ".join(map(str, names[:_NAMED])) + more


def list_folders(folder: files.Path) -> PhotoList:
  """List the photos in the sub-folders of a folder, one class each.

  Classes are sorted by name. Photos outside the sub-folders are `unlisted`.
  """
  folder = os.fspath(folder)
  if not os.path.isdir(folder):
    raise FileNotFoundError(f"{folder}: no such folder")
  entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
  classes = [e.name for e in entries if e.is_dir() and e.name[0] != "."]
  if not classes:
    raise errors.InputError("it has no folder for each class", path=folder)
  photos = []
  for label, name in enumerate(classes):
    for path in files.find_images(os.path.join(folder, name)):
      identity = os.path.relpath(path, folder).replace(os.sep, "/")
      photos.append(Photo(path, identity, label))
  return PhotoList(photos, classes, unlisted=_images(entries))


def _images(entries):
  return [e.path for e in entries if files.is_image(e.name) and e.is_file()]


def list_csv(
  csv_path: files.Path, folder: files.Path | None = None
) -> PhotoList:
  """List the photos of a CSV table of images and classes, with a header.

  Images are paths in the folder (by default that of the table), or ids of
  `.jpg` files. Columns are recognised by their usual names. Classes are names
  or numbers, sorted, numbers first.
  """
  folder = os.path.dirname(csv_path) if folder is None else os.fspath(folder)
  labelled: dict[str, tuple[str, str]] = {}
  absent = []
  for where, name, label in _rows(csv_path):
    paths = (os.path.join(folder, name), os.path.join(folder, f"{name}.jpg"))
    path = next((path for path in paths if name and os.path.isfile(path)), None)
    if path is None:
      absent.append(name)
    elif labelled.setdefault(name, (path, label)) != (path, label):
      text = f"{name} has two classes, {labelled[name][1]} and {label}"
      raise errors.InputError(text, path=where)
  if not labelled:
    text = f"none of the photos listed in {csv_path} exists"
    raise errors.InputError(text, path=folder or ".")
  # Numbers first, but Python does not convert those of thousands of digits.
  classes = sorted(
    {label for _, label in labelled.values()},
    key=lambda x: (0, int(x), x) if _NUMBER.fullmatch(x) else (1, 0, x),
  )
  labels = {name: label for label, name in enumerate(classes)}
  photos = [
    Photo(path, name, labels[label]) for name, (path, label) in labelled.items()
  ]
  return PhotoList(photos, classes, absent)


def _rows(path):
  """Yield (file and line, image, class) of a table."""
  rows = files.read_csv(path, header=True)
  _, header = next(rows)
  lower = [name.strip().lower() for name in header]
  columns = []
  for names in (_IMAGE_COLUMNS, _LABEL_COLUMNS):
    columns.append([lower.index(name) for name in names if name in lower])
    if not columns[-1]:
      text = f"'{','.join(header)[:80]}' lacks a column {', '.join(names[:-1])}"
      raise errors.InputError(f"{text} or {names[-1]}", path=path)
  images, (label, *_) = columns
  for line, row in rows:
    where = f"{path}, line {line}"
    if len(row) != len(header) or not row[label].strip():
      text = f"'{','.join(row)[:80]}' does not fit '{','.join(header)}'"
      raise errors.InputError(text, path=where)
    # Tables of Google Landmarks have URLs of photos beside ids.
    ids = [row[i].strip() for i in images if "://" not in row[i]]
    yield where, ids[0] if ids else "", row[label].strip()


def find_photos(directory: str) -> dict[str, str]:
  """Find the photos in folders of Google Landmarks: paths by id, sorted.

  `directory` is a folder or a pattern of folders such as
  `gldv2_dataset/train/*/*/*/`; sub-folders are not searched.
  """
  folders = [each for each in glob.glob(directory) if os.path.isdir(each)]
  if not folders:
    raise FileNotFoundError(f"{directory}: no such folder")
  paths = itertools.chain(*(_images(os.scandir(each)) for each in folders))
  photos: dict[str, str] = {}
  for path in sorted(paths):
    other = photos.setdefault(submission.image_id(path), path)
    if other != path:
      raise errors.InputError(f"{other} and {path} have one id", path=directory)
  if not photos:
    text = "no photos: use a pattern such as train/*/*/*/ for several folders"
    raise errors.InputError(text, path=directory)
  return photos


def list_train(directory: str, csv_path: files.Path) -> PhotoList:
  """List the photos of `train.csv`, labelled by landmark; see `find_photos`."""
  landmarks = submission.read_landmarks(csv_path)
  largest = max(landmarks.values(), default=0)
  if largest >= _MOST_LANDMARKS:
    text = f"landmark_id must be under {_MOST_LANDMARKS}, not {largest}"
    raise errors.InputError(text, path=csv_path)
  paths = find_photos(directory)
  # In the order of the photos; absent ones come last.
  names = [n for n in dict.fromkeys((*paths, *landmarks)) if n in landmarks]
  listed = _listed(directory, paths, names, landmarks)
  classes = list(map(str, range(largest + 1)))
  unlisted = [path for name, path in paths.items() if name not in landmarks]
  return dataclasses.replace(listed, classes=classes, unlisted=unlisted)


def _listed(directory, paths, names, labels):
  photos = [Photo(paths[n], n, labels.get(n)) for n in names if n in paths]
  if not photos:
    raise errors.InputError("none of the listed photos exists", path=directory)
  absent = [name for name in names if name not in paths]
  return PhotoList(photos, [], absent, complete=False)


def list_clean(directory: str, csv_path: files.Path) -> PhotoList:
  """List the photos of `train_clean.csv`, with consecutive labels.

  They are ranks of all listed landmarks, so that a subset has the same labels.
  """
  landmarks = submission.read_landmarks(csv_path)
  paths = find_photos(directory)
  old = sorted(set(landmarks.values()))
  new = {landmark: label for label, landmark in enumerate(old)}
  labels = {name: new[landmark] for name, landmark in landmarks.items()}
  listed = _listed(directory, paths, landmarks, labels)
  classes = list(map(str, old))
  return dataclasses.replace(listed, classes=classes, old_labels=old)


def list_test(directory: str, csv_path: files.Path | None = None) -> PhotoList:
  """List the test photos, without labels: all, or those in a column `id`."""
  paths = find_photos(directory)
  listed = list(paths)
  if csv_path is not None:
    rows = files.read_csv(csv_path, header=True)
    _, header = next(rows)
    if "id" not in header:
      text = f"'{','.join(header)[:80]}' lacks a column id"
      raise errors.InputError(text, path=csv_path)
    column = header.index("id")
    listed = [row[column] for _, row in rows if len(row) > column]
  return _listed(directory, paths, listed, {})


def train_and_validation(
  photos: Sequence[Photo], share: float, seed: int
) -> tuple[list[Photo], list[Photo]]:
  """Split labelled photos into training and validation, in random order.

  The validation share of each class is rounded down, but has at least one photo
  and never all. Otherwise the choice is that of the original.
  """
  if not 0 < share < 1:
    raise errors.InputError(f"validation share {share} is not between 0 and 1")
  # Seeded as in the original; RandomState(seed) draws other numbers.
  random = np.random.RandomState(
    np.random.MT19937(np.random.SeedSequence(seed))
  )
  labels = np.array([photo.label for photo in photos])
  order = np.argsort(labels, kind="stable")
  bounds = np.flatnonzero(np.diff(labels[order])) + 1
  training, validation = [], []
  for indices in np.split(order, bounds):
    random.shuffle(indices)
    number = min(max(1, int(share * len(indices))), len(indices) - 1)
    validation += indices[:number].tolist()
    training += indices[number:].tolist()

  def shuffled(indices):
    order = np.arange(len(indices))
    random.shuffle(order)
    return [photos[indices[i]] for i in order]

  # The order matters, as each draws random numbers.
  validation = shuffled(validation)
  return shuffled(training), validation


def shuffled(photos: Sequence[Photo], seed: int) -> list[Photo]:
  """Return photos in a random order."""
  random = np.random.Generator(np.random.Philox(seed))
  return [photos[i] for i in random.permutation(len(photos))]


@dataclasses.dataclass(frozen=True)
class Labels:
  """Names of the classes of records, and numbers of photos by split."""

  names: list[str]
  counts: dict[str, list[int]]  # Photos of each class, by split.


def write_labels(folder: files.Path, labels: Labels) -> None:
  """Write `labels.json` in the folder of the records."""
  content = {"classes": labels.names, "counts": labels.counts}
  text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
  files.write_bytes(os.path.join(folder, NAME), text.encode())


def read_labels_beside(pattern: str) -> Labels | None:
  """Read `labels.json` beside the records of a pattern; None without one."""
  try:
    return read_labels(os.path.dirname(pattern))
  except FileNotFoundError:
    return None


def read_labels(folder: files.Path) -> Labels:
  """Read `labels.json` in the folder of the records."""
  path = os.path.join(folder, NAME)
  try:
    content = json.loads(files.read_bytes(path, _MOST_BYTES))
    labels = Labels(content["classes"], content["counts"])
    if not all(isinstance(name, str) for name in labels.names):
      raise TypeError
    for counts in labels.counts.values():
      if len(counts) != len(labels.names) or set(map(type, counts)) - {int}:
        raise TypeError
  except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
    text = "the file does not have the names and counts of classes"
    raise errors.InputError(text, path=path) from None
  return labels
