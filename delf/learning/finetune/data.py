"""Training and held-out photos: classes, pixels, and pairs of one place."""

import collections
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import typing
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from delf.base import concurrency, errors, files, progress
from delf.extraction import engine
from delf.python import utils

if typing.TYPE_CHECKING:
  from delf.learning import view_pairs
  from delf.learning.finetune import run

# A tenth of the photos is held out, so fewer do not suffice.
FEWEST_PHOTOS = 10
# Values of `labels` other than a path.
AUTO, FOLDERS, NO_LABELS = "auto", "folders", "none"

# Names of the first column in a header row.
_HEADS = ("photo", "image", "file", "filename", "path", "url", "name", "id")
# Shortest side of a usable photo, in pixels.
_LEAST_SIDE = 32
# Limits of the search for pairs of one place: photos, neighbours of each, and
# pairs matched by RootSIFT. At about 50 ms a pair it takes a minute or two.
_MOST_PHOTOS, _NEIGHBOURS, _MOST_PAIRS = 5000, 4, 1500
# One photo in 10 is held out; with classes, one in 5 of each class.
_ONE_IN, _ONE_IN_OF_CLASS = 10, 5
_MOST_HELD_OUT = 200  # More refine the scores little and take time.
# Consecutive photos often show the same place and have consecutive names, so
# whole runs of names are held out.
_RUNS = 5
_BATCH = 8  # Default number of pairs of views in a step.
# Photos of one place are never each other's negatives. With more classes than
# this a class is a place; with fewer, photos that RootSIFT matches are one.
_MANY_CLASSES = 4 * _BATCH
_PIXELS, _RECORD = "photos.u8", "photos.json"
_PAIRS = ("pairs_training.npz", "pairs_held_out.npz")


@dataclasses.dataclass(frozen=True)
class Sources:
  """Photos and their classes."""

  paths: list[str]
  names: list[str]  # Without extension.
  # None without classes; an entry is None for a photo without class.
  labels: list[str | None] | None

  def classes(self) -> dict[str, int]:
    """Return the number of photos of each class."""
    return dict(collections.Counter(filter(None, self.labels or ())))


def find(sources: Sequence[str | os.PathLike], labels: str = AUTO) -> Sources:
  """Find photos and their classes.

  Sources are folders, patterns, lists and photos; `labels` is AUTO, FOLDERS,
  NO_LABELS, or the path of a CSV file. InputError is raised for fewer than ten
  photos or two classes of two photos, an empty class, a mix of photos in and
  outside subfolders (AUTO), and a malformed CSV file.
  """
  paths, names = engine.find(sources)
  if len(paths) < FEWEST_PHOTOS:
    message = (
      f"training needs at least {FEWEST_PHOTOS} photos, not {len(paths)}"
    )
    raise errors.InputError(message, path=os.fspath(sources[0]))
  if labels == AUTO:
    labels = _guess(sources, names)
  if labels == NO_LABELS:
    return Sources(paths, names, None)
  classes: list[str | None]
  if labels == FOLDERS:
    for source in filter(os.path.isdir, sources):
      entries = os.scandir(os.fspath(source))
      for folder in sorted(e.path for e in entries if e.is_dir()):
        if not os.path.basename(folder).startswith("."):
          files.find_images(folder)  # InputError for an empty class.
    classes = [name.split("/")[0] if "/" in name else None for name in names]
  elif not os.path.exists(labels):
    raise FileNotFoundError(
      f"{labels}: no such file; labels are folders, none, or a CSV file"
    )
  else:
    classes = _listed(labels, paths, names)
  result = Sources(paths, names, classes)
  counts = result.classes()
  good = [label for label, number in counts.items() if number > 1]
  if len(good) < 2:
    some = ", ".join(f"{label}: {n}" for label, n in list(counts.items())[:4])
    raise errors.InputError(
      "training needs at least 2 classes of 2 photos or more, not "
      f"{len(good)} ({some or 'no classes'}); --labels none trains without",
      path=os.fspath(sources[0]),
    )
  return result


def _guess(sources, names):
  """Return FOLDERS or NO_LABELS."""
  if len(sources) > 1 or not os.path.isdir(sources[0]):
    return NO_LABELS
  inside = ["/" in name for name in names]
  if any(inside) and not all(inside):
    raise errors.InputError(
      f"some photos are in subfolders ({names[inside.index(True)]}), some not "
      f"({names[inside.index(False)]}); --labels says whether they are classes",
      path=os.fspath(sources[0]),
    )
  return FOLDERS if all(inside) else NO_LABELS


