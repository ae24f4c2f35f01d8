"""Pairs and queries of photos that training leaves out, some of them hard."""

import dataclasses
import pathlib

import cv2
import numpy as np

from benchmarks.shared import photo_pairs
from delf.learning import view_pairs
from tools import photo_sets

SIDE = 320
_MIN_POINTS = 20


@dataclasses.dataclass
class _Pairs:
  """Pairs drawn so far: images and places by key, true pairs."""

  images: dict
  pools: dict
  true: list

  def add(self, group, names, views, pool, truth):
    """Add a pair of views of a place."""
    for name, view in zip(names, views, strict=True):
      self.images[name], self.pools[name] = view, pool
    self.true.append(photo_pairs.PhotoPair(group, *names, truth))


def read(folder):
  """Return a list of training photos and one of held-out photos.

  Args:
    folder: Folder with `train_pool` and `train_pool_more`.
  """
  folder = pathlib.Path(folder)
  names = ("train_pool", "train_pool_more")
  return photo_sets.split(photo_sets.load([folder / name for name in names]))


def pairs(training, held_out, counts=(100, 200), unrelated=500, seed=7):
  """Draw the pairs.

  Args:
    training: list of Photo; some are backgrounds of the strong views.
    held_out: list of Photo.
    counts: Numbers of pairs of views of a photo: like those of training (but
      harder), and with strong homographies.
    unrelated: Number of pairs of different places.
    seed: Random seed.

  Returns:
    photo_pairs.PairSet with the groups "centre" (a photo and the first of
    its group), "others" (two other photos of a group), "warped" (views of all
    these pairs), "synthetic" and "strong".
  """
  rng = np.random.default_rng(seed)
  drawn = _Pairs({}, {}, [])
  found = view_pairs.match_groups(held_out)
  _add_real(drawn, held_out, found)
  for number in range(counts[0]):
    _add_synthetic(drawn, rng, held_out, number)
  for number, pair in enumerate(found):
    _add_warped(drawn, rng, held_out, pair, number)
  backgrounds = rng.permutation(len(training))[: counts[1]]
  for number, k in enumerate(backgrounds):
    _add_strong(drawn, rng, held_out, training[k].image, number)
  names, others = list(drawn.images), set()
  while len(others) < unrelated:
    pair = tuple(names[k] for k in rng.integers(len(names), size=2))
    if drawn.pools[pair[0]] != drawn.pools[pair[1]]:
      others.add(pair)
  return photo_pairs.PairSet(
    "held out", drawn.true, sorted(others), drawn.images.__getitem__
  )


def _add_real(drawn, held_out, found):
  """Add pairs of photos of a group that RootSIFT connects."""
  first = {}
  for i, photo in enumerate(held_out):
    first.setdefault(photo.group, i)
    drawn.images[f"photo {i}"], drawn.pools[f"photo {i}"] = (
      photo.image,
      photo.pool,
    )
  for pair in found:
    centre = first[held_out[pair.first].group] == pair.first
    names = f"photo {pair.first}", f"photo {pair.second}"
    truth = {"type": "points", "points": pair.points}
    drawn.true.append(
      photo_pairs.PhotoPair("centre" if centre else "others", *names, truth)
    )


def _add_synthetic(drawn, rng, held_out, number):
  """Add two views of a photo, by the homographies that training draws."""
  while True:
    photo = held_out[rng.integers(len(held_out))]
    size = np.array(photo.image.shape[1::-1])
    maps = [
      view_pairs.random_view(
        rng, size * rng.uniform(0.35, 0.65, 2), SIDE, rng.uniform(0.9, 1.7), 1.0
      )
      for _ in range(2)
    ]
    if (
      len(
        view_pairs.correspondences(
          view_pairs.cell_centres(SIDE), maps, size, SIDE
        )[0]
      )
      >= 150
    ):
      break
  views = [
    view_pairs.change_pixels(rng, view_pairs.render(photo.image, h, SIDE), 0.9)
    for h in maps
  ]
  names = [f"view {number} {k}" for k in range(2)]
  truth = {"type": "homography", "H": maps[1] @ np.linalg.inv(maps[0])}
  drawn.add("synthetic", names, views, photo.pool, truth)


