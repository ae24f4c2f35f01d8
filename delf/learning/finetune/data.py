"""Photos to train and to measure with: classes, pixels, and pairs of places."""

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from delf.base import concurrency, errors, files, progress
from delf.extraction import engine
from delf.python import utils

# Fewer are no material: a tenth of them is kept to measure with.
FEWEST_PHOTOS = 10
# Values of `labels` that are no file.
AUTO, FOLDERS, NO_LABELS = "auto", "folders", "none"

# First value of a row that names columns.
_HEADS = ("photo", "image", "file", "filename", "path", "url", "name", "id")
# Nothing can be learnt of a photo whose shorter side has fewer pixels.
_LEAST_SIDE = 32
# Photos whose neighbours are looked at, neighbours of each, and pairs that are
# compared point by point: at some 50 ms a pair, a minute or two.
_MOST_PHOTOS, _NEIGHBOURS, _MOST_PAIRS = 5000, 4, 1500
# One photo in so many is held out; of a class, one in so many.
_ONE_IN, _ONE_IN_OF_CLASS = 10, 5
_MOST_HELD_OUT = 200  # More say little more, and each takes time.
# Photos that were taken one after the other often show the same, and have names
# one after the other, so that they are held out in so many runs of names.
_RUNS = 5
_BATCH = 8  # Pairs of views in a step, unless the options say it.
# Classes are places, photos of which are never each other's negatives, where a
# batch can have others beside: with few classes what RootSIFT joins is a place.
_MANY_CLASSES = 4 * _BATCH
_PIXELS, _RECORD = "photos.u8", "photos.json"
_PAIRS = ("pairs_training.npz", "pairs_held_out.npz")


@dataclasses.dataclass(frozen=True)
class Sources:
  """Photos to train on, and their classes."""

  paths: list[str]
  names: list[str]  # Without extension.
  # None without classes, or for a photo in none.
  labels: list[str | None] | None

  def classes(self) -> dict[str, int]:
    """Return the number of photos of each class."""
    counts = collections.Counter(self.labels or ())
    del counts[None]
    return dict(counts)


def find(given: Sequence[str | os.PathLike], labels: str = AUTO) -> Sources:
  """Find photos and their classes.

  Sources are folders, patterns, lists and photos; `labels` is FOLDERS, AUTO,
  NO_LABELS, or path of a CSV file. InputError is raised if there are too few
  photos, or of two classes; if a class has no photo; if it is not clear whether
  folders are classes; and if the CSV file is wrong.
  """
  paths, names = engine.find(given)
  if len(paths) < FEWEST_PHOTOS:
    expected = f"at least {FEWEST_PHOTOS} photos to train on"
    raise errors.InputError(expected, len(paths), os.fspath(given[0]))
  if labels == AUTO:
    labels = _guess(given, names)
  if labels == NO_LABELS:
    return Sources(paths, names, None)
  if labels == FOLDERS:
    _check_folders(given)
    classes = [name.split("/")[0] if "/" in name else None for name in names]
  elif not os.path.exists(labels):
    raise FileNotFoundError(
      f"{labels}: expected labels that are folders, none, or a CSV file; found "
      "no such file"
    )
  else:
    classes = _listed(labels, paths, names)
  sources = Sources(paths, names, classes)
  counts = sources.classes()
  good = [label for label, number in counts.items() if number > 1]
  if len(good) < 2:
    some = ", ".join(f"{label}: {n}" for label, n in list(counts.items())[:4])
    raise errors.InputError(
      "at least 2 classes of 2 photos or more (--labels none trains without)",
      f"{len(good)} ({some or 'no classes'})",
      os.fspath(given[0]),
    )
  return sources


def _guess(given, names):
  """Return FOLDERS or NO_LABELS."""
  if len(given) > 1 or not os.path.isdir(given[0]):
    return NO_LABELS
  inside = ["/" in name for name in names]
  if any(inside) and not all(inside):
    raise errors.InputError(
      "photos in a folder for each class, or none in folders (--labels says "
      "what they are)",
      f"some in folders ({names[inside.index(True)]}), some not "
      f"({names[inside.index(False)]})",
      os.fspath(given[0]),
    )
  return FOLDERS if all(inside) else NO_LABELS


def _check_folders(given):
  """Raise InputError for a folder of a class that has no photo."""
  for source in filter(os.path.isdir, given):
    with os.scandir(source) as entries:
      folders = sorted(e.path for e in entries if e.is_dir())
    for folder in folders:
      if not os.path.basename(folder).startswith("."):
        files.find_images(folder)


def _listed(path, paths, names):
  """Return the class of each photo by a CSV file; None where it lists none."""
  places = {name: i for i, name in enumerate(names)}
  for i, each in enumerate(paths):
    places.setdefault(os.path.basename(each), i)
    places.setdefault(os.path.splitext(os.path.basename(each))[0], i)
  classes = [None] * len(names)
  for line, row in files.read_csv(path, header=True):
    values = [value.strip() for value in row[:2]]
    if len(values) < 2 or not all(values):
      expected = "a photo and its class a row, with a comma between"
      received = f"{','.join(values)!r} in line {line}"
      raise errors.InputError(expected, received, path)
    photo, label = values
    place = places.get(photo, places.get(os.path.splitext(photo)[0]))
    if place is not None:
      classes[place] = label
    elif line > 1 or photo.lower() not in _HEADS:
      raise errors.InputError(
        "photos that are among those given", f"{photo} in line {line}", path
      )
  return classes


