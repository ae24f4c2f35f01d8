"""Batches of pairs of views, with the cells that correspond."""

import collections
import dataclasses
import hashlib
import itertools

import cv2
import numpy as np
from absl import logging

from delf.base import arrays as base_arrays
from delf.base import errors, files, progress
from delf.learning import synthetic_views

# Share of synthetic pairs with a strong change of viewpoint.
_STRONG = 0.4

# How sure a corner is that no other view confirms.
_ALONE = 0.3

# A smaller view may never hold the points that a pair needs.
_LEAST_SIDE = 64


@dataclasses.dataclass(frozen=True)
class Options:
  """What a batch is made of.

  Attributes:
    pairs: Pairs of views in a batch.
    side: Pixels of a view's side, a multiple of cells.STRIDE and at least 64.
    points: Correspondences of a pair.
    real: Share of pairs of two photos; the others show one photo twice.
    seed: Of all that is random, an int or several.
  """

  pairs: int = 8
  side: int = 192
  points: int = 192
  real: float = 0.3
  seed: int | tuple = 0


@dataclasses.dataclass(frozen=True)
class Batch:
  """Pairs of views; the first of each pair come before all the second.

  Attributes:
    images: uint8 [2 P, S, S, 3], RGB.
    points: float32 [2 P, K, 2], (x, y) of each point in its view.
    weights: float32 [P, K], 1 where there is a point, 0 in padding.
    offsets: float32 [2 P, C, 2], of the keypoint of each cell from its centre,
      (y, x) in pixels.
    sureness: float32 [2 P, C], how sure that is.
    pools: int32 [P], the place.
  """

  images: np.ndarray
  points: np.ndarray
  weights: np.ndarray
  offsets: np.ndarray
  sureness: np.ndarray
  pools: np.ndarray


@dataclasses.dataclass(frozen=True)
class View:
  """One view of a pair.

  Attributes:
    image: uint8 [S, S, 3], RGB.
    points: float [N, 2], (x, y) of what the other view shows too.
    offsets: float32 [C, 2], of the keypoint of each cell from its centre.
    sureness: float32 [C], how sure that is.
  """

  image: np.ndarray
  points: np.ndarray
  offsets: np.ndarray
  sureness: np.ndarray


class Source:
  """Draws batches as its `options`, Options, say."""

  def __init__(self, photos, real_pairs, options):
    """Creates the source.

    Args:
      photos: list of Photo.
      real_pairs: list of real_pairs.Pair that index `photos`.
      options: Options.

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

  def batch(self):
    """Returns the next Batch."""
    options = self.options
    used, views = set(), []
    while len(views) < options.pairs:
      real = self._pairs and self._rng.random() < options.real
      view = self._real() if real else self._synthetic()
      if view is None or view[-1] in used:
        continue
      used.add(view[-1])
      views.append(view)
    first, second, pools = zip(*views, strict=True)
    chosen = [
      self._choose(one.points, two.points)
      for one, two in zip(first, second, strict=True)
    ]
    points = np.stack([c[0] for c in chosen] + [c[1] for c in chosen])
    everything = first + second
    return Batch(
      images=np.stack([view.image for view in everything]),
      points=points.astype(np.float32),
      weights=np.stack([c[2] for c in chosen]),
      offsets=np.stack([view.offsets for view in everything]),
      sureness=np.stack([view.sureness for view in everything]),
      pools=np.int32(pools),
    )

  def _synthetic(self):
    """Returns two View of one photo, and the pool; or None."""
    rng, side = self._rng, self.options.side
    photo = self._photos[rng.integers(len(self._photos))]
    height, width = photo.image.shape[:2]
    size = np.array([width, height])
    middle = rng.uniform(0.3, 0.7, 2) * size
    zoom = side / min(height, width) * np.exp(rng.uniform(-0.2, 0.7))
    ratio = np.exp(rng.uniform(-0.45, 0.45))
    drift = rng.normal(0, 0.12, 2) * side / zoom
    strengths = (0.7, 1.4 if rng.random() < _STRONG else 0.7)
    homographies = [
      synthetic_views.random_view(
        rng, middle - drift, side, zoom * ratio, strengths[0]
      ),
      synthetic_views.random_view(
        rng, middle + drift, side, zoom / ratio, strengths[1]
      ),
    ]
    images = [
      synthetic_views.render(photo.image, h, side) for h in homographies
    ]
    found = [synthetic_views.find(image) for image in images]
    points = synthetic_views.correspondences(
      found[0].points, homographies, size, side
    )
    if len(points[0]) < 16:
      return None
    there = homographies[1] @ np.linalg.inv(homographies[0])
    sureness = (
      synthetic_views.agreement(*found, there),
      synthetic_views.agreement(*found[::-1], np.linalg.inv(there)),
    )
    images = [
      synthetic_views.change_pixels(rng, image, 0.8) for image in images
    ]
    views = [
      View(images[i], points[i], found[i].offsets, sureness[i]) for i in (0, 1)
    ]
    return (*views, photo.pool)

  def _real(self):
    """Returns a View each of two photos of a place, and the pool; or None."""
    rng, side = self._rng, self.options.side
    pair = self._pairs[rng.integers(len(self._pairs))]
    points = pair.points
    if rng.random() < 0.5:
      pair = dataclasses.replace(pair, first=pair.second, second=pair.first)
      points = points[:, [2, 3, 0, 1]]
    centre = points[rng.integers(len(points))]
    images, homographies = [], []
    for i, photo in enumerate([pair.first, pair.second]):
      image = self._photos[photo].image
      size = np.array(image.shape[1::-1])
      zoom = side / min(size) * np.exp(rng.uniform(-0.1, 0.6))
      middle = 0.7 * centre[2 * i : 2 * i + 2] + 0.15 * size
      homographies.append(
        synthetic_views.random_view(rng, middle, side, zoom, 0.7)
      )
      images.append(synthetic_views.render(image, homographies[i], side))
    points_1 = synthetic_views.project(homographies[0], points[:, :2])
    points_2 = synthetic_views.project(homographies[1], points[:, 2:])
    good = synthetic_views.inside(points_1, side) & synthetic_views.inside(
      points_2, side
    )
    if good.sum() < 16:
      return None
    views = []
    for image, some in zip(
      images, (points_1[good], points_2[good]), strict=True
    ):
      found = synthetic_views.find(image)
      changed = synthetic_views.change_pixels(rng, image, 0.5)
      views.append(View(changed, some, found.offsets, _ALONE * found.sharp))
    return (*views, self._photos[pair.first].pool)

  def _choose(self, points_1, points_2):
    """Returns K points of each view, one per cell, and their weights."""
    options = self.options
    order = self._rng.permutation(len(points_1))
    points_1, points_2 = points_1[order], points_2[order]
    for _ in range(2):
      _, first = np.unique(
        synthetic_views.of(points_1, options.side), return_index=True
      )
      points_1, points_2 = points_2[first], points_1[first]
    order = self._rng.permutation(len(points_1))[: options.points]
    number = len(order)
    result = np.zeros([2, options.points, 2])
    result[0, :number], result[1, :number] = points_1[order], points_2[order]
    weights = (np.arange(options.points) < number).astype(np.float32)
    return result[0], result[1], weights


# A pair with fewer inliers is left out.
MIN_INLIERS = 25


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two photos and points that correspond.

  Attributes:
    first: Index of a photo.
    second: Index of the other.
    points: [N, 4] float32, (x, y) in the first and (x, y) in the second.
  """

  first: int
  second: int
  points: np.ndarray


