"""Random views of a photo: homographies and changes of its pixels."""

import cv2
import numpy as np

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
