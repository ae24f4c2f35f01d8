"""Points of views, and the cells of the feature map that they lie in."""

import csv
import dataclasses
import io
import json
import pathlib
import queue
import threading

import cv2
import numpy as np

from delf.base import errors, files, progress
from delf.networks import heads

# Natural logarithm of the strongest foreshortening.
_MOST_TILT = 1.4


def project(homography, points):
  """Maps points by a homography.

  Args:
    homography: [3, 3] float.
    points: [N, 2] float, (x, y).

  Returns:
    [N, 2] float64, (x, y).
  """
  points = np.asarray(points, np.float64)
  mapped = points @ homography[:, :2].T + homography[:, 2]
  return mapped[:, :2] / mapped[:, 2:]


def random_view(rng, centre, side, zoom, strength):
  """Draws a homography from a photo to a square view of it.

  Rotation, a tilt (one direction is squeezed, as by a change of viewpoint) and
  perspective, about a point of the photo.

  Args:
    rng: numpy.random.Generator.
    centre: (x, y) of the photo that the middle of the view shows.
    side: Pixels of the view's side.
    zoom: Pixels of the view per pixel of the photo.
    strength: 0 for no more than a zoom, 1 for a strong change.

  Returns:
    [3, 3] float64, from the photo's (x, y) to the view's.
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


def render(image, homography, side):
  """Returns the view uint8 [side, side, 3] of a photo; outside is mirrored."""
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


def change_pixels(rng, image, strength=1.0):
  """Changes light, colour, sharpness and noise of a view.

  Args:
    rng: numpy.random.Generator.
    image: uint8 [H, W, 3].
    strength: 0 for none, 1 for a strong change.

  Returns:
    uint8 [H, W, 3].
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
  """Darkens one side of an image smoothly, as a shadow does."""
  height, width = image.shape[:2]
  corner = rng.uniform(0.35, 1.0, (2, 2)).astype(np.float32)
  if rng.random() < 0.5:
    corner = rng.uniform(0.35, 1.0, (4, 4)).astype(np.float32)
  mask = cv2.resize(corner, (width, height), interpolation=cv2.INTER_CUBIC)
  mask = np.clip(mask, 0.2, 1.2)[:, :, None]
  return np.clip(image * mask, 0, 255).astype(np.uint8)


STRIDE = heads.STRIDE


def correspondences(points_1, homographies, size, side):
  """Returns points of two views of a photo that show the same.

  Args:
    points_1: [M, 2] float, (x, y) in the first view.
    homographies: Two [3, 3], from the photo to each view.
    size: (width, height) of the photo.
    side: Pixels of a view's side.

  Returns:
    Two [N, 2] float64, (x, y): those inside both views and the photo.
  """
  source = project(np.linalg.inv(homographies[0]), points_1)
  points_2 = project(homographies[1], source)
  good = inside(points_1, side) & inside(points_2, side)
  good &= ((source >= 0) & (source <= np.array(size) - 1)).all(1)
  return points_1[good], points_2[good]


def centres(side):
  """Returns the centres of the cells of a view, [C, 2] int, (x, y)."""
  return np.mgrid[0:side:STRIDE, 0:side:STRIDE].reshape(2, -1).T[:, ::-1]


def inside(points, side):
  """Returns which points [N, 2] lie in a view, bool [N]."""
  return ((points >= 0) & (points <= side - STRIDE / 2 - 0.01)).all(1)


def of(points, side):
  """Returns the index of the cell nearest to each point.

  Args:
    points: [..., 2] float, (x, y); cell (i, j) is centred on (8 j, 8 i).
    side: Pixels of a view's side.

  Returns:
    [...] int32.
  """
  last = side // STRIDE - 1
  cells = np.floor(points / STRIDE + 0.5)
  cells = np.clip(cells, 0, last).astype(np.int32)
  return cells[..., 1] * (last + 1) + cells[..., 0]


