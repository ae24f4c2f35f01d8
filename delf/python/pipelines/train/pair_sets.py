"""What a model is measured with: pairs of held-out photos, and a search."""

import dataclasses

import numpy as np

# More pairs say little more, nor do more views of one photo.
_MOST_REAL, _MOST_SYNTHETIC, _MOST_UNRELATED = 60, 60, 150
_SYNTHETIC_OF_ONE = 8

# Points of a grid over the first view, and the share of them that the second
# must show.
_GRID, _LEAST_SHARED = 24, 0.1

# Photos that a photo is looked for among.
_MOST_SEARCHED = 1000


@dataclasses.dataclass(frozen=True)
class PairSet:
  """Pairs of photos that match, and pairs that do not.

  Attributes:
    images: list of [H, W, 3] uint8.
    true: list of (place, place, whether it is of two photos, truth as
      `pair_truth.agreeing` takes it).
    unrelated: [U, 2] int, places.
  """

  images: list
  true: list
  unrelated: np.ndarray


def make(photos, pairs, side, seed=0):
  """Makes pairs of held-out photos.

  Args:
    photos: list of photos.Photo.
    pairs: list of real_pairs.Pair of them.
    side: Pixels of a synthetic view's side.
    seed: Of the views and of the unrelated pairs.

  Returns:
    PairSet.
  """
  generator = np.random.default_rng((seed, 1))
  images = [photo.image for photo in photos]
  pools = [photo.pool for photo in photos]
  true = []
  for pair in _some(generator, pairs, _MOST_REAL):
    truth = {"type": "points", "points": pair.points}
    true.append((pair.first, pair.second, True, truth))
  wanted = len(true) + min(_MOST_SYNTHETIC, _SYNTHETIC_OF_ONE * len(photos))
  for _ in range(20 * _MOST_SYNTHETIC):
    if len(true) >= wanted:
      break
    i = int(generator.integers(len(photos)))
    views, truth = _views(generator, photos[i].image, side)
    if views:
      true.append((len(images), len(images) + 1, False, truth))
      images, pools = images + views, pools + 2 * [photos[i].pool]
  return PairSet(images, true, _unrelated(generator, np.array(pools)))


def _some(generator, items, most):
  order = generator.permutation(len(items))[:most]
  return [items[i] for i in np.sort(order)]


def _views(generator, image, side):
  """Returns two views of a photo and how they correspond; or [], None."""
  from delf.python.training.self_supervised import cells, warps

  size = np.array(image.shape[1::-1])
  maps = []
  for _ in range(2):
    centre = size * generator.uniform(0.35, 0.65, 2)
    zoom = side / min(size) * generator.uniform(0.9, 1.7)
    maps.append(warps.random_view(generator, centre, side, zoom, 1.0))
  step = side / _GRID
  grid = np.mgrid[0:_GRID, 0:_GRID].reshape(2, -1).T * step + step / 2
  shared = cells.correspondences(grid, maps, size, side)[0]
  if len(shared) < _LEAST_SHARED * len(grid):
    return [], None
  views = [
    warps.change_pixels(generator, warps.render(image, each, side), 0.9)
    for each in maps
  ]
  truth = {"type": "homography", "H": maps[1] @ np.linalg.inv(maps[0])}
  return views, truth


def _unrelated(generator, pools):
  """Returns pairs of images of different places, [U, 2] int."""
  drawn = generator.integers(len(pools), size=(8 * _MOST_UNRELATED, 2))
  drawn = np.unique(np.sort(drawn, axis=1), axis=0)
  drawn = drawn[pools[drawn[:, 0]] != pools[drawn[:, 1]]]
  return generator.permutation(drawn)[:_MOST_UNRELATED]


def searched(generator, asked, labels):
  """Chooses the photos that held-out ones are looked for among.

  Args:
    generator: numpy.random.Generator.
    asked: [N] bool, those that are held out.
    labels: [N] int, the class of each.

  Returns:
    [M] int, places: all that are asked with, and others, of their classes
    first.
  """
  wanted = np.isin(labels, labels[asked])
  order = generator.permutation(len(labels))
  rank = np.where(asked, 0, np.where(wanted, 1, 2))[order]
  order = order[np.argsort(rank, kind="stable")]
  return np.sort(order[: max(_MOST_SEARCHED, int(asked.sum()))])