def digest(paths: Sequence[str | os.PathLike]) -> str:
  """Digest of the names, sizes and times of photos."""
  result = hashlib.sha256()
  for path in paths:
    try:
      stat = os.stat(path)
      stamp = (stat.st_size, stat.st_mtime_ns)
    except OSError:
      stamp = None
    result.update(f"{path}\0{stamp}\0".encode(errors="surrogateescape"))
  return result.hexdigest()


def decode(
  paths: Sequence[str | os.PathLike],
  folder: pathlib.Path,
  size: int,
  rotate: bool = False,
) -> tuple[list[np.ndarray | None], tuple[engine.Failure, ...]]:
  """Decode photos once, on all cores; a repeated run finds them in `folder`.

  The longer side is scaled down to `size` pixels. Returns images, [H, W, 3]
  RGB, memory-mapped, and the failures; a photo that cannot be decoded, or is
  too small, is a failure, and None in place of its image.
  """
  if not (folder / _RECORD).exists():
    _write_pixels(paths, folder, size, rotate)
  record = json.loads(files.read_bytes(folder / _RECORD))
  pixels = np.zeros(0, np.uint8)
  if (folder / _PIXELS).stat().st_size:
    # An array as such: OpenCV takes no memory map.
    pixels = np.asarray(np.memmap(folder / _PIXELS, np.uint8, "r"))
  images, start = [], 0
  for shape in record["shapes"]:
    if shape is None:
      images.append(None)
      continue
    end = start + shape[0] * shape[1] * 3
    images.append(pixels[start:end].reshape(*shape, 3))
    start = end
  return images, tuple(engine.Failure(*each) for each in record["failures"])


def _write_pixels(paths, folder, size, rotate):
  shapes, failures = [], []
  workers = concurrency.core_count()
  load = functools.partial(_decode, size=size, rotate=rotate)
  images = concurrency.map_ahead(load, paths, workers, 2 * workers + 1)
  shown = progress.track(images, "reading photos", len(paths))
  with (
    files.atomic_path(folder / _PIXELS) as temporary,
    open(temporary, "wb") as file,
  ):
    for path, image in zip(paths, shown, strict=True):
      failed = isinstance(image, Exception)
      reason = engine.find_problem(path, image) if failed else None
      if reason:
        failures.append((os.fspath(path), reason))
        shapes.append(None)
      else:
        shapes.append(image.shape[:2])
        file.write(image.data)
  record = json.dumps({"shapes": shapes, "failures": failures})
  files.write_bytes(folder / _RECORD, record.encode())


def _decode(path, size, rotate):
  """Return a photo, or the exception that it raises."""
  try:
    image = utils.RgbLoader(path, rotate, at_least=(size, size))
    share = min(1.0, size / max(image.size))
    width, height = (max(1, round(side * share)) for side in image.size)
    if min(width, height) < _LEAST_SIDE:
      expected = (
        f"a photo of {_LEAST_SIDE} pixels or more a side at {size} pixels"
      )
      raise errors.InputError(expected, f"{width} x {height}")
    if share < 1:
      image = image.resize((width, height), Image.Resampling.BOX)
    return np.ascontiguousarray(image)
  except Exception as error:  # noqa: BLE001 - one bad photo ends no run
    return error


@dataclasses.dataclass(frozen=True)
class Side:
  """Photos that are trained on, or those that are held out."""

  photos: list  # Of view_pairs.Photo.
  labels: np.ndarray  # int [N], the class of each, -1 for none.
  pairs: list  # Of view_pairs.Pair: photos of one place.

  def batch(self, requested: int | None = None) -> int:
    """Return the number of pairs of views in a step, at most 8 if not given.

    A step shows each place once. Where few places have most of the photos, it
    is less than the number of places, or one would wait long for the others.
    """
    if requested is not None:
      return requested
    pools = [photo.pool for photo in self.photos]
    shares = np.unique(pools, return_counts=True)[1] / len(pools)
    least = min(2, len(shares))
    return int(np.clip(1 / np.sum(shares**2), least, _BATCH))


@dataclasses.dataclass(frozen=True)
class Collected:
  """Photos to train on, and photos to measure with."""

  training: Side
  held_out: Side
  classes: tuple[str, ...]
  failures: tuple[engine.Failure, ...]


