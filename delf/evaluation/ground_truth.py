"""Ground truth: which images of a collection are right for each query.

Revisited Oxford and Paris publish files (`.mat`, `.pkl`; the same lists as
`.json`) that list their collection. Users label images by name, in CSV or JSON;
docs/GROUND_TRUTH.md describes these forms.
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

# Names of queries and of index images, and labels and box of each query.
Lists = tuple[list[str], list[str], list[dict[str, np.ndarray]]]


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
    by_protocol = split_protocols(labels)
    if not self.graded:
      return {PLAIN_PROTOCOL: by_protocol[0]}
    return dict(zip(PROTOCOLS, by_protocol, strict=True))


def read(
  path: str | os.PathLike, index_names: Sequence[str] | None = None
) -> GroundTruth:
  """Read ground truth, published or a user's own.

  A query that is itself an image of the collection is junk for itself, unless
  it is labelled (in files that label images by name). `index_names` are the
  collection that is searched, by default the images that the file names.
  """
  extension = os.path.splitext(path)[1].lower()
  if extension == ".csv":
    return _from_labels(_csv_labels(path), path, index_names)
  if extension == ".json":
    content = _read_json(path)
    if set(_LISTS) <= set(content):
      parsed = _parse_lists(content, 0, path)
      return _from_lists(parsed, path, index_names, content.get("dataset"))
    return _from_labels(_json_labels(content, path), path, index_names)
  if extension not in (".mat", ".pkl", ".pickle"):
    raise errors.InputError(
      "ground truth, .mat, .pkl, .json or .csv", f"'{extension}'", path
    )
  return _from_lists(read_revisited(path), path, index_names, None)


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
  return pathlib.Path(path).stem.removeprefix("gnd_")


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
    expected = f"a collection with its {len(listed)} images"
    received = f"one without {len(missing)} of them, such as '{missing[0]}'"
    raise errors.InputError(expected, received, path)
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
  """Content of a JSON file: an object of unique names."""

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
      expected = "labels and their images"
      raise errors.InputError(expected, "something else", where)
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
    rows = itertools.chain(*queries.values())
    index_names = dict.fromkeys(image for image, _, _ in rows)
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
    boxes=tuple(np.array(boxes[q]) if q in boxes else None for q in queries),
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


def read_revisited(dataset_file_path: str | os.PathLike) -> Lists:
  """Read the ground truth of Revisited Oxford or Paris.

  A `.pkl` file is read without running what it may hold; any other name is a
  Matlab file's. Names have no extension. The dicts have those of "easy", "hard"
  and "junk" that the file has ([n], ids from 0; float64 in the usual `.mat`
  file, int64 in a `.pkl` file) and "bbx" ([4] float64, x1, y1, x2, y2 in
  pixels).
  """
  path = dataset_file_path
  if os.fspath(path).lower().endswith((".pkl", ".pickle")):
    return _parse_lists(untrusted.read_plain_pickle(path), 0, path)
  return _parse_lists(untrusted.read_mat(path, _LISTS), 1, path)


def _parse_lists(content, first_id, path):
  """Check the lists of a file, whose ids of images begin with `first_id`."""
  _check_lists(content, path)
  queries, index = list(content["qimlist"]), list(content["imlist"])
  for name in [*queries, *index]:
    if not isinstance(name, str):
      raise errors.InputError(
        "names of images", f"a {type(name).__name__}", path
      )
  entries = list(content["gnd"])
  if len(queries) != len(entries):
    raise errors.InputError(
      f"ground truth of {len(queries)} queries", f"{len(entries)}", path
    )
  entries = [
    _parse_entry(entry, first_id, len(index), f"query {i} ('{name}')", path)
    for i, (name, entry) in enumerate(zip(queries, entries, strict=True), 1)
  ]
  return queries, index, entries


def read_pickle(path: str | os.PathLike) -> dict:
  """Read a pickle with the three lists; what they hold is not checked."""
  content = untrusted.read_plain_pickle(path)
  _check_lists(content, path)
  return content


def _check_lists(content, path):
  held = content if isinstance(content, dict) else {}
  for name in _LISTS:
    if not isinstance(held.get(name), (list, tuple)):
      raise errors.InputError(
        f"the lists {', '.join(_LISTS)}", f"no list '{name}'", path
      )


def split_protocols(ground_truth: Sequence[dict]) -> tuple[list[dict], ...]:
  """Split ground truth into the protocols easy, medium and hard.

  Easy looks for the easy images and leaves the hard ones out, medium looks for
  both, hard for the hard ones only.

  Of the dicts that `read_revisited` returns a missing label counts as empty.
  Returns (easy, medium, hard): lists of dicts with "ok" and "junk", [n] ids in
  the order easy or junk first, then what is added.
  """
  protocols = [], [], []
  for i, entry in enumerate(ground_truth):
    if not {"easy", "hard"} & set(entry):
      raise errors.InputError(
        f"'easy' and 'hard' of query {i + 1}", ", ".join(entry) or "nothing"
      )
    easy, hard, junk = (_id_array(entry.get(label, ())) for label in _GRADED)
    for protocol, positives, left_out in zip(
      protocols,
      ([easy], [easy, hard], [hard]),
      ([junk, hard], [junk], [junk, easy]),
      strict=True,
    ):
      protocol.append(
        {"ok": np.concatenate(positives), "junk": np.concatenate(left_out)}
      )
  return protocols


def _parse_entry(entry, first_id, size, query, path):
  """Labels and box of a query, with ids from 0 that are below `size`."""
  if not isinstance(entry, dict):
    raise errors.InputError(f"labels of {query}", "something else", path)
  if "ok" in entry and "easy" not in entry:
    expected = "ground truth of a Revisited data set, with 'easy' and 'hard'"
    received = "'ok', as the older Oxford5k and Paris6k have"
    raise errors.InputError(expected, received, path)
  try:
    parsed = {key: _id_array(entry[key]) for key in _GRADED if key in entry}
    box = np.array(_flat(entry.get("bbx", np.zeros(4))), np.float64)
  except (TypeError, ValueError, OverflowError):
    raise errors.InputError(
      f"ids of images and a box for {query}", "something else", path
    ) from None
  for label, ids in parsed.items():
    wrong = ~((ids >= first_id) & (ids < first_id + size) & (ids % 1 == 0))
    if wrong.any():
      expected = f"ids of the {size} index images in '{label}' of {query}"
      received = f"{ids[wrong][0] - float(first_id):g} (from 0)"
      raise errors.InputError(expected, received, path)
    parsed[label] = ids - ids.dtype.type(first_id)
  if box.shape != (4,) or not np.isfinite(box).all():
    raise errors.InputError(f"four numbers in 'bbx' of {query}", "other", path)
  if "bbx" in entry:
    parsed["bbx"] = box
  return parsed


def _id_array(values):
  """Ids as an array [n] of the type that they have, int64 if there are none."""
  array = np.asarray(_flat(values)).reshape(-1)
  if not array.size and not isinstance(values, np.ndarray):
    return array.astype(np.int64)
  if array.dtype.kind not in "iuf":
    raise TypeError(array.dtype)
  return array


def _flat(values):
  """Values; nested lists are refused, since they hide their size.

  A pickle can hold one list many times inside another, and so forth.
  """
  if isinstance(values, (list, tuple)):
    for value in values:
      if isinstance(value, (list, tuple, dict)):
        raise TypeError("a list in a list")
  return values


@dataclasses.dataclass(frozen=True)
class DatasetImages:
  """Images of a data set whose features are extracted."""

  paths: list[str]
  names: list[str]  # In the data set, without extension; outputs have them too.
  crops: list[engine.Crop | None]  # Part of a query's photo; None: all of it.


def read_dataset_images(
  dataset_file_path: str | os.PathLike,
  image_set: str,
  images_dir: str | os.PathLike,
  scale_limits: bool,
) -> DatasetImages:
  """Read the images of one set, QUERY or INDEX, of Revisited Oxford or Paris.

  Their files, `<name>.jpg`, need not exist; `scale_limits` is of `engine.Crop`.
  """
  if not os.path.isdir(images_dir):
    raise FileNotFoundError(f"{images_dir}: expected a folder, found none")
  queries, index, entries = read_revisited(dataset_file_path)
  names = queries if image_set == QUERY else index
  if not names:
    raise errors.InputError(
      f"{image_set} images in the data set", "none", dataset_file_path
    )
  crops = [None] * len(names)
  if image_set == QUERY:
    crops = [
      engine.Crop(tuple(entry["bbx"]), scale_limits) if "bbx" in entry else None
      for entry in entries
    ]
  paths = [os.path.join(images_dir, f"{name}.jpg") for name in names]
  return DatasetImages(paths, names, crops)


def missing_images(
  dataset_file_path: str | os.PathLike, images_dir: str | os.PathLike
) -> tuple[int, list[str]]:
  """Return the number of images that ground truth names, and missing paths."""
  paths = set()
  for kind in (QUERY, INDEX):
    images = read_dataset_images(dataset_file_path, kind, images_dir, True)
    paths.update(images.paths)
  return len(paths), sorted(p for p in paths if not os.path.isfile(p))
