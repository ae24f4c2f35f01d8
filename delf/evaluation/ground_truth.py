"""Ground truth: which images of a collection are right for each query.

Revisited Oxford and Paris publish files (`.mat`, `.pkl`; the same lists as
`.json`) that list their collection. Users label images by name, in CSV or JSON;
docs/GROUND_TRUTH.md describes these forms.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Sequence

import numpy as np

from delf.base import errors, files
from delf.evaluation import revisited
from delf.extraction import jobs

PROTOCOLS = ("easy", "medium", "hard")
# The only protocol of ground truth that does not grade images.
PLAIN_PROTOCOL = "all"
QUERY, INDEX = "query", "index"

_GRADED = ("easy", "hard", "junk")
_LABELS = ("positive", *_GRADED)
_LISTS = ("imlist", "qimlist", "gnd")
_COLUMNS = ["query", "image", "label"]
_BOX_COLUMNS = ["x1", "y1", "x2", "y2"]
_EXTENSIONS = (*files.IMAGES, files.DELF, files.DELG_LOCAL, files.DELG_GLOBAL)
_MAX_BYTES = 2**28


class ImagePlaces:
  """Positions of the images of a collection, by name.

  A name may be written as in the collection, without its extension, or without
  its folders and extension, where only one image fits.
  """

  def __init__(self, names: Sequence[str]):
    self._levels = []
    for shorten in (str, _without_extension, _base_name):
      places = {}
      for place, name in enumerate(names):
        key = shorten(name)
        places[key] = None if key in places else place  # None: ambiguous.
      self._levels.append((shorten, places))

  def __contains__(self, name: str) -> bool:
    return any(shorten(name) in places for shorten, places in self._levels)

  def find(self, name: str, where: str | os.PathLike) -> int:
    """Return the position of the one image that `name`, from `where`, fits."""
    for shorten, places in self._levels:
      place = places.get(shorten(name), -1)
      if place is None:
        raise errors.InputError(
          "a name of one image", f"'{name}' of two", where
        )
      if place >= 0:
        return place
    raise errors.InputError("an image of the collection", f"'{name}'", where)


@dataclasses.dataclass(frozen=True)
class GroundTruth:
  """Ground truth of Q queries on a collection.

  Ids of images, [n] int64 for each query, are positions in `index_names`.
  """

  dataset: str
  index_names: tuple[str, ...]
  query_names: tuple[str, ...]
  easy: tuple[np.ndarray, ...]  # All positives, if they are not graded.
  hard: tuple[np.ndarray, ...]
  junk: tuple[np.ndarray, ...]  # Count neither way.
  # Part of the query's photo, [4] float64 (x1, y1, x2, y2, pixels).
  boxes: tuple[np.ndarray | None, ...]
  graded: bool = True
  distractors: int = 0  # Images that the file does not list.
  lists_collection: bool = False  # As files of the Revisited data sets do.

  def protocols(self) -> dict[str, list[dict[str, np.ndarray]]]:
    """Return for each protocol Q dicts with "ok" and "junk", [n] int64."""
    labels = [
      {"easy": easy, "hard": hard, "junk": junk}
      for easy, hard, junk in zip(self.easy, self.hard, self.junk, strict=True)
    ]
    by_protocol = revisited.split_protocols(labels)
    if not self.graded:
      return {PLAIN_PROTOCOL: by_protocol[0]}
    return dict(zip(PROTOCOLS, by_protocol, strict=True))


def read(
  path: str | os.PathLike, index_names: Sequence[str] | None = None
) -> GroundTruth:
  """Read ground truth, published or a user's own.

  A query that is itself an image of the collection is junk for itself, unless
  it is labelled (in files that label images by name).

  Args:
    path: `.mat`, `.pkl`, `.csv` or `.json` file.
    index_names: Collection that is searched, in the order of its ids. By
      default the images that the file names.
  """
  extension = os.path.splitext(path)[1].lower()
  if extension == ".csv":
    return _from_labels(_csv_labels(path), path, index_names)
  if extension == ".json":
    content = _read_json(path)
    if set(_LISTS) <= set(content):
      parsed = revisited.parse(content, 0, path)
      return _from_lists(parsed, path, index_names, content.get("dataset"))
    return _from_labels(_json_labels(content, path), path, index_names)
  if extension not in (".mat", ".pkl", ".pickle"):
    raise errors.InputError(
      "ground truth, .mat, .pkl, .json or .csv", f"'{extension}'", path
    )
  return _from_lists(revisited.read(path), path, index_names, None)


def first_duplicate(names: Iterable[str]) -> str | None:
  """Return the first name that occurs a second time, or None."""
  seen = set()
  for name in names:
    if name in seen:
      return name
    seen.add(name)
  return None


def _without_extension(name):
  stem, extension = os.path.splitext(name)
  return stem if extension.lower() in _EXTENSIONS else name


def _base_name(name):
  return _without_extension(os.path.basename(name))


def _dataset_name(path):
  """The data set's name in `gnd_roxford5k.mat` and the like."""
  stem = os.path.splitext(os.path.basename(path))[0]
  return stem.removeprefix("gnd_")