def _listed(path, paths, names):
  """Return the class of each photo in a CSV file, or None if not listed."""
  indices = {name: i for i, name in enumerate(names)}
  for i, each in enumerate(paths):
    indices.setdefault(os.path.basename(each), i)
    indices.setdefault(os.path.splitext(os.path.basename(each))[0], i)
  classes: list[str | None] = [None] * len(names)
  for line, row in files.read_csv(path, header=True):
    values = [value.strip() for value in row[:2]]
    if len(values) < 2 or not all(values):
      raise errors.InputError(
        f"{','.join(values)!r} in line {line} is not a photo and its class "
        "with a comma between",
        path=path,
      )
    photo, label = values
    index = indices.get(photo, indices.get(os.path.splitext(photo)[0]))
    if index is not None:
      classes[index] = label
    elif line > 1 or photo.lower() not in _HEADS:
      message = f"{photo} in line {line} is not among the photos"
      raise errors.InputError(message, path=path)
  return classes


def digest(paths: Sequence[str | os.PathLike]) -> str:
  """Return a hex digest of the paths, sizes and times of photos."""
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
  """Decode photos on all cores, or read the pixels that an earlier run stored.

  The longer side is scaled down to `size` pixels. Returns memory-mapped images,
  RGB uint8 [H, W, 3], and failures: photos that cannot be decoded or are too
  small, whose images are None.
  """
  if not (folder / _RECORD).exists():
    _write_pixels(paths, folder, size, rotate)
  record = json.loads(files.read_bytes(folder / _RECORD))
  shapes = record["shapes"]
  pixels = np.zeros(0, np.uint8)
  if any(shapes):
    # A plain array, since OpenCV rejects a memory map.
    pixels = np.asarray(np.memmap(folder / _PIXELS, np.uint8, "r"))
  ends = np.cumsum([3 * math.prod(shape or [0]) for shape in shapes])
  images = [
    None if shape is None else part.reshape(*shape, 3)
    for shape, part in zip(shapes, np.split(pixels, ends[:-1]), strict=True)
  ]
  return images, tuple(engine.Failure(*each) for each in record["failures"])


def _write_pixels(paths, folder, size, rotate):
  shapes: list[tuple[int, ...] | None] = []
  failures = []
  workers = concurrency.core_count()
  load = functools.partial(_decode, size=size, rotate=rotate)
  images = concurrency.map_ahead(load, paths, workers, 2 * workers + 1)
  images = progress.track(images, "reading photos", len(paths))
  with (
    files.atomic_path(folder / _PIXELS) as temporary,
    open(temporary, "wb") as file,
  ):
    for path, image in zip(paths, images, strict=True):
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
  """Return the pixels of a photo, or the exception raised."""
  try:
    image = utils.RgbLoader(path, rotate, at_least=(size, size))
    share = min(1.0, size / max(image.size))
    width, height = (max(1, round(side * share)) for side in image.size)
    if min(width, height) < _LEAST_SIDE:
      raise errors.InputError(
        f"the photo is too narrow: {width} x {height} pixels when scaled down "
        f"to {size}; each side must have {_LEAST_SIDE} or more"
      )
    if share < 1:
      image = image.resize((width, height), Image.Resampling.BOX)
    return np.ascontiguousarray(image)
  except Exception as error:  # noqa: BLE001 - one bad photo must not end the run
    return error


@dataclasses.dataclass(frozen=True)
class Side:
  """The training photos, or the held-out ones."""

  photos: "list[view_pairs.Photo]"
  labels: np.ndarray  # int [N], the class of each photo, -1 for none.
  pairs: "list[view_pairs.Pair]"  # Pairs of photos of one place.

  def batch(self, requested: int | None = None) -> int:
    """Return the number of pairs of views in a step, by default at most 8.

    A step shows each place once. The default is at most the inverse Simpson
    index of the places: photos are drawn until enough places turn up, which
    takes long if a few places have most of the photos.
    """
    if requested is not None:
      return requested
    pools = [photo.pool for photo in self.photos]
    shares = np.unique(pools, return_counts=True)[1] / len(pools)
    least = min(2, len(shares))
    return int(np.clip(1 / np.sum(shares**2), least, _BATCH))


@dataclasses.dataclass(frozen=True)
class Collected:
  """Photos of a run, split into training and held-out ones."""

  training: Side
  held_out: Side
  classes: tuple[str, ...]
  failures: tuple[engine.Failure, ...]