# Smallest eigenvalue, of pixels in [0, 1], from which a corner counts.
_SHARP = 2e-5

# How far corners of two views may be from each other, in pixels.
_APART = 1.0
_FAR = 1e3


@dataclasses.dataclass(frozen=True)
class Corners:
  """The best corner of each cell of a square view.

  Attributes:
    offsets: float32 [C, 2], (y, x) from the centre of the cell, in pixels.
    points: float64 [C, 2], the same as (x, y) in the view.
    sharp: float32 [C], 1 where it is a corner, 0 where the cell is flat.
    distance: float32 [S, S], from each pixel to the nearest sharp corner that
      no neighbour within 3 pixels exceeds.
  """

  offsets: np.ndarray
  points: np.ndarray
  sharp: np.ndarray
  distance: np.ndarray


def find(image):
  """Finds the Corners of a view (Shi and Tomasi, CVPR 1994).

  Args:
    image: uint8 [S, S, 3], S a multiple of the stride.
  """
  stride = heads.STRIDE
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
  grey = cv2.GaussianBlur(grey, (0, 0), 1.0)
  strength = cv2.cornerMinEigenVal(grey, 3, ksize=3)
  best = strength >= cv2.dilate(strength, np.ones([7, 7], np.uint8))
  free = np.uint8(~(best & (strength > _SHARP)))
  distance = cv2.distanceTransform(free, cv2.DIST_L2, 3)
  half, number = stride // 2, len(strength) // stride
  # Cell (i, j) is centred on pixel (8 i, 8 j).
  padded = np.pad(strength, ((half, 0), (half, 0)), constant_values=-1)
  cells = padded[: number * stride, : number * stride]
  cells = cells.reshape(number, stride, number, stride).transpose(0, 2, 1, 3)
  cells = cells.reshape(number * number, -1)
  centres = np.mgrid[:number, :number].reshape(2, -1).T * stride
  offsets = heads.POSITIONS[cells.argmax(1)]
  offsets = offsets + _between_pixels(padded, centres + half + offsets)
  points = np.float64(centres + offsets)[:, ::-1]
  sharp = (cells.max(1) > _SHARP).astype(np.float32)
  return Corners(offsets.astype(np.float32), points, sharp, distance)


def _between_pixels(values, places):
  """Returns where a parabola through three pixels has its top.

  Args:
    values: [H, W] float.
    places: [C, 2] float, whole (y, x) of the pixels.

  Returns:
    float [C, 2], (y, x) from each place, within half a pixel.
  """
  y, x = places.astype(int).T
  values = np.pad(values, 1, mode="edge")
  tops = []
  for dy, dx in ((1, 0), (0, 1)):
    before = values[y + 1 - dy, x + 1 - dx]
    here, after = values[y + 1, x + 1], values[y + 1 + dy, x + 1 + dx]
    bend = np.maximum(2 * here - before - after, 1e-9)
    tops.append(np.clip((after - before) / (2 * bend), -0.5, 0.5))
  return np.stack(tops, -1)


def agreement(first, second, homography):
  """Says how sure corners are, by another view of the same.

  Args:
    first: Corners.
    second: Corners of the other view.
    homography: [3, 3], from the first view to the second.

  Returns:
    float32 [C], in [0, 1]; 0 where the other view does not show it.
  """
  side = len(second.distance)
  there = project(homography, first.points)
  pixels = np.rint(np.nan_to_num(there, nan=-1, posinf=-1, neginf=-1))
  inside = ((pixels >= 0) & (pixels < side)).all(1)
  pixels = np.clip(pixels, 0, side - 1).astype(int)
  distance = second.distance[pixels[:, 1], pixels[:, 0]]
  # Of a view without corners, distances are the largest numbers that there are.
  distance = np.minimum(distance, _FAR)
  close = np.exp(-0.5 * np.square(distance / _APART))
  return (inside * first.sharp * close).astype(np.float32)


