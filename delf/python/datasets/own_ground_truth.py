"""Reading ground truth that people write themselves: CSV and JSON.

CSV: a header, then a line for each image that is labelled, for example

    query,image,label
    church.jpg,church_from_the_left.jpg,easy
    church.jpg,church_at_night.jpg,hard
    church.jpg,church_door.jpg,junk

Labels are `easy`, `hard` and `junk`, or, where nobody knows how hard it is,
`positive` and `junk`. What is not labelled is wrong for the query; junk counts
neither way. Four more columns, `x1,y1,x2,y2`, may give the query's part of its
photo, in pixels; a line that has them empty leaves it as it is.

JSON: `{"church.jpg": {"positive": [names], "junk": [names], "bbx": [x1, y1, x2,
y2]}, ...}`, or with "easy" and "hard" in place of "positive"; or the form of
the Revisited data sets: `{"dataset": name, "imlist": [names], "qimlist":
[names], "gnd": [{"easy": [numbers in imlist, from 0], "hard": [...], "junk":
[...], "bbx": [...]}, ...]}`.
"""

import dataclasses
import json
import math

from delf.python import errors, files
from delf.python.datasets import csv_file, image_places

GRADED = ("easy", "hard", "junk")
PLAIN = ("positive", "junk")
LABELS = ("positive", *GRADED)
LISTS = ("imlist", "qimlist", "gnd")

_COLUMNS = ["query", "image", "label"]
_BOX = ["x1", "y1", "x2", "y2"]
_MAX_BYTES = 2**28


@dataclasses.dataclass
class Query:
  """What a file says of one query.

  Attributes:
    name: Name of the query.
    images: dict by label of list of (name, file and place in it).
    box: (x1, y1, x2, y2) in pixels, or None.
  """

  name: str
  images: dict = dataclasses.field(default_factory=dict)
  box: tuple = None


def read_csv(path):
  """Reads a CSV file.

  Args:
    path: Path of it.

  Returns:
    list of Query, in the file's order.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If a line is not as it should be; it says which.
  """
  queries = {}
  rows = csv_file.rows(path, header=True, strict=True)
  header = [column.strip().lower() for column in next(rows)[1]]
  if header not in (_COLUMNS, _COLUMNS + _BOX):
    raise errors.InputError(
      f"the header {','.join(_COLUMNS)}", f"'{','.join(header)[:80]}'", path
    )
  for line, row in rows:
    _add_row(queries, row, header, f"{path}, line {line}")
  return list(queries.values())


def read_json(path):
  """Reads a JSON file.

  Args:
    path: Path of it.

  Returns:
    list of Query; or, of the Revisited form, the dict.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is not as it should be; it says where.
  """
  data = files.read_bytes(path, _MAX_BYTES)
  try:
    found = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique)
  except _TwiceError as error:
    raise errors.InputError("each name once", f"{error} twice", path) from None
  except (ValueError, RecursionError) as error:
    raise errors.InputError(
      "a JSON file", errors.one_line(error), path
    ) from None
  if not isinstance(found, dict):
    raise errors.InputError("a JSON object", type(found).__name__, path)
  if set(LISTS) <= set(found):
    if not all(isinstance(found[name], list) for name in LISTS):
      raise errors.InputError(f"lists {', '.join(LISTS)}", "others", path)
    return found
  return [_query(name, value, path) for name, value in found.items()]


def _add_row(queries, row, header, where):
  if len(row) not in (len(_COLUMNS), len(header)):
    raise errors.InputError(",".join(header), f"{len(row)} columns", where)
  name, image, label, *box = (word.strip() for word in row)
  if label.lower() not in LABELS:
    raise errors.InputError(
      f"a label of {', '.join(LABELS)}", f"'{label[:80]}'", where
    )
  if not name or not image:
    raise errors.InputError("a query and an image", "an empty name", where)
  query = queries.setdefault(name, Query(name))
  query.images.setdefault(label.lower(), []).append((image, where))
  if any(box):
    box = _box(box, where)
    if query.box not in (None, box):
      raise errors.InputError(f"one box for {name}", "two", where)
    query.box = box


def _query(name, value, path):
  where = f"{path}, query '{name[:80]}'"
  if not isinstance(value, dict):
    raise errors.InputError("labels and their images", "something else", where)
  unknown = set(value) - {*LABELS, "bbx"}
  if unknown:
    raise errors.InputError(
      f"labels of {', '.join(LABELS)}", f"'{min(unknown)[:80]}'", where
    )
  query = Query(name)
  for label in set(LABELS) & set(value):
    images = value[label]
    if not (isinstance(images, list) and all(_is_name(i) for i in images)):
      raise errors.InputError(f"names in '{label}'", "something else", where)
    query.images[label] = [(image, where) for image in images]
  if value.get("bbx") is not None:
    query.box = _box(value["bbx"], where)
  return query


def _is_name(value):
  return isinstance(value, str) and bool(value)


def _box(values, where):
  try:
    x1, y1, x2, y2 = map(float, values)
  except (TypeError, ValueError):
    x1 = y1 = x2 = y2 = math.nan
  if not (0 <= x1 < x2 < math.inf and 0 <= y1 < y2 < math.inf):
    raise errors.InputError(
      "a box x1, y1, x2, y2 in pixels", f"{values!r:.80}", where
    )
  return x1, y1, x2, y2


class _TwiceError(Exception):
  """A name stands twice in a JSON object; says which."""


def _unique(pairs):
  found = dict(pairs)
  if len(found) < len(pairs):
    raise _TwiceError(image_places.first_twice(name for name, _ in pairs))
  return found
