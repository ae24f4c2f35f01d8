"""Ground truth: the index images that are correct results of each query.

The files of Revisited Oxford and Paris (`.mat`, `.pkl`; the same lists as
`.json`) list all index images. Users label images by name, in CSV or JSON;
docs/GROUND_TRUTH.md describes the formats.
"""

import dataclasses
import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from delf.base import errors, files
from delf.extraction import engine
from delf.formats import untrusted

PROTOCOLS = ("easy", "medium", "hard")
# The only protocol of ground truth without grades.
PLAIN_PROTOCOL = "all"
QUERY, INDEX = "query", "index"

_GRADED = ("easy", "hard", "junk")
_LABELS = ("positive", *_GRADED)
_LISTS = ("imlist", "qimlist", "gnd")
_COLUMNS = ["query", "image", "label"]
_BOX_COLUMNS = ["x1", "y1", "x2", "y2"]
_EXTENSIONS = (*files.IMAGES, files.DELF, files.DELG_LOCAL, files.DELG_GLOBAL)
_MAX_BYTES = 2**28

# Names of queries, names of index images, and labels and box of each query.
Lists = tuple[list[str], list[str], list[dict[str, np.ndarray]]]


class ImagePlaces:
  """Positions of the images of an index, by name.

  Names may lack their extension, and folders, if only one image fits.
  """

  def __init__(self, names: Sequence[str]):
    self._levels = []
    for shorten in (str, _without_extension, _base_name):
      places: dict[str, int | None] = {}
      for place, name in enumerate(names):
        key = shorten(name)
        places[key] = None if key in places else place  # None: ambiguous.
      self._levels.append((shorten, places))

  def __contains__(self, name: str) -> bool:
    return any(shorten(name) in places for shorten, places in self._levels)

  def find(self, name: str, where: str | os.PathLike) -> int:
    """Return the position of an image; `where` is the source in errors."""
    for shorten, places in self._levels:
      place = places.get(shorten(name), -1)
      if place is None:
        raise errors.InputError(f"'{name}' fits two images", path=where)
      if place >= 0:
        return place
    raise errors.InputError(f"no image is named '{name}'", path=where)


@dataclasses.dataclass(frozen=True)
class GroundTruth:
  """Ground truth of Q queries.

  Ids of images, [n] int64 per query, are positions in `index_names`.
  """

  dataset: str
  index_names: tuple[str, ...]
  query_names: tuple[str, ...]
  easy: tuple[np.ndarray, ...]  # All positives, if not graded.
  hard: tuple[np.ndarray, ...]
  junk: tuple[np.ndarray, ...]  # Ignored.
  # Part of the query photo, [4] float64 (x1, y1, x2, y2, pixels).
  boxes: tuple[np.ndarray | None, ...]
  graded: bool = True
  distractors: int = 0  # Index images that the file does not list.
  lists_collection: bool = False  # As in files of the Revisited data sets.

  def protocols(self) -> dict[str, list[dict[str, np.ndarray]]]:
    """Return for each protocol Q dicts with "ok" and "junk", [n] int64."""
    images = zip(self.easy, self.hard, self.junk, strict=True)
    labels = [dict(zip(_GRADED, each, strict=True)) for each in images]
    by_protocol = split_protocols(labels)
    if not self.graded:
      return {PLAIN_PROTOCOL: by_protocol[0]}
    return dict(zip(PROTOCOLS, by_protocol, strict=True))


def read(
  path: str | os.PathLike, index_names: Sequence[str] | None = None
) -> GroundTruth:
  """Read ground truth of a published data set, or a user's own.

  If a file labels images by name, a query that is also an index image is junk
  for itself unless labelled. By default the index has the images of the file.
  """
  extension = os.path.splitext(path)[1].lower()
  if extension in (".mat", ".pkl", ".pickle"):
    return _from_lists(read_revisited(path), path, index_names, None)
  if extension == ".csv":
    return _from_labels(_csv_labels(path), path, index_names)
  if extension != ".json":
    text = f"ground truth is .mat, .pkl, .json or .csv, not '{extension}'"
    raise errors.InputError(text, path=path)
  content = _read_json(path)
  if not set(_LISTS) <= set(content):
    return _from_labels(_json_labels(content, path), path, index_names)
  parsed = _parse_lists(content, 0, path)
  return _from_lists(parsed, path, index_names, content.get("dataset"))


def first_duplicate(names: Iterable[str]) -> str | None:
  """Return the first name that repeats an earlier one, or None."""
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
  return pathlib.Path(path).stem.removeprefix("gnd_")  # Of gnd_roxford5k.mat.


