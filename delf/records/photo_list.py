"""Photos with labels, before they are written to records."""

import dataclasses
import glob
import json
import os

import numpy as np

from delf.base import errors, files
from delf.evaluation import submission

# How many names a line about many gives.
_NAMED = 3


# Of Google Landmarks there are four million.
@dataclasses.dataclass(frozen=True, slots=True)
class Photo:
  """One photo.

  Attributes:
    path: Path of its file.
    identity: Its name in the records, such as the id of Google Landmarks.
    label: Class from 0, or None where it is not known.
  """

  path: str
  identity: str
  label: int | None = None


@dataclasses.dataclass(frozen=True)
class PhotoList:
  """Photos of some classes.

  Attributes:
    photos: list of Photo.
    classes: list of str, the name of each label.
    absent: list of str, what was listed and is not there.
    unlisted: list of str, photos that are there, of no known class, and are
      left out.
    old_labels: list of int, the listed label of each label, where they are
      others; else None.
    complete: Whether all that is listed has to be there.
  """

  photos: list
  classes: list
  absent: list = dataclasses.field(default_factory=list)
  unlisted: list = dataclasses.field(default_factory=list)
  old_labels: list | None = None
  complete: bool = True

  def empty_classes(self):
    """Returns the names of classes of which there is no photo."""
    seen = {photo.label for photo in self.photos}
    names = enumerate(self.classes)
    return [name for label, name in names if label not in seen]


def check_not_empty(photos, where):
  """Raises InputError if there are no photos."""
  if not photos:
    raise errors.InputError("photos that are listed", "none", where)


def some(names):
  """Returns words for names of which only the first few are said."""
  more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
  return ", ".join(map(str, names[:_NAMED])) + more


# Columns by what they are called elsewhere, first come first.
_IMAGE_COLUMNS = (
  "image", "image_path", "path", "filepath", "file_path", "file", "filename",
  "file_name", "image_name", "img", "photo", "picture", "images", "name", "url",
  "image_id", "id",
)  # fmt: skip
_LABEL_COLUMNS = (
  "label", "class", "class_name", "landmark_id", "label_name", "category",
  "target", "class_id", "label_id", "category_id", "labels", "y",
)  # fmt: skip
# The most that a number has; longer ones are names.
_DIGITS = 18


def of_folders(folder):
  """Lists photos whose class is the folder that they are in.

  Args:
    folder: Folder with a folder for each class, searched with all in it.

  Returns:
    photo_list.PhotoList; classes are sorted by name. Photos that are in none of
    the folders are `unlisted`.

  Raises:
    FileNotFoundError: If there is no such folder.
    InputError: If it has no folders, or one of them no photos.
  """
  folder = os.fspath(folder)
  if not os.path.isdir(folder):
    raise FileNotFoundError(f"{folder}: expected a folder, found none")
  entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
  classes = [
    entry.name
    for entry in entries
    if entry.is_dir() and not entry.name.startswith(".")
  ]
  if not classes:
    raise errors.InputError("a folder for each class in it", "none", folder)
  photos = []
  for label, name in enumerate(classes):
    found = files.find_images(os.path.join(folder, name))
    names = (os.path.relpath(path, folder) for path in found)
    photos += [
      Photo(path, name.replace(os.sep, "/"), label)
      for path, name in zip(found, names, strict=True)
    ]
  stray = [
    entry.path
    for entry in entries
    if files.is_image(entry.name) and entry.is_file()
  ]
  return PhotoList(photos, classes, unlisted=stray)


def of_csv(csv_path, folder=None):
  """Lists photos whose class a table says.

  Args:
    csv_path: Path of a CSV file with a header. One column is the image: a path,
      or an id whose file ends in `.jpg`; one the class, a name or a number.
      Usual names of these columns are known.
    folder: What paths are relative to; the table's own folder if None.

  Returns:
    photo_list.PhotoList; classes are sorted, numbers first and by number. What
    is not there is `absent`.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If a column is missing, a row is short, an image has two
      classes, or no image is there.
  """
  folder = os.path.dirname(csv_path) if folder is None else os.fspath(folder)
  found, absent = {}, []
  for where, name, label in _rows(csv_path):
    path = _existing(folder, name)
    if path is None:
      absent.append(name)
    elif found.setdefault(name, (path, label)) != (path, label):
      raise errors.InputError(
        f"one class for {name}", f"{found[name][1]} and {label}", where
      )
  check_not_empty(found, f"{folder or '.'} ({csv_path})")
  classes = sorted({label for _, label in found.values()}, key=_sort_key)
  labels = {name: label for label, name in enumerate(classes)}
  photos = [
    Photo(path, name, labels[label]) for name, (path, label) in found.items()
  ]
  return PhotoList(photos, classes, absent)