def collect(
  sources: Sources,
  folder: pathlib.Path,
  options: "run.TrainOptions",
  describe: Callable[[list[np.ndarray]], np.ndarray],
) -> Collected:
  """Decode photos, choose held-out ones, and find pairs of one place.

  Pixels and pairs are stored in `folder` for a resumed run. `describe` returns
  global descriptors [N, D] of unit length for images.
  """
  images, failures = decode(sources.paths, folder, options.size, options.rotate)
  good = [(i, image) for i, image in enumerate(images) if image is not None]
  if len(good) < FEWEST_PHOTOS:
    first = f"; the first failure: {failures[0]}" if failures else ""
    raise errors.InputError(
      f"training needs at least {FEWEST_PHOTOS} photos that can be read, not "
      f"{len(good)}{first}"
    )
  names = [sources.names[i] for i, _ in good]
  own = [sources.labels[i] if sources.labels else None for i, _ in good]
  classes = tuple(sorted({label for label in own if label is not None}))
  numbers = {None: -1} | {name: i for i, name in enumerate(classes)}
  labels = np.array([numbers[label] for label in own])
  held = held_out(names, own if sources.labels else None)
  if not held.any():
    message = "no class has 3 photos or more, so none can be held out"
    raise errors.InputError(message)

  def side(mask, file):
    chosen = np.flatnonzero(mask)
    return _side(
      [names[i] for i in chosen],
      [good[i][1] for i in chosen],
      labels[chosen],
      folder / file,
      describe,
      options.seed,
    )

  training, held_back = map(side, (~held, held), _PAIRS)
  return Collected(training, held_back, classes, failures)


def held_out(
  names: Sequence[str], labels: Sequence[str | None] | None = None
) -> np.ndarray:
  """Choose the photos to hold out, bool [N].

  Without classes these are a tenth, but at least two, in up to five runs of the
  sorted names. With classes they are the last fifth by name, but at least one,
  of each class of three photos or more. At most 200 are held out.
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
  members: dict[str, list[int]] = {}
  for i in order:
    if (label := labels[i]) is not None:
      members.setdefault(label, []).append(i)
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
  """Return a Side, with pairs from a file if an earlier run wrote it."""
  from delf.learning import view_pairs

  def photos(groups, pools):
    rows = zip(names, images, map(int, groups), map(int, pools), strict=True)
    return [view_pairs.Photo(*row) for row in rows]

  # A photo without class forms its own group.
  alone = np.arange(len(names)) + 1 + max(0, labels.max())
  groups = np.where(labels < 0, alone, labels)
  grouped, pairs = photos(groups, groups), None
  if path.exists():
    pairs = view_pairs.load(path, grouped)
  if pairs is None:
    chosen = candidates(describe(images), labels, seed).tolist()
    pairs = view_pairs.match_photos(images, chosen)
    view_pairs.save(path, pairs, grouped)
  many_classes = len(np.unique(labels)) > _MANY_CLASSES
  pools = groups if many_classes else places(len(names), pairs)
  return Side(photos(groups, pools), labels, pairs)


def candidates(
  descriptors: np.ndarray, labels: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
  """Choose pairs of photos that may show one place, int64 [P, 2], sorted.

  `descriptors` [N, D] are of unit length. With `labels`, int [N], both photos
  of a pair have the same class. If there are more than 1500 pairs, they are
  drawn with the seed.
  """
  rng = np.random.default_rng(seed)
  nearby: set[tuple[int, int]] = set()
  for i in rng.permutation(len(descriptors))[:_MOST_PHOTOS]:
    scores = descriptors @ descriptors[i]
    scores[i] = -np.inf
    if labels is not None:
      scores[labels != labels[i]] = -np.inf
    nearest = np.argsort(-scores, kind="stable")[:_NEIGHBOURS]
    nearest = nearest[np.isfinite(scores[nearest])]
    nearby |= {(min(i, j), max(i, j)) for j in nearest}
  pairs = np.array(sorted(nearby), np.int64).reshape(-1, 2)
  if len(pairs) > _MOST_PAIRS:
    chosen = rng.choice(len(pairs), _MOST_PAIRS, replace=False)
    pairs = pairs[np.sort(chosen)]
  return pairs


def places(number: int, pairs: "Sequence[view_pairs.Pair]") -> np.ndarray:
  """Return the place of each photo, int [number].

  A place is a connected component of the graph whose edges are the pairs.
  """
  from scipy import sparse
  from scipy.sparse import csgraph

  ends = [[pair.first for pair in pairs], [pair.second for pair in pairs]]
  ones = np.ones(len(pairs), bool)
  graph = sparse.coo_array((ones, ends), shape=(number, number))
  return csgraph.connected_components(graph, directed=False)[1]