def _from_lists(parsed, path, index_names, dataset):
  """Return the ground truth of a file that lists all index images."""
  queries, listed, entries = parsed
  for kind, names in (("query", queries), ("image", listed)):
    if (twice := first_duplicate(names)) is not None:
      raise errors.InputError(f"the {kind} '{twice}' occurs twice", path=path)
  ids, distractors = np.arange(len(listed)), 0
  if index_names is not None:
    ids = _place_listed(listed, queries, index_names, path)
    distractors = len(index_names) - len(listed)
  labels = []
  for query, entry in zip(queries, entries, strict=True):
    own = [ids[np.asarray(entry.get(n, ())).astype(int)] for n in _GRADED]
    labelled = np.concatenate(own)
    if len(np.unique(labelled)) < len(labelled):
      text = f"an image has more than one label for query '{query}'"
      raise errors.InputError(text, path=path)
    labels.append(own)
  easy, hard, junk = (tuple(own[i] for own in labels) for i in range(3))
  return GroundTruth(
    dataset if isinstance(dataset, str) else _dataset_name(path),
    tuple(listed if index_names is None else index_names),
    tuple(queries),
    easy,
    hard,
    junk,
    tuple(entry.get("bbx") for entry in entries),
    distractors=distractors,
    lists_collection=True,
  )


def _place_listed(listed, queries, index_names, path):
  """Return the positions of the listed images in the index, [N] int64."""
  places = ImagePlaces(index_names)
  missing = [name for name in listed if name not in places]
  if missing:
    some = f"{len(missing)} of its {len(listed)} images, such as '{missing[0]}'"
    raise errors.InputError(f"the index is without {some}", path=path)
  known = set(listed)
  among = [name for name in queries if name in places and name not in known]
  if among:
    raise errors.InputError(
      f"the index has {len(among)} of the query images, such as '{among[0]}':"
      " older Oxford5k and Paris6k have query images, the Revisited sets not",
      path=path,
    )
  return np.array([places.find(name, path) for name in listed], np.int64)


def _read_json(path):
  """Return the object in a JSON file, whose names must be unique."""

  def unique(pairs):
    content = dict(pairs)
    if len(content) < len(pairs):
      twice = first_duplicate(name for name, _ in pairs)
      raise errors.InputError(f"the name {twice} occurs twice", path=path)
    return content

  data = files.read_bytes(path, _MAX_BYTES)
  try:
    content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique)
  except errors.InputError:
    raise
  except (ValueError, RecursionError) as error:
    text = f"not a JSON file: {errors.one_line(error)}"
    raise errors.InputError(text, path=path) from None
  if not isinstance(content, dict):
    text = f"a {type(content).__name__}, not a JSON object"
    raise errors.InputError(text, path=path)
  return content


def _csv_labels(path):
  """Yield (query, image, label, box or None, file and line)."""
  rows = files.read_csv(path, header=True, strict=True)
  header = [column.strip().lower() for column in next(rows)[1]]
  if header not in (_COLUMNS, _COLUMNS + _BOX_COLUMNS):
    text = f"the header is '{','.join(header)[:80]}', not {','.join(_COLUMNS)}"
    raise errors.InputError(text, path=path)
  for line, row in rows:
    where = f"{path}, line {line}"
    if len(row) not in (len(_COLUMNS), len(header)):
      text = f"{len(row)} columns do not fit {','.join(header)}"
      raise errors.InputError(text, path=where)
    query, image, label, *box = (cell.strip() for cell in row)
    _check_label(label.lower(), where)
    if not query or not image:
      raise errors.InputError("a query or image has an empty name", path=where)
    yield query, image, label.lower(), box if any(box) else None, where


def _json_labels(content, path):
  """Yield as `_csv_labels`, with None for values that a row does not have."""
  for query, labels in content.items():
    where = f"{path}, query '{query[:80]}'"
    if not isinstance(labels, dict):
      raise errors.InputError("not an object of labels", path=where)
    yield query, None, None, labels.get("bbx"), where
    for label in labels.keys() - {"bbx"}:
      _check_label(label, where)
      if not isinstance(labels[label], list) or not all(
        isinstance(image, str) and image for image in labels[label]
      ):
        raise errors.InputError(f"'{label}' is not a list of names", path=where)
      for image in [None, *labels[label]]:
        yield query, image, label, None, where


def _check_label(label, where):
  if label not in _LABELS:
    text = f"unknown label '{label[:80]}': use {', '.join(_LABELS)}"
    raise errors.InputError(text, path=where)


def _parse_box(values, where):
  try:
    x1, y1, x2, y2 = map(float, values)
  except (TypeError, ValueError):
    x1 = y1 = x2 = y2 = math.nan
  if not (0 <= x1 < x2 < math.inf and 0 <= y1 < y2 < math.inf):
    text = f"{values!r:.80} is not a box x1, y1, x2, y2 in pixels"
    raise errors.InputError(text, path=where)
  return x1, y1, x2, y2


