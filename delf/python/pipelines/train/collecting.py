"""From photos to what is trained on and what is measured with."""

import dataclasses

import numpy as np

from delf.python import errors
from delf.python.pipelines.train import options as train_options
from delf.python.pipelines.train import photo_store, places, splitting

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
    failures: tuple of extract_report.Failure.
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
  store = photo_store.gather(
    sources.paths, folder, options.size, options.rotate
  )
  good = [i for i, image in enumerate(store.images) if image is not None]
  _check(good, store)
  names = [sources.names[i] for i in good]
  images = [store.images[i] for i in good]
  classes, labels = _numbers(sources.labels, good)
  kept = splitting.held_out(
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
  from delf.python.training.self_supervised import photos, real_pairs

  def make(groups, pools):
    rows = zip(names, images, groups, pools, strict=True)
    return [photos.Photo(*row[:2], int(row[2]), int(row[3])) for row in rows]

  # A photo in no class is in a group of its own.
  alone = np.arange(len(names)) + 1 + (0 if labels is None else labels.max())
  groups = alone if labels is None else np.where(labels < 0, alone, labels)
  found, pairs = make(groups, groups), None
  if path.exists():
    pairs = real_pairs.load(path, found)
  if pairs is None:
    asked = places.candidates(describe(images), labels, seed)
    pairs = places.verified(images, asked)
    real_pairs.save(path, pairs, found)
  pools = places.pools(len(names), pairs)
  if labels is not None:
    if len(np.unique(labels)) > _MANY_CLASSES:
      pools = groups
  else:
    labels = np.full(len(names), -1)
  return Side(make(groups, pools), labels, pairs)