def _from_lists(parsed, path, index_names, dataset):
  """Ground truth of a file that lists its collection."""
  queries, listed, entries = parsed
  for kind, names in (("query", queries), ("image", listed)):
    twice = first_duplicate(names)
    if twice is not None:
      raise errors.InputError(f"each {kind} once", f"'{twice}' twice", path)
  ids, distractors = np.arange(len(listed)), 0
  if index_names is not None:
    ids = _place_listed(listed, queries, index_names, path)
    distractors = len(index_names) - len(listed)
  images = {label: [] for label in _GRADED}
  for query, entry in zip(queries, entries, strict=True):
    for label in _GRADED:
      own = np.asarray(entry.get(label, ())).astype(np.int64)
      images[label].append(ids[own])
    labelled = np.concatenate([images[label][-1] for label in _GRADED])
    if len(np.unique(labelled)) < len(labelled):
      raise errors.InputError(
        f"one label for each image of query '{query}'", "two", path
      )
  return GroundTruth(
    dataset if isinstance(dataset, str) else _dataset_name(path),
    tuple(listed if index_names is None else index_names),
    tuple(queries),
    boxes=tuple(entry.get("bbx") for entry in entries),
    distractors=distractors,
    lists_collection=True,
    **{label: tuple(arrays) for label, arrays in images.items()},
  )


def _place_listed(listed, queries, index_names, path):
  """Positions of the listed images in the collection, [N] int64."""
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


def _read_json(path):
  """Content of a JSON file: an object, with lists under the names of _LISTS."""

  def unique(pairs):
    content = dict(pairs)
    if len(content) < len(pairs):
      twice = first_duplicate(name for name, _ in pairs)
      raise errors.InputError("each name once", f"{twice} twice", path)
    return content

  text = files.read_bytes(path, _MAX_BYTES)
  try:
    content = json.loads(text.decode("utf-8-sig"), object_pairs_hook=unique)
  except errors.InputError:
    raise
  except (ValueError, RecursionError) as error:
    raise errors.InputError(
      "a JSON file", errors.one_line(error), path
    ) from None
  if not isinstance(content, dict):
    raise errors.InputError("a JSON object", type(content).__name__, path)
  if set(_LISTS) <= set(content) and not all(
    isinstance(content[name], list) for name in _LISTS
  ):
    raise errors.InputError(f"lists {', '.join(_LISTS)}", "others", path)
  return content


def _csv_labels(path):
  """Yield (query, image, label, box or None, where it stands)."""
  rows = files.read_csv(path, header=True, strict=True)
  header = [column.strip().lower() for column in next(rows)[1]]
  if header not in (_COLUMNS, _COLUMNS + _BOX_COLUMNS):
    raise errors.InputError(
      f"the header {','.join(_COLUMNS)}", f"'{','.join(header)[:80]}'", path
    )
  for line, row in rows:
    where = f"{path}, line {line}"
    if len(row) not in (len(_COLUMNS), len(header)):
      raise errors.InputError(",".join(header), f"{len(row)} columns", where)
    query, image, label, *box = (cell.strip() for cell in row)
    _check_label(label.lower(), where)
    if not query or not image:
      raise errors.InputError("a query and an image", "an empty name", where)
    yield query, image, label.lower(), box if any(box) else None, where


def _json_labels(content, path):
  """Yield as `_csv_labels`; what is None is not said by this row."""
  for query, labels in content.items():
    where = f"{path}, query '{query[:80]}'"
    if not isinstance(labels, dict):
      raise errors.InputError(
        "labels and their images", "something else", where
      )
    yield query, None, None, labels.get("bbx"), where
    for label in labels.keys() - {"bbx"}:
      _check_label(label, where)
      if not isinstance(labels[label], list) or not all(
        isinstance(image, str) and image for image in labels[label]
      ):
        raise errors.InputError(f"names in '{label}'", "something else", where)
      for image in [None, *labels[label]]:
        yield query, image, label, None, where


def _check_label(label, where):
  if label not in _LABELS:
    raise errors.InputError(
      f"a label of {', '.join(_LABELS)}", f"'{label[:80]}'", where
    )