def _collect_labels(rows, path):
  """Return (image, label, where) by query, boxes by query, and `graded`."""
  queries: dict[str, list] = {}
  labels: dict[str, set[str]] = {}
  boxes: dict[str, tuple[float, ...]] = {}
  for query, image, label, box, where in rows:
    labelled = queries.setdefault(query, [])
    if label is not None:
      labels.setdefault(query, set()).add(label)
    if image is not None:
      labelled.append((image, label, where))
    if box is not None:
      box = _parse_box(box, where)
      if boxes.setdefault(query, box) != box:
        raise errors.InputError(f"{query} has two boxes", path=where)
  if not queries:
    raise errors.InputError("the file has no labelled images", path=path)
  graded = not any("positive" in own for own in labels.values())
  for query, own in labels.items():
    if not graded and {"easy", "hard"} & own:
      text = f"'{query}' is graded 'easy' or 'hard' in a file with 'positive'"
      raise errors.InputError(f"{text}: use one or the other", path=path)
  return queries, boxes, graded


def _from_labels(rows, path, index_names):
  """Return the ground truth of a file that labels images by name."""
  queries, boxes, graded = _collect_labels(rows, path)
  if index_names is None:
    rows = itertools.chain(*queries.values())
    index_names = dict.fromkeys(image for image, _, _ in rows)
  index_names = tuple(index_names)
  places = ImagePlaces(index_names)
  labels = [_place_labels(q, own, places) for q, own in queries.items()]
  easy, hard, junk = (
    tuple(
      np.array([place for place in own if own[place] == label], np.int64)
      for own in labels
    )
    for label in _GRADED
  )
  return GroundTruth(
    _dataset_name(path),
    index_names,
    tuple(queries),
    easy,
    hard,
    junk,
    tuple(np.array(boxes[q]) if q in boxes else None for q in queries),
    graded=graded,
  )


def _place_labels(query, labelled, places):
  label_of = {}
  for image, label, where in labelled:
    place = places.find(image, where)
    if place in label_of:
      text = f"'{image}' has more than one label for '{query}'"
      raise errors.InputError(text, path=where)
    label_of[place] = "easy" if label == "positive" else label
  if query in places:
    label_of.setdefault(places.find(query, query), "junk")
  return label_of


def read_revisited(dataset_file_path: str | os.PathLike) -> Lists:
  """Read the ground truth of Revisited Oxford or Paris.

  A `.pkl` file is read without running code; all others are read as Matlab
  files. Names have no extension. The dicts have "easy", "hard" and "junk" as
  far as the file does ([n] ids from 0; float64 from usual `.mat` files, int64
  from `.pkl` files) and "bbx" ([4] float64, x1, y1, x2, y2 in pixels).
  """
  path = dataset_file_path
  if os.fspath(path).lower().endswith((".pkl", ".pickle")):
    return _parse_lists(untrusted.read_plain_pickle(path), 0, path)
  return _parse_lists(untrusted.read_mat(path, _LISTS), 1, path)


def _parse_lists(content, first_id, path):
  """Check the lists of a file whose image ids start at `first_id`."""
  _check_lists(content, path)
  queries, index = list(content["qimlist"]), list(content["imlist"])
  for name in [*queries, *index]:
    if not isinstance(name, str):
      text = f"the names of images include a {type(name).__name__}"
      raise errors.InputError(text, path=path)
  entries = list(content["gnd"])
  if len(queries) != len(entries):
    text = f"ground truth of {len(entries)} queries, but {len(queries)} names"
    raise errors.InputError(text, path=path)
  entries = [
    _parse_entry(entry, first_id, len(index), f"query {i} ('{name}')", path)
    for i, (name, entry) in enumerate(zip(queries, entries, strict=True), 1)
  ]
  return queries, index, entries


def read_pickle(path: str | os.PathLike) -> dict:
  """Read a pickle with the three lists, whose items are not checked."""
  content = untrusted.read_plain_pickle(path)
  _check_lists(content, path)
  return content


def _check_lists(content, path):
  lists = content if isinstance(content, dict) else {}
  for name in _LISTS:
    if not isinstance(lists.get(name), (list, tuple)):
      text = f"no list '{name}': ground truth has the lists {', '.join(_LISTS)}"
      raise errors.InputError(text, path=path)


