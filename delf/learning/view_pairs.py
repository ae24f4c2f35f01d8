"""Training batches of pairs of views, of one photo or of two photos.

Correspondences of two photos are verified matches of RootSIFT features.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from delf.base import arrays as base_arrays
from delf.base import errors, files, progress
from delf.networks import heads

STRIDE = heads.STRIDE

# Natural logarithm of the strongest foreshortening.
_MOST_TILT = 1.4
# Smallest eigenvalue of a corner, for pixels in [0, 1].
_SHARP = 2e-5
# Standard deviation, in pixels, of the distance between corners of two views,
# and an upper limit: in a view without corners distances are infinite.
_CORNER_SPREAD = 1.0
_FARTHEST = 1e3
# Pairs of photos with fewer inliers are dropped.
MIN_INLIERS = 25
# Share of synthetic pairs with a strong change of viewpoint.
_STRONG = 0.4
# Weight of a corner that no other view confirms.
_UNCONFIRMED = 0.3
# Smaller views may lack the points that a pair needs.
_LEAST_SIDE, _LEAST_POINTS = 64, 16


@dataclasses.dataclass(frozen=True)
class Photo:
  """A decoded photo; photos of one pool are never each other's negatives."""

  name: str  # Path relative to the folder of the data set.
  image: np.ndarray  # uint8 [H, W, 3], RGB.
  group: int  # Number of the group of photos that overlap.
  pool: int  # Number of the place, at least as wide as `group`.


@dataclasses.dataclass(frozen=True)
class Corners:
  """The best corner of each cell of a square view."""

  offsets: np.ndarray  # float32 [C, 2], (y, x) from the cell's centre, pixels.
  points: np.ndarray  # float64 [C, 2], the same as (x, y) in the view.
  sharp: np.ndarray  # float32 [C], 1 for a corner, 0 in a flat cell.
  # float32 [S, S], distance of each pixel to the nearest sharp corner that is a
  # maximum within 3 pixels.
  distance: np.ndarray