def _rows(path):
  """Iterates over (place, image, class) of a table."""
  rows = files.read_csv(path, header=True)
  _, header = next(rows)
  lower = [name.strip().lower() for name in header]
  columns = []
  for names in (_IMAGE_COLUMNS, _LABEL_COLUMNS):
    known = [name for name in names if name in lower]
    if not known:
      raise errors.InputError(
        f"a column {', '.join(names[:-1])} or {names[-1]}",
        ",".join(header)[:80],
        path,
      )
    columns.append([lower.index(name) for name in known])
  images, label = columns[0], columns[1][0]
  for line, row in rows:
    if len(row) != len(header) or not row[label].strip():
      where = f"{path}, line {line}"
      raise errors.InputError(",".join(header), ",".join(row)[:80], where)
    # A table of Google Landmarks has the photo's address beside its id.
    names = [row[i].strip() for i in images if "://" not in row[i]]
    yield f"{path}, line {line}", names[0] if names else "", row[label].strip()


def _existing(folder, name):
  for path in (name, f"{name}.jpg"):
    path = os.path.join(folder, path)
    if name and os.path.isfile(path):
      return path
  return None


def _sort_key(label):
  # Python refuses to read numbers of thousands of digits.
  is_number = label.isascii() and label.isdecimal() and len(label) <= _DIGITS
  return (0, int(label), label) if is_number else (1, 0, label)


NAME = "labels.json"
# Of labels that were others before, which these are.
RELABELING = "relabeling.csv"
# Of the file; 200 000 landmarks take 5 MB.
_MOST_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class Labels:
  """The classes of records.

  Attributes:
    names: list of str, the name of each label from 0.
    counts: dict by split (`train`, `validation`) of a list of int, the photos
      of each label.
  """

  names: list
  counts: dict

  @property
  def num_classes(self):
    """Number of classes."""
    return len(self.names)


def write(folder, labels):
  """Writes `labels.json` in the folder of the records."""
  content = {"classes": labels.names, "counts": labels.counts}
  text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
  files.write_bytes(os.path.join(folder, NAME), text.encode())


def beside(pattern):
  """Reads what lies beside records: the one count of a data set's classes.

  Args:
    pattern: Pattern of the records' paths, such as `data/train*`.

  Returns:
    Labels, or None if there is no file; as of records that others wrote.

  Raises:
    InputError: If it is something else.
  """
  try:
    return read(os.path.dirname(pattern))
  except FileNotFoundError:
    return None


def read(folder):
  """Reads `labels.json`.

  Args:
    folder: Folder of the records.

  Returns:
    Labels.

  Raises:
    FileNotFoundError: If there is none.
    InputError: If it is something else.
  """
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
    raise errors.InputError(
      "names and counts of classes", "something else", path
    ) from None
  return labels


# Labels of `train.csv` are counted up to the largest one. Of the 4 million
# photos of Google Landmarks there are 203 094.
_MOST_LANDMARKS = 10_000_000


def find(directory):
  """Finds the photos in folders.

  Args:
    directory: A folder, or a pattern of folders such as
      `gldv2_dataset/train/*/*/*/`. Folders in them are not searched.

  Returns:
    dict by id (name without ending) of path, sorted by path.

  Raises:
    FileNotFoundError: If there is no such folder.
    InputError: If there is no photo, or two have one id.
  """
  folders = [each for each in glob.glob(directory) if os.path.isdir(each)]
  if not folders:
    raise FileNotFoundError(f"{directory}: expected a folder, found none")
  found = {}
  for path in sorted(_photos(folders)):
    other = found.setdefault(submission.image_id(path), path)
    if other != path:
      raise errors.InputError("each id once", f"{other} and {path}", directory)
  if not found:
    raise errors.InputError(
      "photos in it (a pattern such as train/*/*/*/ names several folders)",
      "none",
      directory,
    )
  return found


def _photos(folders):
  for folder in folders:
    for entry in os.scandir(folder):
      if files.is_image(entry.name) and entry.is_file():
        yield entry.path


