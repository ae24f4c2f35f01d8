"""The photos of Google Landmarks, of its folders and its tables."""

import glob
import os

from delf.python import errors, files
from delf.python.datasets import csv_file
from delf.python.datasets.google_landmarks_dataset import submission
from delf.python.datasets.labelled_records import photo_list

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
    photo_list.Photo(path, identity, landmarks[identity])
    for identity, path in found.items()
    if identity in landmarks
  ]
  photo_list.check_not_empty(photos, directory)
  classes = [str(i) for i in range(largest + 1)]
  absent = [identity for identity in landmarks if identity not in found]
  unlisted = [path for name, path in found.items() if name not in landmarks]
  return photo_list.PhotoList(photos, classes, absent, unlisted, complete=False)


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
    photo_list.Photo(found[identity], identity, new[landmark])
    for identity, landmark in landmarks.items()
    if identity in found
  ]
  photo_list.check_not_empty(photos, directory)
  absent = [identity for identity in landmarks if identity not in found]
  names = list(map(str, old))
  return photo_list.PhotoList(
    photos, names, absent, old_labels=old, complete=False
  )


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
    photo_list.Photo(found[identity], identity)
    for identity in listed
    if identity in found
  ]
  photo_list.check_not_empty(photos, directory)
  absent = [identity for identity in listed if identity not in found]
  return photo_list.PhotoList(photos, [], absent, complete=False)


def _ids(path):
  rows = csv_file.rows(path, header=True)
  _, header = next(rows)
  if "id" not in header:
    raise errors.InputError("a column id", ",".join(header)[:80], path)
  column = header.index("id")
  return [row[column] for _, row in rows if len(row) > column]
