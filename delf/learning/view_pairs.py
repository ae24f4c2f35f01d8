"""Training batches of pairs of views, from one photo twice or from two photos.

Points of two photos of one place correspond where RootSIFT is sure.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import os

import cv2
import numpy as np

from delf.base import arrays as base_arrays
from delf.base import errors, files, progress
from delf.learning import synthetic_views

# A pair of photos with fewer inliers is left out.
MIN_INLIERS = 25

# Share of synthetic pairs with a strong change of viewpoint.
_STRONG = 0.4

# Weight of a corner that no other view confirms.
_UNCONFIRMED = 0.3

# A smaller view may never hold the points that a pair needs.
_LEAST_SIDE, _LEAST_POINTS = 64, 16


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two photos, by their indices, and points that correspond."""

  first: int
  second: int
  points: np.ndarray  # float32 [N, 4], (x, y) in the first and in the second.


@dataclasses.dataclass(frozen=True)
class Options:
  """Content of a batch."""

  pairs: int = 8
  side: int = 192  # Pixels of a view, a multiple of the stride, at least 64.
  points: int = 192  # Correspondences of a pair.
  real: float = 0.3  # Share of pairs of two photos; the others show one twice.
  seed: int | tuple = 0


@dataclasses.dataclass(frozen=True)
class Batch:
  """Pairs of views; the first of each pair come before all the second."""

  images: np.ndarray  # uint8 [2 P, S, S, 3], RGB.
  points: np.ndarray  # float32 [2 P, K, 2], (x, y) of each point in its view.
  weights: np.ndarray  # float32 [P, K], 1 where there is a point, 0 in padding.
  # float32 [2 P, C, 2], (y, x) of the keypoint of each cell from its centre, in
  # pixels; and [2 P, C], its weight in [0, 1].
  offsets: np.ndarray
  sureness: np.ndarray
  pools: np.ndarray  # int32 [P], the place.


@dataclasses.dataclass(frozen=True)
class _View:
  """One view of a pair: `points` [N, 2], (x, y), are also in the other one."""

  image: np.ndarray
  points: np.ndarray
  offsets: np.ndarray
  sureness: np.ndarray