def train(directory, csv_path):
  """Lists the training photos, labelled with their landmark.

  Args:
    directory: As of `find`.
    csv_path: Path of `train.csv`: `id,url,landmark_id`.

  Returns:
    photo_list.PhotoList; the label is the landmark's number.

  Raises:
    FileNotFoundError: If a file or folder is missing.
    InputError: If the table has not these columns, a landmark's number is over
      10 million, or no photo of it is there.
  """
  landmarks = submission.read_landmarks(csv_path)
  largest = max(landmarks.values(), default=0)
  if largest >= _MOST_LANDMARKS:
    raise errors.InputError(
      f"a landmark_id under {_MOST_LANDMARKS}", largest, csv_path
    )
  found = find(directory)
  photos = [
    Photo(path, identity, landmarks[identity])
    for identity, path in found.items()
    if identity in landmarks
  ]
  check_not_empty(photos, directory)
  classes = [str(i) for i in range(largest + 1)]
  absent = [identity for identity in landmarks if identity not in found]
  unlisted = [path for name, path in found.items() if name not in landmarks]
  return PhotoList(photos, classes, absent, unlisted, complete=False)


def clean(directory, csv_path):
  """Lists the photos of the clean part, with labels that leave none out.

  Args:
    directory: As of `find`.
    csv_path: Path of `train_clean.csv`: `landmark_id,images`.

  Returns:
    photo_list.PhotoList; labels are numbers from 0 in the order of the
    landmarks', which are its `old_labels`. They count all that are listed, so
    that a part of the photos has the labels of the whole.

  Raises:
    FileNotFoundError: If a file or folder is missing.
    InputError: If the table has not these columns, or no photo of it is there.
  """
  landmarks = submission.read_landmarks(csv_path)
  found = find(directory)
  old = sorted(set(landmarks.values()))
  new = {landmark: label for label, landmark in enumerate(old)}
  photos = [
    Photo(found[identity], identity, new[landmark])
    for identity, landmark in landmarks.items()
    if identity in found
  ]
  check_not_empty(photos, directory)
  absent = [identity for identity in landmarks if identity not in found]
  names = list(map(str, old))
  return PhotoList(photos, names, absent, old_labels=old, complete=False)


def test(directory, csv_path=None):
  """Lists the test photos, which have no labels.

  Args:
    directory: As of `find`.
    csv_path: Path of `test.csv`, whose first column is the id, or None for all
      that are there.

  Returns:
    photo_list.PhotoList without classes.

  Raises:
    FileNotFoundError: If a file or folder is missing.
    InputError: If no photo is there that is listed.
  """
  found = find(directory)
  listed = list(found) if csv_path is None else _ids(csv_path)
  photos = [
    Photo(found[identity], identity) for identity in listed if identity in found
  ]
  check_not_empty(photos, directory)
  absent = [identity for identity in listed if identity not in found]
  return PhotoList(photos, [], absent, complete=False)


def _ids(path):
  rows = files.read_csv(path, header=True)
  _, header = next(rows)
  if "id" not in header:
    raise errors.InputError("a column id", ",".join(header)[:80], path)
  column = header.index("id")
  return [row[column] for _, row in rows if len(row) > column]


def train_and_validation(photos, share, seed):
  """Divides photos so that every class is trained, and validated if it can be.

  Of each class the share, rounded down, is for validation: at least one photo,
  and never all: the only photo of a class is for training. Else the choice is
  the original's.

  Args:
    photos: list of photo_list.Photo, labelled.
    share: From 0 to under 1.
    seed: int from 0.

  Returns:
    Two lists of Photo, each in random order, for training and validation.

  Raises:
    InputError: If the share is another.
  """
  if not 0 < share < 1:
    raise errors.InputError("a share between 0 and 1 to validate with", share)
  # As the original seeds it; a RandomState of a number draws other numbers.
  random = np.random.RandomState(
    np.random.MT19937(np.random.SeedSequence(seed))
  )
  training, validation = [], []
  for places in _by_class(photos):
    random.shuffle(places)
    number = min(max(1, int(share * len(places))), len(places) - 1)
    validation += places[:number].tolist()
    training += places[number:].tolist()
  # In this order, as each takes random numbers.
  validation = _shuffled(photos, validation, random)
  return _shuffled(photos, training, random), validation


def shuffled(photos, seed):
  """Returns photos in a random order."""
  random = np.random.Generator(np.random.Philox(seed))
  return [photos[i] for i in random.permutation(len(photos))]


def _by_class(photos):
  """Iterates over the places of each class's photos, [n] int, ascending."""
  labels = np.array([photo.label for photo in photos])
  order = np.argsort(labels, kind="stable")
  bounds = np.flatnonzero(np.diff(labels[order])) + 1
  yield from np.split(order, bounds)


def _shuffled(photos, places, random):
  order = np.arange(len(places))
  random.shuffle(order)
  return [photos[places[i]] for i in order]
