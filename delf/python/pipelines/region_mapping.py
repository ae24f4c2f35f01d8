"""Which feature files hold the regions of each index image."""

import csv
import io

from delf.python import errors, files
from delf.python.datasets import csv_file

# Columns of the mapping: name of a feature file without extension, index of its
# image in the data set, and its box, -1 for the whole image.
NAME, IMAGE, BOX = COLUMNS = ("name", "index_image_id", "box_id")

# Box of the whole image.
WHOLE = -1

# Of an index_image_id.
_DIGITS = 18


def write(path, rows):
  """Writes a mapping, whole or not at all.

  Args:
    path: Path of the CSV file to be.
    rows: Iterable of (name of a feature file without extension, index of its
      image in the data set, box: WHOLE, or its place among the image's
      regions).

  Raises:
    OSError: If it cannot be written.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(COLUMNS)
  writer.writerows(rows)
  files.write_bytes(path, text.getvalue().encode())


def read(path, image_names):
  """Reads a mapping of index images to feature files.

  Args:
    path: Path of a CSV file with the header `name,index_image_id,box_id`.
    image_names: list of str, the index images in the order of their ids.

  Returns:
    dict of image name to the list of str names of its feature files, without
    extension, in the order of the file.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no such file, or has an image id that cannot be.
  """
  rows = csv_file.rows(path, header=True)
  _, header = next(rows)
  if not {NAME, IMAGE} <= set(header):
    raise errors.InputError(
      f"a CSV file with the columns {','.join(COLUMNS)}",
      f"{','.join(header)[:80] or 'none'}",
      path,
    )
  places = header.index(NAME), header.index(IMAGE)
  found = {}
  for line, row in rows:
    name, image = (row[i] if i < len(row) else "" for i in places)
    if not name or not _is_id(image, len(image_names)):
      raise errors.InputError(
        f"a name and an index_image_id from 0 to {len(image_names) - 1}",
        f"{name[:80]!r} and {image[:80]!r} in line {line}",
        path,
      )
    found.setdefault(image_names[int(image)], []).append(name)
  return found


def _is_id(text, number):
  digits = text.strip()
  is_short = len(digits) <= _DIGITS
  return is_short and digits.isdecimal() and int(digits) < number
