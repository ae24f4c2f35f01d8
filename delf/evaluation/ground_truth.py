"""Which images of a collection are right for each query."""

import dataclasses
import json
import math
import os

import numpy as np

from delf.base import errors, files
from delf.evaluation import revisited
from delf.extraction import jobs
from delf.python.datasets.revisited_op import dataset as revisited_op_dataset

_ENDINGS = (*files.IMAGES, files.DELF, files.DELG_LOCAL, files.DELG_GLOBAL)


class ImagePlaces:
  """Where the images of a collection are, by name.

  A name may be written as it is in the collection, without its ending, or
  without its folders and ending, where that leaves one image only.
  """

  def __init__(self, names):
    """Starts with the names of a collection."""
    self._levels = []
    for shorten in (str, _without_ending, _base):
      found = {}
      for i, name in enumerate(names):
        # None where two have it.
        key = shorten(name)
        found[key] = i if key not in found else None
      self._levels.append((shorten, found))

  def __contains__(self, name):
    return any(shorten(name) in found for shorten, found in self._levels)

  def find(self, name, where):
    """Returns the place of an image.

    Args:
      name: Its name.
      where: File and place in it that the name is from, for the error.

    Raises:
      InputError: If there is none, or more than one.
    """
    for shorten, found in self._levels:
      place = found.get(shorten(name), -1)
      if place is None:
        raise errors.InputError(
          "a name of one image", f"'{name}' of two", where
        )
      if place >= 0:
        return place
    raise errors.InputError("an image of the collection", f"'{name}'", where)


def first_twice(names):
  """Returns the first of some names that was there before, or None."""
  seen = set()
  for name in names:
    if name in seen:
      return name
    seen.add(name)
  return None


def _without_ending(name):
  stem, ending = os.path.splitext(name)
  return stem if ending.lower() in _ENDINGS else name


def _base(name):
  return _without_ending(os.path.basename(name))


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
  rows = files.read_csv(path, header=True, strict=True)
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
    raise _TwiceError(first_twice(name for name, _ in pairs))
  return found


PROTOCOLS = ("easy", "medium", "hard")
# The one protocol of ground truth that does not say how hard an image is.
PLAIN_PROTOCOL = "all"


@dataclasses.dataclass(frozen=True)
class GroundTruth:
  """Ground truth of Q queries on a collection.

  Attributes:
    dataset: Name of the data set.
    index_names: tuple of str, the collection; ids are places in it.
    query_names: tuple of Q str.
    easy: tuple of Q [n] int64, ids of images that are right and easy to find;
      of ground truth that is not graded, of all that are right.
    hard: tuple of Q [n] int64, of those that are right and hard to find.
    junk: tuple of Q [n] int64, of those that count neither way.
    boxes: tuple of Q: the query's part of its photo, [4] float64 (x1, y1, x2,
      y2, pixels), or None for all of it.
    graded: Whether it says how hard an image is to find.
    distractors: How many of the collection the data set does not list.
    lists_collection: Whether the file lists its collection, as those of the
      Revisited data sets do, and one's own by name do not.
  """

  dataset: str
  index_names: tuple
  query_names: tuple
  easy: tuple
  hard: tuple
  junk: tuple
  boxes: tuple
  graded: bool = True
  distractors: int = 0
  lists_collection: bool = False

  def protocols(self):
    """Returns dict by protocol of Q dicts with "ok" and "junk", [n] int64."""
    labels = [
      {"easy": easy, "hard": hard, "junk": junk}
      for easy, hard, junk in zip(self.easy, self.hard, self.junk, strict=True)
    ]
    parsed = revisited_op_dataset.ParseEasyMediumHardGroundTruth(labels)
    if not self.graded:
      return {PLAIN_PROTOCOL: parsed[0]}
    return dict(zip(PROTOCOLS, parsed, strict=True))


def read(path, index_names=None):
  """Reads ground truth, published or one's own.

  Where one's own ground truth (by name) has a query that is itself an image of
  the collection, it is junk for itself unless it is labelled.

  Args:
    path: Path of a file: `.mat` or `.pkl` of the Revisited data sets, or
      `.csv` or `.json` as `own_ground_truth` describes.
    index_names: Names of the collection that is searched, in its order; the
      ids are places in it. None for what the file lists.

  Returns:
    GroundTruth.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is not as it should be, names an image that the collection
      does not have, labels one twice for a query, or if the collection is
      another data set's.
  """
  extension = os.path.splitext(path)[1].lower()
  if extension == ".csv":
    return _own(read_csv(path), path, index_names)
  if extension == ".json":
    found = read_json(path)
    if isinstance(found, list):
      return _own(found, path, index_names)
    parsed = revisited.parse(found, 0, path)
    name = found.get("dataset")
    return _listed(parsed, path, index_names, name)
  if extension not in (".mat", ".pkl", ".pickle"):
    raise errors.InputError(
      "ground truth, .mat, .pkl, .json or .csv", f"'{extension}'", path
    )
  return _listed(
    revisited_op_dataset.ReadDatasetFile(path), path, index_names, None
  )


def _listed(parsed, path, index_names, name):
  """Makes ground truth of a file that lists its collection."""
  queries, listed, truth = parsed
  _require_unique(queries, "query", path)
  _require_unique(listed, "image", path)
  ids, distractors = np.arange(len(listed)), 0
  if index_names is not None:
    ids = _place_listed(listed, queries, index_names, path)
    distractors = len(index_names) - len(listed)
  images = {
    label: tuple(ids[_whole(entry.get(label, ()))] for entry in truth)
    for label in revisited.LABELS
  }
  for i, query in enumerate(queries):
    _require_once([images[label][i] for label in images], query, path)
  return GroundTruth(
    name if isinstance(name, str) else _name(path),
    tuple(listed if index_names is None else index_names),
    tuple(queries),
    boxes=tuple(entry.get("bbx") for entry in truth),
    distractors=distractors,
    lists_collection=True,
    **images,
  )


