"""Which feature files hold the regions of each index image."""

import csv
import io

from delf.python import errors, files

# Columns of the mapping: name of a feature file without extension, index of its
# image in the data set, and its box, -1 for the whole image.
NAME, IMAGE, BOX = COLUMNS = ("name", "index_image_id", "box_id")


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
  try:
    text = files.read_bytes(path).decode("utf-8-sig")
  except UnicodeDecodeError:
    raise errors.InputError("a CSV file", "binary data", path) from None
  reader = csv.DictReader(io.StringIO(text))
  try:
    missing = {NAME, IMAGE} - set(reader.fieldnames or ())
    if missing:
      raise errors.InputError(
        f"a CSV file with the columns {','.join(COLUMNS)}",
        f"{','.join(reader.fieldnames or ['none'])}",
        path,
      )
    rows = list(reader)
  except csv.Error as error:
    raise errors.InputError("a CSV file", f"{error}", path) from None
  found = {}
  for line, row in enumerate(rows, start=2):
    image = image_names[_image_id(row, line, len(image_names), path)]
    found.setdefault(image, []).append(row[NAME])
  return found


def _image_id(row, line, number, path):
  """Returns the image id of a row, an int from 0 to `number` - 1."""
  text = row[IMAGE] or ""
  if not row[NAME] or not text.strip().isdecimal() or int(text) >= number:
    raise errors.InputError(
      f"a name and an index_image_id from 0 to {number - 1}",
      f"{row[NAME]!r} and {text!r} in line {line}",
      path,
    )
  return int(text)