def batches(source, ahead=4):
  """Yields batches that a thread makes ahead of time.

  Args:
    source: data.Source.
    ahead: So many wait at most.

  Yields:
    data.Batch, for ever; an error in the thread is raised here.
  """
  ready = queue.Queue(ahead)
  stopped = threading.Event()

  def work():
    cv2.setNumThreads(1)
    while not stopped.is_set():
      try:
        item = source.batch()
      except Exception as error:  # noqa: BLE001 - handed to the consumer
        item = error
      ready.put(item)
      if isinstance(item, Exception):
        return

  threading.Thread(target=work, daemon=True).start()
  try:
    while True:
      item = ready.get()
      if isinstance(item, Exception):
        raise item
      yield item
  finally:
    stopped.set()
    while not ready.empty():
      ready.get()


# Of the groups and of the single photos, one in so many is for validation.
HELD_OUT = 10


@dataclasses.dataclass(frozen=True)
class Photo:
  """One decoded photo.

  Attributes:
    name: Path under the folder of its set.
    image: uint8 [H, W, 3], RGB.
    group: Number of the group of photos that overlap.
    pool: Number of the place; photos of one pool are never each other's
      negatives. It is at least as wide as `group`.
  """

  name: str
  image: np.ndarray
  group: int
  pool: int


def load(folders):
  """Reads photo sets.

  Args:
    folders: Folders that hold `train.csv` (columns id, url, landmark_id; url is
      the path under `images/`) and perhaps `groups.json`, whose `groups` may
      give the `pool` of a group by name.

  Returns:
    list of Photo.

  Raises:
    InputError: If a photo cannot be decoded, or if a list is not as it should
      be.
    FileNotFoundError: If a folder has no `train.csv`.
  """
  photos, groups, pools = [], {}, {}
  for folder in map(pathlib.Path, folders):
    pool_of = _pools(folder)
    rows = _rows(folder / "train.csv")
    for row in progress.track(rows, f"reading {folder.name}"):
      path = folder / "images" / row["url"]
      group = groups.setdefault((folder, row["landmark_id"]), len(groups))
      pool = pool_of.get(row["landmark_id"], row["landmark_id"])
      pool = pools.setdefault((folder, pool), len(pools))
      photos.append(Photo(row["url"], _read(path), group, pool))
  return photos


def split(photos):
  """Splits photos into those to train on and those to validate with.

  Whole pools go to one side.

  Args:
    photos: list of Photo.

  Returns:
    Two lists of Photo, for training and validation.
  """
  held_out = [photo for photo in photos if photo.pool % HELD_OUT == 7]
  training = [photo for photo in photos if photo.pool % HELD_OUT != 7]
  return training, held_out


def _rows(path):
  """Returns the rows of a `train.csv`, each a dict by column."""
  try:
    text = files.read_bytes(path).decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
  except (UnicodeDecodeError, csv.Error) as error:
    raise errors.InputError("a CSV file", str(error), path) from None
  for number, row in enumerate(rows, start=1):
    for column in ("url", "landmark_id"):
      if not row.get(column):
        raise errors.InputError(
          f"a column {column}", f"none in row {number}", path
        )
  return rows


def _pools(folder):
  """Returns the pool's name by landmark_id, of what `groups.json` knows."""
  path = folder / "groups.json"
  if not path.exists():
    return {}
  try:
    groups = json.loads(path.read_text(encoding="utf-8"))["groups"].values()
    return {
      str(group["landmark_id"]): group["pool"]
      for group in groups
      if "pool" in group
    }
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise errors.InputError(
      "groups that have a landmark_id each", f"others ({error})", path
    ) from None


def _read(path):
  image = cv2.imread(str(path), cv2.IMREAD_COLOR)
  if image is None:
    raise errors.InputError("an image", "a file that does not decode", path)
  return np.ascontiguousarray(image[:, :, ::-1])