def _add_warped(drawn, rng, held_out, pair, number):
  """Add views of two photos of a place: less overlap, other scale and light.

  Their true epipolar lines are those of the photos, moved.
  """
  for _ in range(50):
    centre = pair.points[rng.integers(len(pair.points))]
    maps, moved = [], []
    for k, i in enumerate((pair.first, pair.second)):
      size = np.array(held_out[i].image.shape[1::-1])
      middle = 0.5 * centre[2 * k : 2 * k + 2] + 0.25 * size
      zoom = SIDE / size.min() * np.exp(rng.uniform(-0.3, 0.5))
      maps.append(view_pairs.random_view(rng, middle, SIDE, zoom, 1.0))
      moved.append(
        view_pairs.project(maps[k], pair.points[:, 2 * k : 2 * k + 2])
      )
    seen = view_pairs.inside(moved[0], SIDE) & view_pairs.inside(moved[1], SIDE)
    if seen.sum() >= _MIN_POINTS:
      break
  else:
    return
  views = [
    view_pairs.change_pixels(
      rng, view_pairs.render(held_out[i].image, h, SIDE), 0.7
    )
    for i, h in zip((pair.first, pair.second), maps, strict=True)
  ]
  names = [f"warped {number} {k}" for k in range(2)]
  truth = {"type": "points", "points": np.hstack(moved)}
  drawn.add("warped", names, views, held_out[pair.first].pool, truth)


def strong_view(rng, centre, side, zoom, share_of_any_angle=0.15):
  """Draw the view of a photo by a camera that looks at it from the side.

  Args:
    rng: numpy.random.Generator.
    centre: (x, y) of the photo that the middle of the view shows.
    side: Pixels of the view's side.
    zoom: Pixels of the view per pixel of the photo, in its middle.
    share_of_any_angle: So often it is turned by any angle, else by one that is
      mostly under 40 degrees.

  Returns:
    [3, 3] float64: the photo is tilted by up to 60 degrees about any axis.
  """
  angle = np.deg2rad(np.clip(rng.normal(0, 22), -60, 60))
  if rng.random() < share_of_any_angle:
    angle = rng.uniform(-np.pi, np.pi)
  tilt = np.deg2rad(rng.uniform(0, 60))
  axis, focal = rng.uniform(0, 2 * np.pi), 1.3 * side
  seen = np.diag([1.0, np.cos(tilt), 1.0])
  seen[2, 1] = np.sin(tilt) / focal
  onto = [_moved(np.full(2, (side - 1) / 2)), _turned(angle + axis), seen]
  of = [_turned(-axis), np.diag([zoom, zoom, 1.0]), _moved(-np.array(centre))]
  return np.linalg.multi_dot(onto + of)


def _turned(angle):
  result = np.eye(3)
  cosine, sine = np.cos(angle), np.sin(angle)
  result[:2, :2] = [[cosine, -sine], [sine, cosine]]
  return result


def _moved(shift):
  result = np.eye(3)
  result[:2, 2] = shift
  return result


def _add_strong(drawn, rng, held_out, background, number):
  """Add a view of a photo and a tilted, smaller one before a background."""
  while True:
    photo = held_out[rng.integers(len(held_out))]
    size = np.array(photo.image.shape[1::-1])
    zoom = SIDE / size.min() * rng.uniform(1.0, 1.5)
    middles = size * rng.uniform(0.35, 0.65, 2), size * rng.uniform(0.4, 0.6, 2)
    ratio = 3 ** rng.uniform(0, 1)
    maps = [
      view_pairs.random_view(rng, middles[0], SIDE, zoom, 0.3),
      strong_view(rng, middles[1], SIDE, zoom / ratio),
    ]
    points = view_pairs.correspondences(
      view_pairs.cell_centres(SIDE), maps, size, SIDE
    )[1]
    if len(points) >= 150 and _far_side(maps[1], size) > 0:
      break
  views = [view_pairs.render(photo.image, h, SIDE) for h in maps]
  inside = np.full(photo.image.shape[:2], 255, np.uint8)
  inside = cv2.warpPerspective(inside, maps[1], (SIDE, SIDE))
  behind = cv2.resize(background, (SIDE, SIDE))
  views[1] = np.where(inside[:, :, None] > 127, views[1], behind)
  views = [view_pairs.change_pixels(rng, view, 1.0) for view in views]
  if rng.random() < 0.5:
    views, maps = views[::-1], maps[::-1]
  names = [f"strong {number} {k}" for k in range(2)]
  truth = {"type": "homography", "H": maps[1] @ np.linalg.inv(maps[0])}
  drawn.add("strong", names, views, photo.pool, truth)


def _far_side(homography, size):
  """Return the least depth of a photo's corners: over 0, all are seen."""
  corners = np.array([[0, 0, 1], [size[0], 0, 1], [0, size[1], 1], [*size, 1]])
  return (corners @ homography[2]).min()