def root_sift(image, number=2000, contrast=0.02):
  """Finds RootSIFT features (Arandjelovic and Zisserman, CVPR 2012).

  Args:
    image: uint8 [H, W, 3], RGB.
    number: At most so many.
    contrast: Contrast threshold of the detector.

  Returns:
    Sequence of N cv2.KeyPoint, and descriptors [N, 128] float32.
  """
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  sift = cv2.SIFT_create(number, contrastThreshold=contrast)
  keypoints, descriptors = sift.detectAndCompute(grey, None)
  if not keypoints:
    return (), np.zeros([0, 128], np.float32)
  descriptors = descriptors / (descriptors.sum(1, keepdims=True) + 1e-7)
  return keypoints, np.sqrt(descriptors)


def matches(first, second, ratio=0.85):
  """Returns mutual nearest neighbours that pass the ratio test.

  Args:
    first: Points and descriptors.
    second: Points and descriptors.
    ratio: Of the distances to the nearest and second nearest.

  Returns:
    [N, 4] float32, (x, y) in the first and in the second.
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


def verified(points, threshold=1.0, seed=0):
  """Returns the points that agree with one fundamental matrix.

  Args:
    points: [N, 4] float32.
    threshold: Of the distance to the epipolar line, in pixels.
    seed: Of the estimator.

  Returns:
    [M, 4] float32; empty where fewer than MIN_INLIERS agree.
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


def find(photos):
  """Finds the pairs of photos of one group that match.

  Args:
    photos: list of Photo.

  Returns:
    list of Pair.
  """
  groups = collections.defaultdict(list)
  for i, photo in enumerate(photos):
    groups[photo.group].append(i)
  groups = [group for group in groups.values() if len(group) > 1]
  pairs = []
  for group in progress.track(groups, "matching photos of one place"):
    features = {i: _points_and_descriptors(photos[i].image) for i in group}
    for i, j in itertools.combinations(group, 2):
      points = verified(matches(features[i], features[j]))
      if len(points):
        pairs.append(Pair(i, j, points))
  return pairs


def _points_and_descriptors(image):
  keypoints, descriptors = root_sift(image)
  points = np.float32([keypoint.pt for keypoint in keypoints]).reshape(-1, 2)
  return points, descriptors


def cached(path, photos):
  """Finds the pairs of photos, once.

  Args:
    path: pathlib.Path of an `.npz` file; read if these photos were its, else
      written.
    photos: list of Photo.

  Returns:
    list of Pair.
  """
  if path.exists():
    pairs = load(path, photos)
    if pairs is not None:
      return pairs
    logging.info("%s is of other photos: finding the pairs anew", path)
  save(path, find(photos), photos)
  return load(path, photos)


def save(path, pairs, photos):
  """Writes pairs of photos to an `.npz` file."""
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


def load(path, photos):
  """Returns the list of Pair that `save` wrote; None if of other photos."""
  names = ["digest", "photos", "numbers", "points"]
  arrays = base_arrays.read_npz(path, "pairs of photos", names)
  if arrays["digest"] != _digest(photos):
    return None
  points = np.split(arrays["points"], np.cumsum(arrays["numbers"])[:-1])
  return [
    Pair(int(first), int(second), some)
    for (first, second), some in zip(arrays["photos"], points, strict=False)
  ]


def _digest(photos):
  """Returns words that other photos, groups or sizes do not have."""
  rows = [(p.name, p.group, p.image.shape) for p in photos]
  return hashlib.sha256(repr(rows).encode()).hexdigest()