def split_protocols(
  ground_truth: Sequence[dict],
) -> tuple[list[dict], list[dict], list[dict]]:
  """Split ground truth into the protocols (easy, medium, hard).

  Positives are the easy images, the easy and the hard ones, or the hard ones;
  images left over count as junk, after the others. Missing labels in the dicts
  of `read_revisited` are empty. A protocol has dicts with "ok" and "junk", [n].
  """
  protocols: tuple[list[dict], list[dict], list[dict]] = [], [], []
  for i, entry in enumerate(ground_truth):
    if not {"easy", "hard"} & set(entry):
      labels = ", ".join(entry) or "no labels"
      raise errors.InputError(f"query {i + 1} has {labels}, not easy and hard")
    easy, hard, junk = (_id_array(entry.get(label, ())) for label in _GRADED)
    positives = [easy], [easy, hard], [hard]
    others = [junk, hard], [junk], [junk, easy]
    for protocol, *both in zip(protocols, positives, others, strict=True):
      images = map(np.concatenate, both)
      protocol.append(dict(zip(("ok", "junk"), images, strict=True)))
  return protocols


def _parse_entry(entry, first_id, size, query, path):
  """Return labels and box of a query, with ids in [0, size)."""
  if not isinstance(entry, dict):
    raise errors.InputError(f"the labels of {query} are not a dict", path=path)
  if "ok" in entry and "easy" not in entry:
    raise errors.InputError(
      "'ok' is a label of the older Oxford5k and Paris6k: use ground truth of a"
      " Revisited data set, with 'easy' and 'hard'",
      path=path,
    )
  try:
    parsed = {key: _id_array(entry[key]) for key in _GRADED if key in entry}
    box = np.array(_flat(entry.get("bbx", np.zeros(4))), np.float64)
  except (TypeError, ValueError, OverflowError):
    text = f"the labels of {query} are not ids of images and a box"
    raise errors.InputError(text, path=path) from None
  for label, ids in parsed.items():
    wrong = ~((ids >= first_id) & (ids < first_id + size) & (ids % 1 == 0))
    if wrong.any():
      image = f"{ids[wrong][0] - float(first_id):g} (from 0)"
      text = f"'{label}' of {query} has id {image}, of {size} index images"
      raise errors.InputError(text, path=path)
    parsed[label] = ids - ids.dtype.type(first_id)
  if box.shape != (4,) or not np.isfinite(box).all():
    raise errors.InputError(f"'bbx' of {query} must be four numbers", path=path)
  if "bbx" in entry:
    parsed["bbx"] = box
  return parsed


def _id_array(values):
  """Return ids as an array, [n], of their own type; int64 if empty."""
  array = np.asarray(_flat(values)).reshape(-1)
  if not array.size and not isinstance(values, np.ndarray):
    return array.astype(np.int64)
  if array.dtype.kind not in "iuf":
    raise TypeError(array.dtype)
  return array


def _flat(values):
  """Refuse nested lists: pickles can nest one list so that it grows huge."""
  if isinstance(values, (list, tuple)) and any(
    isinstance(value, (list, tuple, dict)) for value in values
  ):
    raise TypeError("a list in a list")
  return values


@dataclasses.dataclass(frozen=True)
class DatasetImages:
  """Images of a data set for extraction."""

  paths: list[str]
  names: list[str]  # In the data set, without extension; used for outputs.
  crops: list[engine.Crop | None]  # Part of the photo; None: the whole.


def read_dataset_images(
  dataset_file_path: str | os.PathLike,
  image_set: str,
  images_dir: str | os.PathLike,
  scale_limits: bool,
) -> DatasetImages:
  """Read the images of one set, QUERY or INDEX, of Revisited Oxford or Paris.

  Files, `<name>.jpg`, may be missing. For `scale_limits` see `engine.Crop`.
  """
  if not os.path.isdir(images_dir):
    raise FileNotFoundError(f"{images_dir}: no such folder")
  queries, index, entries = read_revisited(dataset_file_path)
  names = queries if image_set == QUERY else index
  if not names:
    raise errors.InputError(f"no {image_set} images", path=dataset_file_path)
  boxes = [entry.get("bbx") for entry in entries]
  crops = [
    None if box is None else engine.Crop(tuple(box), scale_limits)
    for box in (boxes if image_set == QUERY else [None] * len(names))
  ]
  paths = [os.path.join(images_dir, f"{name}.jpg") for name in names]
  return DatasetImages(paths, names, crops)


def missing_images(
  dataset_file_path: str | os.PathLike, images_dir: str | os.PathLike
) -> tuple[int, list[str]]:
  """Return the number of images that ground truth lists, and missing paths."""
  paths: set[str] = set()
  for kind in (QUERY, INDEX):
    images = read_dataset_images(dataset_file_path, kind, images_dir, True)
    paths.update(images.paths)
  return len(paths), sorted(p for p in paths if not os.path.isfile(p))
