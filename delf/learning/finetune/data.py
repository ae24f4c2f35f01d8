"""From photos to what is trained on and what is measured with."""

import concurrent.futures
import dataclasses
import functools
import os

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from delf.base import errors, files, progress
from delf.extraction import jobs
from delf.learning.finetune import records
from delf.learning.finetune import records as train_options

# Photos whose neighbours are looked at, neighbours of each, and pairs that are
# compared point by point: at some 50 ms a pair, a minute or two.
_MOST_PHOTOS = 5000
_NEIGHBOURS = 4
_MOST_PAIRS = 1500


def candidates(descriptors, labels=None, seed=0):
  """Chooses pairs of photos that may show one place.

  Args:
    descriptors: [N, D] float, global descriptors of unit length.
    labels: [N] int, the class of each photo, or None. Pairs are of one class.
    seed: int, decides which are in where there are many.

  Returns:
    [P, 2] int64, the first less than the second, sorted.
  """
  generator = np.random.default_rng(seed)
  number = len(descriptors)
  asked = generator.permutation(number)[:_MOST_PHOTOS]
  found = set()
  for i in asked:
    scores = descriptors @ descriptors[i]
    scores[i] = -np.inf
    if labels is not None:
      scores[labels != labels[i]] = -np.inf
    nearest = np.argsort(-scores, kind="stable")[:_NEIGHBOURS]
    found |= {(min(i, j), max(i, j)) for j in nearest if np.isfinite(scores[j])}
  pairs = np.array(sorted(found), np.int64).reshape(-1, 2)
  if len(pairs) > _MOST_PAIRS:
    some = generator.choice(len(pairs), _MOST_PAIRS, replace=False)
    pairs = pairs[np.sort(some)]
  return pairs


def verified(images, pairs):
  """Finds the points that correspond, where RootSIFT is sure.

  Args:
    images: list of [H, W, 3] uint8.
    pairs: [P, 2] int, places in `images`.

  Returns:
    list of real_pairs.Pair, at most P.
  """
  from delf.learning import view_pairs

  @functools.lru_cache(maxsize=256)  # 1 MB each.
  def features(i):
    keypoints, descriptors = view_pairs.root_sift(images[i])
    points = [keypoint.pt for keypoint in keypoints]
    return np.float32(points).reshape(-1, 2), descriptors

  def compare(pair):
    first, second = map(int, pair)
    points = view_pairs.matches(features(first), features(second))
    return view_pairs.Pair(first, second, view_pairs.verified(points))

  with concurrent.futures.ThreadPoolExecutor() as pool:
    found = progress.track(
      pool.map(compare, pairs), "matching photos of one place", len(pairs)
    )
    return [pair for pair in found if len(pair.points)]


def pools_places(number, pairs):
  """Returns the number of each photo's place, [number] int.

  Photos that pairs join, directly or through others, are of one place.

  Args:
    number: Number of photos.
    pairs: list of real_pairs.Pair.
  """
  rows = [pair.first for pair in pairs]
  columns = [pair.second for pair in pairs]
  ones = np.ones(len(pairs), bool)
  graph = sparse.coo_array((ones, (rows, columns)), shape=(number, number))
  return csgraph.connected_components(graph, directed=False)[1]


# One in so many is kept; of a class, one in so many.
_ONE_IN = 10
_ONE_IN_OF_CLASS = 5

# More say little more, and each takes time to be measured.
_MOST = 200

# Photos that were taken one after the other often show the same, and are called
# one after the other, so that they are kept in so many runs of names.
_RUNS = 5