def _place_listed(listed, queries, index_names, path):
  """Returns [N] int64, places of the listed images in the collection."""
  places = ImagePlaces(index_names)
  missing = [name for name in listed if name not in places]
  if missing:
    raise errors.InputError(
      f"a collection with its {len(listed)} images",
      f"one without {len(missing)} of them, such as '{missing[0]}'",
      path,
    )
  known = set(listed)
  among = [name for name in queries if name in places and name not in known]
  if among:
    raise errors.InputError(
      "a collection without its query images, as the Revisited data sets are",
      f"one with {len(among)} of them, such as '{among[0]}', as the older"
      " Oxford5k and Paris6k are",
      path,
    )
  return np.array([places.find(name, path) for name in listed], np.int64)


def _own(queries, path, index_names):
  """Makes ground truth of a file that labels images by name."""
  if not queries:
    raise errors.InputError("labelled images", "none", path)
  if index_names is None:
    index_names = dict.fromkeys(
      name
      for query in queries
      for images in query.images.values()
      for name, _ in images
    )
  index_names = tuple(index_names)
  places = ImagePlaces(index_names)
  graded = not any("positive" in query.images for query in queries)
  images = {label: [] for label in GRADED}
  for query in queries:
    if not graded and {"easy", "hard"} & set(query.images):
      raise errors.InputError(
        "'easy' and 'hard', or 'positive'", f"both, for '{query.name}'", path
      )
    for label, ids in _ids(query, places).items():
      images[label].append(ids)
  return GroundTruth(
    _name(path),
    index_names,
    tuple(query.name for query in queries),
    boxes=tuple(
      None if query.box is None else np.array(query.box) for query in queries
    ),
    graded=graded,
    **{label: tuple(ids) for label, ids in images.items()},
  )


def _ids(query, places):
  """Returns {label: [n] int64} of one query."""
  label_of = {}
  for label, images in query.images.items():
    for name, where in images:
      place = places.find(name, where)
      if place in label_of:
        raise errors.InputError(
          f"one label for '{name}' and '{query.name}'", "two", where
        )
      label_of[place] = "easy" if label == "positive" else label
  if query.name in places:
    label_of.setdefault(places.find(query.name, query.name), "junk")
  return {
    label: np.array(
      [i for i, own in label_of.items() if own == label], np.int64
    )
    for label in GRADED
  }


def _whole(ids):
  return np.asarray(ids).astype(np.int64)


def _name(path):
  """Returns the data set's name in `gnd_roxford5k.mat` and the like."""
  stem = os.path.splitext(os.path.basename(path))[0]
  return stem.removeprefix("gnd_")


def _require_unique(names, what, path):
  twice = first_twice(names)
  if twice is not None:
    raise errors.InputError(f"each {what} once", f"'{twice}' twice", path)


def _require_once(ids, query, path):
  ids = np.concatenate(ids)
  if len(np.unique(ids)) < len(ids):
    raise errors.InputError(
      f"one label for each image of query '{query}'", "two", path
    )


QUERY = "query"
INDEX = "index"

_EXTENSION = ".jpg"


@dataclasses.dataclass(frozen=True)
class DatasetImages:
  """Images of one set; the lists are of one length.

  Attributes:
    paths: Paths of the image files.
    names: Their names in the data set, which are those of their outputs.
    crops: cropping.Crop of each query, None where there is no box, and of each
      index image None: all of it.
  """

  paths: list
  names: list
  crops: list


def read_dataset_images(dataset_file_path, image_set, images_dir, scale_limits):
  """Reads which images a data set has.

  Args:
    dataset_file_path: Path of the ground truth, `.mat` or `.pkl`.
    image_set: "query" or "index".
    images_dir: Folder with `<name>.jpg` of each; they need not be there.
    scale_limits: Whether size limits are scaled by the query's box; see
      `cropping.Crop`.

  Returns:
    DatasetImages.

  Raises:
    FileNotFoundError: If there is no such ground truth, or folder.
    InputError: If it is not ground truth, or has no images in the set.
  """
  from delf.python.datasets.revisited_op import dataset

  if not os.path.isdir(images_dir):
    raise FileNotFoundError(f"{images_dir}: expected a folder, found none")
  queries, index, ground_truth = dataset.ReadDatasetFile(dataset_file_path)
  names = list(map(str, queries if image_set == QUERY else index))
  if not names:
    raise errors.InputError(
      f"{image_set} images in the data set", "none", dataset_file_path
    )
  crops = [None] * len(names)
  if image_set == QUERY:
    crops = [_crop(truth, scale_limits) for truth in ground_truth]
  paths = [os.path.join(images_dir, f"{n}{_EXTENSION}") for n in names]
  return DatasetImages(paths, names, crops)


def _crop(truth, scale_limits):
  box = truth.get("bbx")
  return None if box is None else jobs.Crop(tuple(box), scale_limits)


def missing(dataset_file_path, images_dir):
  """Finds images that ground truth names and a folder does not have.

  Args:
    dataset_file_path: As in `read`.
    images_dir: As there.

  Returns:
    Number of images that are named, and list of the paths that are missing.

  Raises:
    FileNotFoundError: As in `read`.
    InputError: As there.
  """
  paths = set()
  for image_set in (QUERY, INDEX):
    paths.update(
      read_dataset_images(
        dataset_file_path, image_set, images_dir, scale_limits=True
      ).paths
    )
  return len(paths), sorted(p for p in paths if not os.path.isfile(p))