def project(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Map points [N, 2], (x, y), by a homography [3, 3]."""
  points = np.asarray(points, np.float64)
  mapped = points @ homography[:, :2].T + homography[:, 2]
  return mapped[:, :2] / mapped[:, 2:]


def random_view(
  rng: np.random.Generator,
  centre: Any,
  side: int,
  zoom: float,
  strength: float,
) -> np.ndarray:
  """Draw a homography [3, 3] from a photo's (x, y) to a square view's.

  It combines rotation, tilt (as by a change of viewpoint) and perspective. The
  point `centre`, (x, y), of the photo is in the middle of the view; `zoom` is
  pixels of the view per pixel of the photo; strength 0 is a zoom only, 1 a
  strong change.
  """
  angle = np.deg2rad(rng.normal(0, 22)) * min(strength, 1)
  if rng.random() < 0.08 * min(strength, 1):
    angle = rng.uniform(-np.pi, np.pi)
  direction = rng.uniform(0, np.pi)
  tilt = np.exp(-min(strength * abs(rng.normal(0, 0.4)), _MOST_TILT))
  squeeze = _rotation(direction) @ np.diag([1, tilt]) @ _rotation(-direction)
  affine = np.eye(3)
  affine[:2, :2] = zoom / np.sqrt(tilt) * _rotation(angle) @ squeeze
  affine[:2, 2] = -affine[:2, :2] @ np.asarray(centre, np.float64)
  perspective = np.eye(3)
  limit = 0.35 * min(strength, 1.2) / side
  perspective[2, :2] = np.clip(rng.normal(0, limit / 2, 2), -limit, limit)
  shift = np.eye(3)
  shift[:2, 2] = (side - 1) / 2
  return shift @ perspective @ affine


def _rotation(angle):
  cosine, sine = np.cos(angle), np.sin(angle)
  return np.array([[cosine, -sine], [sine, cosine]])


def render(image: np.ndarray, homography: np.ndarray, side: int) -> np.ndarray:
  """Render a view [side, side, 3] of a photo, mirrored at its edges."""
  zoom = np.sqrt(abs(np.linalg.det(homography[:2, :2])))
  if zoom < 0.6:
    image = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)
  size, border = (side, side), cv2.BORDER_REFLECT_101
  return cv2.warpPerspective(image, homography, size, borderMode=border)


def change_pixels(
  rng: np.random.Generator, image: np.ndarray, strength: float = 1.0
) -> np.ndarray:
  """Change light, colour, sharpness and noise of a view, uint8 [H, W, 3].

  The strength is 0 for no change and 1 for a strong one.
  """
  table = np.arange(256, dtype=np.float32) / 255
  table = table ** np.exp(strength * rng.normal(0, 0.35))
  contrast = np.exp(strength * rng.normal(0, 0.25))
  colour = np.exp(strength * rng.normal(0, 0.1, 3))
  table = (table[:, None] - 0.5) * contrast * colour + 0.5
  table = table + strength * rng.normal(0, 0.08)
  table = np.clip(255 * table, 0, 255).astype(np.uint8)
  image = cv2.LUT(image, table.reshape(1, 256, 3))
  if rng.random() < 0.3 * strength:
    image = _shade(rng, image)
  if rng.random() < 0.4 * strength:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
    share = rng.uniform(0, 1)
    image = cv2.addWeighted(image, 1 - share, np.repeat(grey, 3, 2), share, 0)
  if rng.random() < 0.35 * strength:
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6))
  if rng.random() < 0.35 * strength:
    noise = np.empty(image.shape, np.int16)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    cv2.randn(noise, 0, float(rng.uniform(2, 14)))  # type: ignore[call-overload]
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
  if rng.random() < 0.35 * strength:
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
    image = np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], 1))
  return image


def _shade(rng, image):
  """Darken parts of an image smoothly, as a shadow does."""
  height, width = image.shape[:2]
  corner = rng.uniform(0.35, 1.0, (2, 2)).astype(np.float32)
  if rng.random() < 0.5:
    corner = rng.uniform(0.35, 1.0, (4, 4)).astype(np.float32)
  mask = cv2.resize(corner, (width, height), interpolation=cv2.INTER_CUBIC)
  mask = np.clip(mask, 0.2, 1.2)[:, :, None]
  return np.clip(image * mask, 0, 255).astype(np.uint8)


def correspondences(
  points_1: np.ndarray, homographies: Any, size: Any, side: int
) -> tuple[np.ndarray, np.ndarray]:
  """Return the points of a photo that two views show, [N, 2] in each view.

  `points_1` [M, 2] are (x, y) in the first view, homographies are two [3, 3]
  from the photo to each view, `size` is (width, height) of the photo.
  """
  source = project(np.linalg.inv(homographies[0]), points_1)
  points_2 = project(homographies[1], source)
  good = inside(points_1, side) & inside(points_2, side)
  good &= ((source >= 0) & (source <= np.array(size) - 1)).all(1)
  return points_1[good], points_2[good]


def inside(points: np.ndarray, side: int) -> np.ndarray:
  """Return whether points [N, 2] lie in a view, bool [N]."""
  return np.all((points >= 0) & (points <= side - STRIDE / 2 - 0.01), axis=1)


def cell_centres(side: int) -> np.ndarray:
  """Return the centres of the cells of a view, int [C, 2], (x, y)."""
  return np.mgrid[0:side:STRIDE, 0:side:STRIDE].reshape(2, -1).T[:, ::-1]


def nearest_cells(points: np.ndarray, side: int) -> np.ndarray:
  """Return the index of the cell nearest to each point [..., 2], (x, y).

  Cell (i, j) is centred on pixel (8 j, 8 i); cells are numbered row by row.
  """
  last = side // STRIDE - 1
  cells = np.floor(points / STRIDE + 0.5)
  cells = np.clip(cells, 0, last).astype(np.int32)
  return cells[..., 1] * (last + 1) + cells[..., 0]


def find_corners(image: np.ndarray) -> Corners:
  """Find the corners of a view uint8 [S, S, 3] (Shi and Tomasi, CVPR 1994)."""
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
  grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), 1.0))
  strength = cv2.cornerMinEigenVal(grey, 3, ksize=3)
  best = strength >= cv2.dilate(strength, np.ones([7, 7], np.uint8))
  flat = (~(best & (strength > _SHARP))).astype(np.uint8)
  distance = cv2.distanceTransform(flat, cv2.DIST_L2, 3)
  half, number = STRIDE // 2, len(strength) // STRIDE
  # Cell (i, j) is centred on pixel (8 i, 8 j).
  padded = np.pad(strength, ((half, 0), (half, 0)), constant_values=-1)
  cells = padded[: number * STRIDE, : number * STRIDE]
  cells = cells.reshape(number, STRIDE, number, STRIDE).transpose(0, 2, 1, 3)
  cells = cells.reshape(number * number, -1)
  centres = np.mgrid[:number, :number].reshape(2, -1).T * STRIDE
  offsets = heads.POSITIONS[cells.argmax(1)]
  offsets = offsets + _subpixel_peaks(padded, centres + half + offsets)
  points = (centres + offsets).astype(np.float64)[:, ::-1]
  sharp = (cells.max(1) > _SHARP).astype(np.float32)
  return Corners(offsets.astype(np.float32), points, sharp, distance)


def _subpixel_peaks(values, pixels):
  """Return the offsets of peaks of parabolas through three pixels.

  Pixels [C, 2] are integer (y, x) of local maxima; offsets [C, 2] from them are
  in [-0.5, 0.5].
  """
  y, x = pixels.astype(int).T
  values = np.pad(values, 1, mode="edge")
  peaks = []
  for dy, dx in ((1, 0), (0, 1)):
    before = values[y + 1 - dy, x + 1 - dx]
    here, after = values[y + 1, x + 1], values[y + 1 + dy, x + 1 + dx]
    bend = np.maximum(2 * here - before - after, 1e-9)
    peaks.append(np.clip((after - before) / (2 * bend), -0.5, 0.5))
  return np.stack(peaks, -1)


def corner_agreement(
  first: Corners, second: Corners, homography: np.ndarray
) -> np.ndarray:
  """Weight the first view's corners by their distance to the second view's.

  The homography maps the first view to the second. Weights [C] are in [0, 1], 0
  for corners outside of the second view.
  """
  side = len(second.distance)
  moved = project(homography, first.points)
  pixels = np.rint(np.nan_to_num(moved, nan=-1, posinf=-1, neginf=-1))
  visible = ((pixels >= 0) & (pixels < side)).all(1)
  pixels = np.clip(pixels, 0, side - 1).astype(int)
  distance = second.distance[pixels[:, 1], pixels[:, 0]]
  distance = np.minimum(distance, _FARTHEST)
  close = np.exp(-0.5 * np.square(distance / _CORNER_SPREAD))
  return (visible * first.sharp * close).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Pair:
  """Indices of two photos, and corresponding points."""

  first: int
  second: int
  points: np.ndarray  # float32 [N, 4], (x, y) in the first and in the second.


@dataclasses.dataclass(frozen=True)
class Options:
  """Content of a batch."""

  pairs: int = 8
  side: int = 192  # Pixels of a view, a multiple of the stride, at least 64.
  points: int = 192  # Correspondences of a pair.
  real: float = 0.3  # Share of pairs of two photos; others show one photo.
  seed: int | tuple = 0


@dataclasses.dataclass(frozen=True)
class Batch:
  """Pairs of views: all first views, then all second views."""

  images: np.ndarray  # uint8 [2 P, S, S, 3], RGB.
  points: np.ndarray  # float32 [2 P, K, 2], (x, y) of each point in its view.
  weights: np.ndarray  # float32 [P, K], 1 for points, 0 for padding.
  # float32 [2 P, C, 2], (y, x) of the keypoint of each cell from its centre, in
  # pixels; and [2 P, C], its weight in [0, 1].
  offsets: np.ndarray
  sureness: np.ndarray
  pools: np.ndarray  # int32 [P], numbers of the places.


@dataclasses.dataclass(frozen=True)
class _View:
  """One view of a pair; both views show its points [N, 2], (x, y)."""

  image: np.ndarray
  points: np.ndarray
  offsets: np.ndarray
  sureness: np.ndarray


class Source:
  """Draws batches of pairs of views."""

  def __init__(
    self, photos: Sequence[Photo], real_pairs: list[Pair], options: Options
  ):
    """Store photos, and pairs that index them.

    Raises InputError if the side is invalid, or if there are fewer places than
    pairs: a batch shows each place once.
    """
    if options.side < _LEAST_SIDE or options.side % STRIDE:
      raise errors.InputError(
        f"the side of a view must be {_LEAST_SIDE} or more, a multiple of "
        f"{STRIDE}, not {options.side}"
      )
    used = photos
    if real_pairs and options.real >= 1:
      used = [photos[pair.first] for pair in real_pairs]
    pools = len({photo.pool for photo in used})
    if not 1 <= options.pairs <= pools:
      raise errors.InputError(
        "the number of pairs must be from 1 to the number of places "
        f"({pools}), not {options.pairs}"
      )
    self.options, self._photos, self._pairs = options, photos, real_pairs
    self._rng = np.random.default_rng(options.seed)

  def batch(self) -> Batch:
    """Draw the next batch."""
    options = self.options
    pairs: dict[int, tuple[_View, _View]] = {}  # By place.
    while len(pairs) < options.pairs:
      real = self._pairs and self._rng.random() < options.real
      pair = self._real() if real else self._synthetic()
      if pair is not None:
        one, two, pool = pair
        pairs.setdefault(pool, (one, two))
    chosen = [self._choose(a.points, b.points) for a, b in pairs.values()]
    points_1, points_2, weights = zip(*chosen, strict=True)
    first, second = zip(*pairs.values(), strict=True)
    views = first + second
    return Batch(
      images=np.stack([view.image for view in views]),
      points=np.stack(points_1 + points_2).astype(np.float32),
      weights=np.stack(weights),
      offsets=np.stack([view.offsets for view in views]),
      sureness=np.stack([view.sureness for view in views]),
      pools=np.array(list(pairs), np.int32),
    )

  def _synthetic(self):
    """Draw two views of one photo; return the views and the pool, or None."""
    rng, side = self._rng, self.options.side
    photo = self._photos[int(rng.integers(len(self._photos)))]
    height, width = photo.image.shape[:2]
    size = np.array([width, height])
    middle = rng.uniform(0.3, 0.7, 2) * size
    zoom = side / min(height, width) * np.exp(rng.uniform(-0.2, 0.7))
    ratio = np.exp(rng.uniform(-0.45, 0.45))
    drift = rng.normal(0, 0.12, 2) * side / zoom
    strength = 1.4 if rng.random() < _STRONG else 0.7
    maps = [
      random_view(rng, middle - drift, side, zoom * ratio, 0.7),
      random_view(rng, middle + drift, side, zoom / ratio, strength),
    ]
    images = [render(photo.image, h, side) for h in maps]
    one, two = (find_corners(image) for image in images)
    points = correspondences(one.points, maps, size, side)
    if len(points[0]) < _LEAST_POINTS:
      return None
    across = maps[1] @ np.linalg.inv(maps[0])
    sureness = (
      corner_agreement(one, two, across),
      corner_agreement(two, one, np.linalg.inv(across)),
    )
    images = [change_pixels(rng, image, 0.8) for image in images]
    offsets = one.offsets, two.offsets
    views = map(_View, images, points, offsets, sureness)
    return (*views, photo.pool)

  def _real(self):
    """Draw views of two photos; return the views and the pool, or None."""
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
      homography = random_view(rng, middle, side, zoom, 0.7)
      images.append(render(image, homography, side))
      moved.append(project(homography, points[:, 2 * i : 2 * i + 2]))
    shared = inside(moved[0], side) & inside(moved[1], side)
    if shared.sum() < _LEAST_POINTS:
      return None
    views = []
    for image, where in zip(images, moved, strict=True):
      corners = find_corners(image)
      changed = change_pixels(rng, image, 0.5)
      sureness = _UNCONFIRMED * corners.sharp
      views.append(_View(changed, where[shared], corners.offsets, sureness))
    return (*views, self._photos[photos[0]].pool)

  def _choose(self, points_1, points_2):
    """Return K points of each view, one per cell, and their weights."""
    options = self.options
    order = self._rng.permutation(len(points_1))
    points_1, points_2 = points_1[order], points_2[order]
    for _ in range(2):
      cells = nearest_cells(points_1, options.side)
      _, first = np.unique(cells, return_index=True)
      points_1, points_2 = points_2[first], points_1[first]
    order = self._rng.permutation(len(points_1))[: options.points]
    number = len(order)
    result = np.zeros([2, options.points, 2])
    result[0, :number], result[1, :number] = points_1[order], points_2[order]
    weights = (np.arange(options.points) < number).astype(np.float32)
    return result[0], result[1], weights


def root_sift(
  image: np.ndarray, number: int = 2000, contrast: float = 0.02
) -> tuple[Sequence[cv2.KeyPoint], np.ndarray]:
  """Find RootSIFT features (Arandjelovic and Zisserman, CVPR 2012).

  Returns at most `number` cv2.KeyPoint, and descriptors float32 [N, 128].
  """
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  sift = cv2.SIFT.create(number, contrastThreshold=contrast)
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
  two = np.partition(distances, 1, axis=1)[:, :2]
  good = two[:, 0] < ratio**2 * two[:, 1]
  good &= distances.argmin(0)[nearest] == np.arange(len(nearest))
  rows = np.flatnonzero(good)
  return np.hstack([first[0][rows], second[0][nearest[rows]]])


def epipolar_inliers(
  points: np.ndarray, threshold: float = 1.0, seed: int = 0
) -> np.ndarray:
  """Return the points [N, 4] that agree with one fundamental matrix.

  The threshold of the distance to the epipolar line is in pixels. The result is
  empty with fewer than MIN_INLIERS inliers.
  """
  if len(points) < MIN_INLIERS:
    return points[:0]
  cv2.setRNGSeed(seed)
  try:
    _, mask = cv2.findFundamentalMat(
      points[:, :2], points[:, 2:], cv2.USAC_MAGSAC, threshold, 0.999, 2000
    )
  except cv2.error:
    mask = None  # OpenCV's assertions may fail on degenerate models.
  if mask is None or mask.sum() < MIN_INLIERS:
    return points[:0]
  return points[mask.ravel().astype(bool)]


def match_photos(
  images: Sequence[np.ndarray], candidates: Sequence[tuple[int, int]]
) -> list[Pair]:
  """Match candidate pairs of images with RootSIFT; return pairs that match."""

  @functools.lru_cache(maxsize=256)  # 1 MB each.
  def features(i):
    keypoints, descriptors = root_sift(images[i])
    points = np.array([keypoint.pt for keypoint in keypoints], np.float32)
    return points.reshape(-1, 2), descriptors

  def compare(candidate):
    first, second = map(int, candidate)
    points = _matches(features(first), features(second))
    return Pair(first, second, epipolar_inliers(points))

  with concurrent.futures.ThreadPoolExecutor() as pool:
    label, number = "matching photos of one place", len(candidates)
    compared = progress.track(pool.map(compare, candidates), label, number)
    return [pair for pair in compared if len(pair.points)]


def match_groups(photos: Sequence[Photo]) -> list[Pair]:
  """Match photos of the same group with RootSIFT; return pairs that match."""
  groups = collections.defaultdict(list)
  for i, photo in enumerate(photos):
    groups[photo.group].append(i)
  pairs = (itertools.combinations(group, 2) for group in groups.values())
  candidates = list(itertools.chain.from_iterable(pairs))
  return match_photos([photo.image for photo in photos], candidates)


def save(
  path: str | os.PathLike, pairs: list[Pair], photos: Sequence[Photo]
) -> None:
  """Write pairs of photos to an `.npz` file."""
  none = np.zeros([0, 4], np.float32)
  with files.atomic_path(path) as temporary:
    np.savez_compressed(
      temporary,
      digest=_digest(photos),
      photos=np.array([(p.first, p.second) for p in pairs]).reshape(-1, 2),
      numbers=np.array([len(p.points) for p in pairs], int),
      points=np.concatenate([none, *(p.points for p in pairs)]),
    )


def load(path: str | os.PathLike, photos: Sequence[Photo]) -> list[Pair] | None:
  """Read a file of `save`; return None if it is of other photos."""
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
  """Return a digest of the names, groups and sizes of photos."""
  rows = [(p.name, p.group, p.image.shape) for p in photos]
  return hashlib.sha256(repr(rows).encode()).hexdigest()