def collect(
  sources: Sources, folder: pathlib.Path, options, describe: Callable
) -> Collected:
  """Decode photos, choose held-out ones, and find pairs of one place.

  Pixels and pairs are kept in the folder for a repeated run. `describe` returns
  global descriptors [N, D] of unit length for images; see run.TrainOptions.
  """
  images, failures = decode(sources.paths, folder, options.size, options.rotate)
  good = [i for i, image in enumerate(images) if image is not None]
  if len(good) < FEWEST_PHOTOS:
    first = f"; first bad one: {failures[0]}" if failures else ""
    expected = f"at least {FEWEST_PHOTOS} photos that can be read"
    raise errors.InputError(expected, f"{len(good)}{first}")
  names = [sources.names[i] for i in good]
  classes, labels, held = (), None, held_out(names)
  if sources.labels is not None:
    given = [sources.labels[i] for i in good]
    classes = tuple(sorted(set(given) - {None}))
    numbers = {name: i for i, name in enumerate(classes)}
    labels = np.array([numbers.get(label, -1) for label in given])
    held = held_out(names, given)
  sides = []
  for file, chosen in zip(_PAIRS, (~held, held), strict=True):
    chosen = np.flatnonzero(chosen)
    side = _side(
      [names[i] for i in chosen],
      [images[good[i]] for i in chosen],
      labels[chosen] if classes else None,
      folder / file,
      describe,
      options.seed,
    )
    sides.append(side)
  return Collected(*sides, classes, failures)


def held_out(
  names: Sequence[str], labels: Sequence[str | None] | None = None
) -> np.ndarray:
  """Choose the photos to measure with, bool [N].

  Without classes a tenth, and at least two, in up to five runs of the sorted
  names. With classes a fifth of each class that has three photos or more, at
  least one, the last ones by name. Never more than 200.
  """
  held = np.zeros(len(names), bool)
  order = np.argsort(names, kind="stable")
  if labels is None:
    number = min(_MOST_HELD_OUT, max(2, len(names) // _ONE_IN))
    runs = min(_RUNS, number // 2)
    for i, part in enumerate(np.array_split(order, runs)):
      length = number // runs + (i < number % runs)
      start = (len(part) - length) // 2
      held[part[start : start + length]] = True
    return held
  members = {}
  for i in order:
    if labels[i] is not None:
      members.setdefault(labels[i], []).append(i)
  for photos in members.values():
    if len(photos) > 2:
      held[photos[-max(1, len(photos) // _ONE_IN_OF_CLASS) :]] = True
  chosen = np.flatnonzero(held)
  if len(chosen) > _MOST_HELD_OUT:
    kept = np.linspace(0, len(chosen) - 1, _MOST_HELD_OUT).astype(int)
    held[:] = False
    held[chosen[kept]] = True
  return held


def _side(names, images, labels, path, describe, seed):  # noqa: PLR0913
  """Return a Side; the pairs of one that was made before are read."""
  from delf.learning import view_pairs

  def photos(groups, pools):
    rows = zip(names, images, map(int, groups), map(int, pools), strict=True)
    return [view_pairs.Photo(*row) for row in rows]

  # A photo in no class is in a group of its own.
  alone = np.arange(len(names)) + 1 + (0 if labels is None else labels.max())
  groups = alone if labels is None else np.where(labels < 0, alone, labels)
  grouped, pairs = photos(groups, groups), None
  if path.exists():
    pairs = view_pairs.load(path, grouped)
  if pairs is None:
    chosen = candidates(describe(images), labels, seed)
    pairs = view_pairs.match_photos(images, chosen)
    view_pairs.save(path, pairs, grouped)
  pools = places(len(names), pairs)
  if labels is None:
    labels = np.full(len(names), -1)
  elif len(np.unique(labels)) > _MANY_CLASSES:
    pools = groups
  return Side(photos(groups, pools), labels, pairs)


def candidates(
  descriptors: np.ndarray, labels: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
  """Choose pairs of photos that may show one place, int64 [P, 2], sorted.

  `descriptors` [N, D] are of unit length. With `labels`, int [N], pairs are of
  one class; where there are many pairs the seed decides.
  """
  rng = np.random.default_rng(seed)
  pairs = set()
  for i in rng.permutation(len(descriptors))[:_MOST_PHOTOS]:
    scores = descriptors @ descriptors[i]
    scores[i] = -np.inf
    if labels is not None:
      scores[labels != labels[i]] = -np.inf
    nearest = np.argsort(-scores, kind="stable")[:_NEIGHBOURS]
    pairs |= {(min(i, j), max(i, j)) for j in nearest if np.isfinite(scores[j])}
  pairs = np.array(sorted(pairs), np.int64).reshape(-1, 2)
  if len(pairs) > _MOST_PAIRS:
    chosen = rng.choice(len(pairs), _MOST_PAIRS, replace=False)
    pairs = pairs[np.sort(chosen)]
  return pairs


def places(number: int, pairs: list) -> np.ndarray:
  """Return the place of each of `number` photos, int [number].

  Photos that pairs join, directly or through others, are of one place.
  """
  from scipy import sparse
  from scipy.sparse import csgraph

  ends = [[pair.first for pair in pairs], [pair.second for pair in pairs]]
  ones = np.ones(len(pairs), bool)
  graph = sparse.coo_array((ones, ends), shape=(number, number))
  return csgraph.connected_components(graph, directed=False)[1]
