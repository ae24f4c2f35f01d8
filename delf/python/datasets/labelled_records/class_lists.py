"""The photos of one's own classes, of folders or of a table."""

import os

from delf.python import errors, files
from delf.python.datasets import csv_file
from delf.python.datasets.labelled_records import photo_list

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
      photo_list.Photo(path, name.replace(os.sep, "/"), label)
      for path, name in zip(found, names, strict=True)
    ]
  stray = [
    entry.path
    for entry in entries
    if files.is_image(entry.name) and entry.is_file()
  ]
  return photo_list.PhotoList(photos, classes, unlisted=stray)


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
  photo_list.check_not_empty(found, f"{folder or '.'} ({csv_path})")
  classes = sorted({label for _, label in found.values()}, key=_sort_key)
  labels = {name: label for label, name in enumerate(classes)}
  photos = [
    photo_list.Photo(path, name, labels[label])
    for name, (path, label) in found.items()
  ]
  return photo_list.PhotoList(photos, classes, absent)


def _rows(path):
  """Iterates over (place, image, class) of a table."""
  rows = csv_file.rows(path, header=True)
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