def _parse_box(values, where):
  try:
    x1, y1, x2, y2 = map(float, values)
  except (TypeError, ValueError):
    x1 = y1 = x2 = y2 = math.nan
  if not (0 <= x1 < x2 < math.inf and 0 <= y1 < y2 < math.inf):
    raise errors.InputError(
      "a box x1, y1, x2, y2 in pixels", f"{values!r:.80}", where
    )
  return x1, y1, x2, y2


def _collect_labels(rows, path):
  """(image, label, where) by query, boxes by query, and whether it grades."""
  queries, labels, boxes = {}, {}, {}
  for query, image, label, box, where in rows:
    labelled = queries.setdefault(query, [])
    if label is not None:
      labels.setdefault(query, set()).add(label)
    if image is not None:
      labelled.append((image, label, where))
    if box is not None:
      box = _parse_box(box, where)
      if boxes.setdefault(query, box) != box:
        raise errors.InputError(f"one box for {query}", "two", where)
  if not queries:
    raise errors.InputError("labelled images", "none", path)
  graded = not any("positive" in own for own in labels.values())
  for query, own in labels.items():
    if not graded and {"easy", "hard"} & own:
      raise errors.InputError(
        "'easy' and 'hard', or 'positive'", f"both, for '{query}'", path
      )
  return queries, boxes, graded


def _from_labels(rows, path, index_names):
  """Ground truth of a file that labels images by name."""
  queries, boxes, graded = _collect_labels(rows, path)
  if index_names is None:
    index_names = dict.fromkeys(
      image for labelled in queries.values() for image, _, _ in labelled
    )
  index_names = tuple(index_names)
  places = ImagePlaces(index_names)
  images = {label: [] for label in _GRADED}
  for query, labelled in queries.items():
    label_of = _place_labels(query, labelled, places)
    for label in _GRADED:
      own = [place for place in label_of if label_of[place] == label]
      images[label].append(np.array(own, np.int64))
  return GroundTruth(
    _dataset_name(path),
    index_names,
    tuple(queries),
    boxes=tuple(
      np.array(boxes[query]) if query in boxes else None for query in queries
    ),
    graded=graded,
    **{label: tuple(arrays) for label, arrays in images.items()},
  )


def _place_labels(query, labelled, places):
  label_of = {}
  for image, label, where in labelled:
    place = places.find(image, where)
    if place in label_of:
      raise errors.InputError(
        f"one label for '{image}' and '{query}'", "two", where
      )
    label_of[place] = "easy" if label == "positive" else label
  if query in places:
    label_of.setdefault(places.find(query, query), "junk")
  return label_of


@dataclasses.dataclass(frozen=True)
class DatasetImages:
  """Images of a data set whose features are extracted."""

  paths: list[str]
  names: list[str]  # In the data set, without extension; outputs have them too.
  crops: list[jobs.Crop | None]  # Part of a query's photo; None: all of it.


def read_dataset_images(
  dataset_file_path: str | os.PathLike,
  image_set: str,
  images_dir: str | os.PathLike,
  scale_limits: bool,
) -> DatasetImages:
  """Read the images of one set of Revisited Oxford or Paris.

  Args:
    dataset_file_path: Ground truth, `.mat` or `.pkl`.
    image_set: QUERY or INDEX.
    images_dir: Folder of `<name>.jpg`, which need not exist.
    scale_limits: See `jobs.Crop`.
  """
  if not os.path.isdir(images_dir):
    raise FileNotFoundError(f"{images_dir}: expected a folder, found none")
  queries, index, entries = revisited.read(dataset_file_path)
  names = list(map(str, queries if image_set == QUERY else index))
  if not names:
    raise errors.InputError(
      f"{image_set} images in the data set", "none", dataset_file_path
    )
  crops = [None] * len(names)
  if image_set == QUERY:
    boxes = [entry.get("bbx") for entry in entries]
    crops = [
      None if box is None else jobs.Crop(tuple(box), scale_limits)
      for box in boxes
    ]
  paths = [os.path.join(images_dir, f"{name}.jpg") for name in names]
  return DatasetImages(paths, names, crops)


def missing_images(
  dataset_file_path: str | os.PathLike, images_dir: str | os.PathLike
) -> tuple[int, list[str]]:
  """Return the number of images that ground truth names, and missing paths."""
  paths = set()
  for image_set in (QUERY, INDEX):
    paths.update(
      read_dataset_images(dataset_file_path, image_set, images_dir, True).paths
    )
  return len(paths), sorted(p for p in paths if not os.path.isfile(p))