def held_out(names, labels=None):
  """Chooses the photos to measure with.

  Args:
    names: list of str.
    labels: list of str or None, the class of each photo; or None.

  Returns:
    [N] bool. Without classes a tenth, and at least two, in up to five runs of
    the sorted names. With classes a fifth of each class that has three photos
    or more, at least one, the last ones by name.
  """
  if labels is None:
    return _by_runs(names)
  kept = np.zeros(len(names), bool)
  for members in _members(names, labels):
    if len(members) > 2:
      kept[members[-max(1, len(members) // _ONE_IN_OF_CLASS) :]] = True
  return _at_most(kept)


def _by_runs(names):
  order = np.argsort(names, kind="stable")
  number = min(_MOST, max(2, len(names) // _ONE_IN))
  runs = min(_RUNS, number // 2)
  kept = np.zeros(len(names), bool)
  for part, length in zip(
    np.array_split(order, runs), _shares(number, runs), strict=True
  ):
    start = (len(part) - length) // 2
    kept[part[start : start + length]] = True
  return kept


def _shares(number, parts):
  """Returns how many of `number` go to each part."""
  return [number // parts + (i < number % parts) for i in range(parts)]


def _members(names, labels):
  """Yields the places of each class's photos, by name."""
  places = {}
  for i in np.argsort(names, kind="stable"):
    if labels[i] is not None:
      places.setdefault(labels[i], []).append(i)
  yield from places.values()


def _at_most(kept):
  """Returns `kept` with no more than the most that are measured with."""
  places = np.flatnonzero(kept)
  if len(places) > _MOST:
    chosen = places[np.linspace(0, len(places) - 1, _MOST).astype(int)]
    kept = np.zeros_like(kept)
    kept[chosen] = True
  return kept


# Pairs of views in a step, unless it is said.
_BATCH = 8

# Classes are places, photos of which are never told apart, where a batch can
# have others beside: with few classes what RootSIFT joins is a place.
_MANY_CLASSES = 4 * _BATCH

_PAIRS = ("pairs_training.npz", "pairs_held_out.npz")


@dataclasses.dataclass(frozen=True)
class Side:
  """Photos of one side: those that are trained on, or those that are not.

  Attributes:
    photos: list of photos.Photo.
    labels: [N] int, the class of each, -1 for none.
    pairs: list of real_pairs.Pair that index `photos`.
  """

  photos: list
  labels: np.ndarray
  pairs: list

  def batch(self, wanted=None):
    """Returns how many pairs of views a step has.

    A step shows each place once. Where few places have most of the photos, it
    is less than the number of places, or one would wait long for the others.

    Args:
      wanted: What the user asks for, or None for up to 8.
    """
    if wanted is not None:
      return wanted
    pools = [photo.pool for photo in self.photos]
    shares = np.unique(pools, return_counts=True)[1] / len(pools)
    least = min(2, len(shares))
    return int(np.clip(1 / np.sum(shares**2), least, _BATCH))


@dataclasses.dataclass(frozen=True)
class Collected:
  """What is trained on, and what is measured with.

  Attributes:
    training: Side.
    held_out: Side.
    classes: Names of the classes, () without.
    failures: tuple of engine.Failure.
  """

  training: Side
  held_out: Side
  classes: tuple
  failures: tuple


def collect(sources, folder, options, describe):
  """Decodes photos, chooses held-out ones, and finds pairs of one place.

  Args:
    sources: sources.Sources.
    folder: pathlib.Path of the unfinished run.
    options: TrainOptions.
    describe: Function from images to global descriptors [N, D] of unit length.

  Returns:
    Collected.

  Raises:
    InputError: If too few photos can be read.
  """
  store = records.gather(sources.paths, folder, options.size, options.rotate)
  good = [i for i, image in enumerate(store.images) if image is not None]
  _check(good, store)
  names = [sources.names[i] for i in good]
  images = [store.images[i] for i in good]
  classes, labels = _numbers(sources.labels, good)
  kept = held_out(
    names, None if sources.labels is None else [sources.labels[i] for i in good]
  )
  sides = []
  for path, chosen in zip(_PAIRS, (~kept, kept), strict=True):
    places_of = np.flatnonzero(chosen)
    sides.append(
      _side(
        [names[i] for i in places_of],
        [images[i] for i in places_of],
        labels[places_of] if classes else None,
        folder / path,
        options.seed,
        describe,
      )
    )
  return Collected(*sides, classes, store.failures)


def _check(good, store):
  if len(good) >= train_options.FEWEST_PHOTOS:
    return
  first = f"; first bad one: {store.failures[0]}" if store.failures else ""
  raise errors.InputError(
    f"at least {train_options.FEWEST_PHOTOS} photos that can be read",
    f"{len(good)}{first}",
  )


def _numbers(labels, good):
  """Returns names of classes, and the number of each photo's, -1 for none."""
  if labels is None:
    return (), np.full(len(good), -1)
  classes = sorted({labels[i] for i in good} - {None})
  numbers = {name: i for i, name in enumerate(classes)}
  return tuple(classes), np.array([numbers.get(labels[i], -1) for i in good])


def _side(names, images, labels, path, seed, describe):
  """Returns a Side; the pairs of one that was made before are read."""
  from delf.learning import synthetic_views, view_pairs

  def make(groups, pools):
    rows = zip(names, images, groups, pools, strict=True)
    return [
      synthetic_views.Photo(*row[:2], int(row[2]), int(row[3])) for row in rows
    ]

  # A photo in no class is in a group of its own.
  alone = np.arange(len(names)) + 1 + (0 if labels is None else labels.max())
  groups = alone if labels is None else np.where(labels < 0, alone, labels)
  found, pairs = make(groups, groups), None
  if path.exists():
    pairs = view_pairs.load(path, found)
  if pairs is None:
    asked = candidates(describe(images), labels, seed)
    pairs = verified(images, asked)
    view_pairs.save(path, pairs, found)
  pools = pools_places(len(names), pairs)
  if labels is not None:
    if len(np.unique(labels)) > _MANY_CLASSES:
      pools = groups
  else:
    labels = np.full(len(names), -1)
  return Side(make(groups, pools), labels, pairs)


# First value of a row that names columns.
_HEADS = ("photo", "image", "file", "filename", "path", "url", "name", "id")


@dataclasses.dataclass(frozen=True)
class Sources:
  """Photos to train on.

  Attributes:
    paths: list of str.
    names: list of str, one for each, without extension.
    labels: list of str or None: class of each, None of a photo that is in none;
      or None where there are no classes.
  """

  paths: list
  names: list
  labels: list | None

  def classes(self):
    """Returns dict by class of its number of photos; {} without classes."""
    counts = {}
    for label in self.labels or ():
      if label is not None:
        counts[label] = counts.get(label, 0) + 1
    return counts


def find(given, labels=records.AUTO):
  """Finds photos and their classes.

  Args:
    given: Folders, patterns, lists and photos.
    labels: As `TrainOptions.labels`.

  Returns:
    Sources; labels that tell no two photos of a class apart are an error.

  Raises:
    FileNotFoundError: If a source is not there.
    InputError: If there are too few photos, a class has none, it is not clear
      what is a class, or a CSV file is not right.
  """
  paths, names = jobs.find(given)
  if len(paths) < records.FEWEST_PHOTOS:
    raise errors.InputError(
      f"at least {records.FEWEST_PHOTOS} photos to train on",
      len(paths),
      os.fspath(given[0]),
    )
  if labels == records.AUTO:
    labels = _guess(given, names)
  if labels == records.NO_LABELS:
    return Sources(paths, names, None)
  if labels == records.FOLDERS:
    _refuse_empty_folders(given)
    found = [name.split("/")[0] if "/" in name else None for name in names]
  elif not os.path.exists(labels):
    raise FileNotFoundError(
      f"{labels}: expected labels that are folders, none, or a CSV file; found "
      "no such file"
    )
  else:
    found = _listed(labels, paths, names)
  sources = Sources(paths, names, found)
  _check_sources(sources, given)
  return sources


def refuse_inside(given, out):
  """Refuses a model among the photos, as its pictures would be some of them.

  Args:
    given: As for `find`.
    out: pathlib.Path of the model to be.

  Raises:
    InputError: If it would lie in one of the folders.
  """
  for source in filter(os.path.isdir, given):
    if out.resolve().is_relative_to(os.path.realpath(source)):
      raise errors.InputError(
        "a folder outside those of the photos", f"one inside {source}", out
      )


def _guess(given, names):
  """Returns "folders" or "none"."""
  if len(given) > 1 or not os.path.isdir(given[0]):
    return records.NO_LABELS
  inside = ["/" in name for name in names]
  if all(inside):
    return records.FOLDERS
  if any(inside):
    raise errors.InputError(
      "photos in a folder for each class, or none in folders (--labels says "
      "what they are)",
      f"some in folders ({names[inside.index(True)]}), some not "
      f"({names[inside.index(False)]})",
      os.fspath(given[0]),
    )
  return records.NO_LABELS


def _refuse_empty_folders(given):
  """Raises InputError for a folder of a class that has no photo."""
  for source in filter(os.path.isdir, given):
    with os.scandir(source) as entries:
      folders = sorted(e.path for e in entries if e.is_dir())
    for folder in folders:
      if not os.path.basename(folder).startswith("."):
        files.find_images(folder)


def _listed(path, paths, names):
  """Returns the class of each photo by a CSV file; None where it lists none."""
  places = {name: i for i, name in enumerate(names)}
  for i, each in enumerate(paths):
    places.setdefault(os.path.basename(each), i)
    places.setdefault(os.path.splitext(os.path.basename(each))[0], i)
  found = [None] * len(names)
  for line, row in files.read_csv(path, header=True):
    photo, label = _row(row, line, path)
    place = places.get(photo, places.get(os.path.splitext(photo)[0]))
    if place is None and line == 1 and photo.lower() in _HEADS:
      continue
    if place is None:
      raise errors.InputError(
        "photos that are among those given", f"{photo} in line {line}", path
      )
    found[place] = label
  return found


def _row(row, line, path):
  row = [value.strip() for value in row[:2]]
  if len(row) < 2 or not all(row):
    raise errors.InputError(
      "a photo and its class a row, with a comma between",
      f"{','.join(row)!r} in line {line}",
      path,
    )
  return row


def _check_sources(sources, given):
  """Raises InputError where labels tell nothing."""
  counts = sources.classes()
  good = [label for label, number in counts.items() if number > 1]
  if len(good) < 2:
    some = ", ".join(f"{label}: {n}" for label, n in list(counts.items())[:4])
    raise errors.InputError(
      "at least 2 classes of 2 photos or more (--labels none trains without)",
      f"{len(good)} ({some or 'no classes'})",
      os.fspath(given[0]),
    )
