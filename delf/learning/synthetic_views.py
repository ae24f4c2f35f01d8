"""Random views of photos: homographies, pixels, and the points they share."""

import dataclasses

import cv2
import numpy as np

from delf.networks import heads

STRIDE = heads.STRIDE

# Natural logarithm of the strongest foreshortening.
_MOST_TILT = 1.4

# Smallest eigenvalue, of pixels in [0, 1], from which a corner counts.
_SHARP = 2e-5

# Standard deviation, in pixels, of the distance between corners of two views,
# and the largest distance: in a view without corners they are infinite.
_CORNER_SPREAD = 1.0
_FARTHEST = 1e3


@dataclasses.dataclass(frozen=True)
class Photo:
  """One decoded photo; photos of one pool are never each other's negatives."""

  name: str  # Path under the folder of its set.
  image: np.ndarray  # uint8 [H, W, 3], RGB.
  group: int  # Number of the group of photos that overlap.
  pool: int  # Number of the place, at least as wide as `group`.


@dataclasses.dataclass(frozen=True)
class Corners:
  """The best corner of each cell of a square view."""

  offsets: np.ndarray  # float32 [C, 2], (y, x) from the cell's centre, pixels.
  points: np.ndarray  # float64 [C, 2], the same as (x, y) in the view.
  sharp: np.ndarray  # float32 [C], 1 where it is a corner, 0 in a flat cell.
  # float32 [S, S], from each pixel to the nearest sharp corner that no
  # neighbour within 3 pixels exceeds.
  distance: np.ndarray


def project(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Map points [N, 2], (x, y), by a homography [3, 3]."""
  points = np.asarray(points, np.float64)
  mapped = points @ homography[:, :2].T + homography[:, 2]
  return mapped[:, :2] / mapped[:, 2:]


def random_view(
  rng: np.random.Generator, centre, side: int, zoom: float, strength: float
) -> np.ndarray:
  """Draw a homography [3, 3] from a photo's (x, y) to a square view's.

  Rotation, a tilt (one direction is squeezed, as by a change of viewpoint) and
  perspective, about a point of the photo.

  Args:
    rng: Source of randomness.
    centre: (x, y) of the photo that the middle of the view shows.
    side: Pixels of the view's side.
    zoom: Pixels of the view per pixel of the photo.
    strength: 0 for no more than a zoom, 1 for a strong change.
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
  """Render the view [side, side, 3] of a photo, mirrored beyond its edges."""
  zoom = np.sqrt(abs(np.linalg.det(homography[:2, :2])))
  if zoom < 0.6:
    image = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)
  return cv2.warpPerspective(
    image,
    homography,
    (side, side),
    flags=cv2.INTER_LINEAR,
    borderMode=cv2.BORDER_REFLECT_101,
  )


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
    cv2.randn(noise, 0, float(rng.uniform(2, 14)))
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
  if rng.random() < 0.35 * strength:
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))]
    image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], 1)
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
  points_1: np.ndarray, homographies, size, side: int
) -> tuple[np.ndarray, np.ndarray]:
  """Return the points, twice [N, 2], that are in a photo and two views of it.

  Args:
    points_1: [M, 2], (x, y) in the first view.
    homographies: Two [3, 3], from the photo to each view.
    size: (width, height) of the photo.
    side: Pixels of a view's side.
  """
  source = project(np.linalg.inv(homographies[0]), points_1)
  points_2 = project(homographies[1], source)
  good = inside(points_1, side) & inside(points_2, side)
  good &= ((source >= 0) & (source <= np.array(size) - 1)).all(1)
  return points_1[good], points_2[good]


def inside(points: np.ndarray, side: int) -> np.ndarray:
  """Tell which points [N, 2] lie in a view, bool [N]."""
  return ((points >= 0) & (points <= side - STRIDE / 2 - 0.01)).all(1)


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
  grey = cv2.GaussianBlur(grey, (0, 0), 1.0)
  strength = cv2.cornerMinEigenVal(grey, 3, ksize=3)
  best = strength >= cv2.dilate(strength, np.ones([7, 7], np.uint8))
  flat = np.uint8(~(best & (strength > _SHARP)))
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
  points = np.float64(centres + offsets)[:, ::-1]
  sharp = (cells.max(1) > _SHARP).astype(np.float32)
  return Corners(offsets.astype(np.float32), points, sharp, distance)


def _subpixel_peaks(values, pixels):
  """Return the tops of parabolas through three pixels, from the middle one.

  Pixels [C, 2] are whole (y, x) of local maxima; so are the results, within
  half a pixel.
  """
  y, x = pixels.astype(int).T
  values = np.pad(values, 1, mode="edge")
  tops = []
  for dy, dx in ((1, 0), (0, 1)):
    before = values[y + 1 - dy, x + 1 - dx]
    here, after = values[y + 1, x + 1], values[y + 1 + dy, x + 1 + dx]
    bend = np.maximum(2 * here - before - after, 1e-9)
    tops.append(np.clip((after - before) / (2 * bend), -0.5, 0.5))
  return np.stack(tops, -1)


def corner_agreement(
  first: Corners, second: Corners, homography: np.ndarray
) -> np.ndarray:
  """Weigh the first view's corners by how exactly the second confirms them.

  The homography maps the first view to the second. Weights [C] are in [0, 1], 0
  where the second view does not show the corner.
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