class Source:
  """Draws batches of pairs of views."""

  def __init__(self, photos: list, real_pairs: list[Pair], options: Options):
    """Take photos, and pairs that index them.

    Raises:
      InputError: If the side cannot be, or if there are fewer places than
        pairs: a batch shows each place once.
    """
    if options.side < _LEAST_SIDE or options.side % synthetic_views.STRIDE:
      stride = synthetic_views.STRIDE
      expected = f"a side of {_LEAST_SIDE} or more, a multiple of {stride}"
      raise errors.InputError(expected, options.side)
    used = photos
    if real_pairs and options.real >= 1:
      used = [photos[pair.first] for pair in real_pairs]
    pools = len({photo.pool for photo in used})
    if not 1 <= options.pairs <= pools:
      expected = f"from 1 to as many pairs as there are places ({pools})"
      raise errors.InputError(expected, options.pairs)
    self.options = options
    self._photos = photos
    self._pairs = real_pairs
    self._rng = np.random.default_rng(options.seed)

  def batch(self) -> Batch:
    """Draw the next batch."""
    options = self.options
    used, pairs = set(), []
    while len(pairs) < options.pairs:
      real = self._pairs and self._rng.random() < options.real
      pair = self._real() if real else self._synthetic()
      if pair is not None and pair[-1] not in used:
        used.add(pair[-1])
        pairs.append(pair)
    first, second, pools = zip(*pairs, strict=True)
    chosen = [
      self._choose(one.points, two.points)
      for one, two in zip(first, second, strict=True)
    ]
    points = np.stack([c[0] for c in chosen] + [c[1] for c in chosen])
    views = first + second
    return Batch(
      images=np.stack([view.image for view in views]),
      points=points.astype(np.float32),
      weights=np.stack([c[2] for c in chosen]),
      offsets=np.stack([view.offsets for view in views]),
      sureness=np.stack([view.sureness for view in views]),
      pools=np.int32(pools),
    )

  def _synthetic(self):
    """Draw two views of one photo; return them and the pool, or None."""
    rng, side = self._rng, self.options.side
    photo = self._photos[rng.integers(len(self._photos))]
    height, width = photo.image.shape[:2]
    size = np.array([width, height])
    middle = rng.uniform(0.3, 0.7, 2) * size
    zoom = side / min(height, width) * np.exp(rng.uniform(-0.2, 0.7))
    ratio = np.exp(rng.uniform(-0.45, 0.45))
    drift = rng.normal(0, 0.12, 2) * side / zoom
    strength = 1.4 if rng.random() < _STRONG else 0.7
    maps = [
      synthetic_views.random_view(rng, middle - drift, side, zoom * ratio, 0.7),
      synthetic_views.random_view(
        rng, middle + drift, side, zoom / ratio, strength
      ),
    ]
    images = [synthetic_views.render(photo.image, h, side) for h in maps]
    corners = [synthetic_views.find_corners(image) for image in images]
    points = synthetic_views.correspondences(
      corners[0].points, maps, size, side
    )
    if len(points[0]) < _LEAST_POINTS:
      return None
    across = maps[1] @ np.linalg.inv(maps[0])
    sureness = (
      synthetic_views.corner_agreement(*corners, across),
      synthetic_views.corner_agreement(*corners[::-1], np.linalg.inv(across)),
    )
    views = [
      _View(
        synthetic_views.change_pixels(rng, images[i], 0.8),
        points[i],
        corners[i].offsets,
        sureness[i],
      )
      for i in (0, 1)
    ]
    return (*views, photo.pool)

  def _real(self):
    """Draw a view each of two photos; return them and the pool, or None."""
    rng, side = self._rng, self.options.side
    pair = self._pairs[rng.integers(len(self._pairs))]
    photos, points = [pair.first, pair.second], pair.points
    if rng.random() < 0.5:
      photos, points = photos[::-1], points[:, [2, 3, 0, 1]]
    centre = points[rng.integers(len(points))]
    images, moved = [], []
    for i, photo in enumerate(photos):
      image = self._photos[photo].image
      size = np.array(image.shape[1::-1])
      zoom = side / min(size) * np.exp(rng.uniform(-0.1, 0.6))
      middle = 0.7 * centre[2 * i : 2 * i + 2] + 0.15 * size
      homography = synthetic_views.random_view(rng, middle, side, zoom, 0.7)
      images.append(synthetic_views.render(image, homography, side))
      moved.append(
        synthetic_views.project(homography, points[:, 2 * i : 2 * i + 2])
      )
    shared = synthetic_views.inside(moved[0], side)
    shared &= synthetic_views.inside(moved[1], side)
    if shared.sum() < _LEAST_POINTS:
      return None
    views = []
    for image, where in zip(images, moved, strict=True):
      corners = synthetic_views.find_corners(image)
      changed = synthetic_views.change_pixels(rng, image, 0.5)
      sureness = _UNCONFIRMED * corners.sharp
      views.append(_View(changed, where[shared], corners.offsets, sureness))
    return (*views, self._photos[photos[0]].pool)

  def _choose(self, points_1, points_2):
    """Return K points of each view, one per cell, and their weights."""
    options = self.options
    order = self._rng.permutation(len(points_1))
    points_1, points_2 = points_1[order], points_2[order]
    for _ in range(2):
      cells = synthetic_views.nearest_cells(points_1, options.side)
      _, first = np.unique(cells, return_index=True)
      points_1, points_2 = points_2[first], points_1[first]
    order = self._rng.permutation(len(points_1))[: options.points]
    number = len(order)
    result = np.zeros([2, options.points, 2])
    result[0, :number], result[1, :number] = points_1[order], points_2[order]
    weights = (np.arange(options.points) < number).astype(np.float32)
    return result[0], result[1], weights


def root_sift(image: np.ndarray, number: int = 2000, contrast: float = 0.02):
  """Find RootSIFT features (Arandjelovic and Zisserman, CVPR 2012).

  Returns:
    At most `number` cv2.KeyPoint, and descriptors float32 [N, 128].
  """
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  sift = cv2.SIFT_create(number, contrastThreshold=contrast)
  keypoints, descriptors = sift.detectAndCompute(grey, None)
  if not keypoints:
    return (), np.zeros([0, 128], np.float32)
  descriptors = descriptors / (descriptors.sum(1, keepdims=True) + 1e-7)
  return keypoints, np.sqrt(descriptors)


