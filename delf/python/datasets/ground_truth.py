"""Which images of a collection are right for each query."""

import dataclasses
import os

import numpy as np

from delf.python import errors
from delf.python.datasets import image_places, own_ground_truth
from delf.python.datasets.revisited_op import dataset, ground_truth_files

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
    parsed = dataset.ParseEasyMediumHardGroundTruth(labels)
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
    return _own(own_ground_truth.read_csv(path), path, index_names)
  if extension == ".json":
    found = own_ground_truth.read_json(path)
    if isinstance(found, list):
      return _own(found, path, index_names)
    parsed = ground_truth_files.parse(found, 0, path)
    name = found.get("dataset")
    return _listed(parsed, path, index_names, name)
  if extension not in (".mat", ".pkl", ".pickle"):
    raise errors.InputError(
      "ground truth, .mat, .pkl, .json or .csv", f"'{extension}'", path
    )
  return _listed(dataset.ReadDatasetFile(path), path, index_names, None)


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
    for label in ground_truth_files.LABELS
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
  places = image_places.ImagePlaces(index_names)
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
  places = image_places.ImagePlaces(index_names)
  graded = not any("positive" in query.images for query in queries)
  images = {label: [] for label in own_ground_truth.GRADED}
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
    for label in own_ground_truth.GRADED
  }


def _whole(ids):
  return np.asarray(ids).astype(np.int64)


def _name(path):
  """Returns the data set's name in `gnd_roxford5k.mat` and the like."""
  stem = os.path.splitext(os.path.basename(path))[0]
  return stem.removeprefix("gnd_")


def _require_unique(names, what, path):
  twice = image_places.first_twice(names)
  if twice is not None:
    raise errors.InputError(f"each {what} once", f"'{twice}' twice", path)


def _require_once(ids, query, path):
  ids = np.concatenate(ids)
  if len(np.unique(ids)) < len(ids):
    raise errors.InputError(
      f"one label for each image of query '{query}'", "two", path
    )