def _matches(first, second, ratio=0.85):
  """Match (points, descriptors) of two photos; return float32 [N, 4].

  Mutual nearest neighbours that pass the ratio test.
  """
  if min(len(first[0]), len(second[0])) < 2:
    return np.zeros([0, 4], np.float32)
  distances = 2.0 - 2.0 * first[1] @ second[1].T
  nearest = distances.argmin(1)
  rows = np.arange(len(nearest))
  two = np.partition(distances, 1, axis=1)[:, :2]
  good = two[:, 0] < ratio**2 * two[:, 1]
  good &= distances.argmin(0)[nearest] == rows
  rows = rows[good]
  return np.hstack([first[0][rows], second[0][nearest[rows]]])


def epipolar_inliers(
  points: np.ndarray, threshold: float = 1.0, seed: int = 0
) -> np.ndarray:
  """Keep the points [N, 4] that agree with one fundamental matrix.

  The threshold is that of the distance to the epipolar line, in pixels. None is
  kept where fewer than MIN_INLIERS agree.
  """
  if len(points) < MIN_INLIERS:
    return points[:0]
  cv2.setRNGSeed(seed)
  try:
    _, mask = cv2.findFundamentalMat(
      points[:, :2], points[:, 2:], cv2.USAC_MAGSAC, threshold, 0.999, 2000
    )
  except cv2.error:
    mask = None  # It asserts, now and then, that a model that it drew is one.
  if mask is None or mask.sum() < MIN_INLIERS:
    return points[:0]
  return points[mask.ravel().astype(bool)]


def match_photos(images: list[np.ndarray], candidates) -> list[Pair]:
  """Return the candidate pairs of indices of images that RootSIFT matches."""

  @functools.lru_cache(maxsize=256)  # 1 MB each.
  def features(i):
    keypoints, descriptors = root_sift(images[i])
    points = np.float32([keypoint.pt for keypoint in keypoints])
    return points.reshape(-1, 2), descriptors

  def compare(candidate):
    first, second = map(int, candidate)
    points = _matches(features(first), features(second))
    return Pair(first, second, epipolar_inliers(points))

  with concurrent.futures.ThreadPoolExecutor() as pool:
    compared = progress.track(
      pool.map(compare, candidates),
      "matching photos of one place",
      len(candidates),
    )
    return [pair for pair in compared if len(pair.points)]


def match_groups(photos: list) -> list[Pair]:
  """Find the pairs of photos of one group that RootSIFT is sure of."""
  groups = collections.defaultdict(list)
  for i, photo in enumerate(photos):
    groups[photo.group].append(i)
  candidates = [
    pair
    for group in groups.values()
    for pair in itertools.combinations(group, 2)
  ]
  return match_photos([photo.image for photo in photos], candidates)


def save(path: str | os.PathLike, pairs: list[Pair], photos: list) -> None:
  """Write pairs of photos to an `.npz` file."""
  with files.atomic_path(path) as temporary:
    np.savez_compressed(
      temporary,
      digest=_digest(photos),
      photos=np.array([(p.first, p.second) for p in pairs]).reshape(-1, 2),
      numbers=np.array([len(p.points) for p in pairs], int),
      points=np.concatenate(
        [np.zeros([0, 4], np.float32)] + [p.points for p in pairs]
      ),
    )


def load(path: str | os.PathLike, photos: list) -> list[Pair] | None:
  """Read what `save` wrote; None if it is of other photos."""
  names = ["digest", "photos", "numbers", "points"]
  arrays = base_arrays.read_npz(path, "pairs of photos", names)
  if arrays["digest"] != _digest(photos):
    return None
  points = np.split(arrays["points"], np.cumsum(arrays["numbers"])[:-1])
  return [
    Pair(int(first), int(second), rows)
    for (first, second), rows in zip(arrays["photos"], points, strict=False)
  ]


def _digest(photos):
  """Digest of the names, groups and sizes of photos."""
  rows = [(p.name, p.group, p.image.shape) for p in photos]
  return hashlib.sha256(repr(rows).encode()).hexdigest()
