"""Boxes of photos that are known without labels.

Two photographers of one place mostly had the same thing in mind: what their
photos have in common, and both have in the middle, is a landmark. Of other
photos, what the compact model looks at stands in for it.
"""

import collections
import dataclasses

import cv2
import numpy as np

from delf.python import boxes, progress

# Points that two photos have in common, of which a box is made.
_LEAST_POINTS = 40
# Share of points, of either end, that a box may leave out.
_OUTSIDE = 0.02
# Parts of the photo that a box goes beyond its outermost points.
_MARGIN = 0.02
# Centres of the two boxes of a pair are at most so far apart, in parts of the
# photo: in stitching pairs, which have a side in common, they are further.
_SAME_CENTRE = 0.2
# Smaller ones are details, larger ones say nothing.
_LEAST_AREA, _MOST_AREA = 0.04, 0.95
# Attention is compared with this share of its mean, in a grid of so many cells
# to either side, smoothed by so many cells of the map.
_OF_MEAN, _GRID, _SMOOTH = 0.9, 20, 1.5
# Photos are drawn out to squares of this side, in pixels, before attention is
# measured, so many at once.
_ATTENTION_SIDE, _BATCH = 256, 16
# How far boxes are believed.
_PAIR_WEIGHT, _ATTENTION_WEIGHT = 1.0, 0.5


@dataclasses.dataclass(frozen=True)
class Known:
  """A photo with its box.

  Attributes:
    image: uint8 [H, W, 3], RGB.
    boxes: float32 [N, 4], (ymin, xmin, ymax, xmax) in [0, 1].
    weight: How far it is believed, in [0, 1].
    pool: Number of the place.
  """

  image: np.ndarray
  boxes: np.ndarray
  weight: float
  pool: int


def of_points(points, shape):
  """Returns the box around most of some points.

  Args:
    points: [N, 2] float, (x, y) in pixels, N at least 1.
    shape: (height, width, ...) of the photo.

  Returns:
    [4] float32, (ymin, xmin, ymax, xmax) in [0, 1].
  """
  size = np.array([shape[0], shape[1]], np.float64)
  places = (np.asarray(points, np.float64)[:, ::-1] + 0.5) / size
  low, high = np.quantile(places, [_OUTSIDE, 1 - _OUTSIDE], axis=0)
  box = np.concatenate([low - _MARGIN, high + _MARGIN])
  return np.clip(box, 0, 1).astype(np.float32)


def of_pairs(photos, pairs):
  """Finds what photos of one place have in common.

  Args:
    photos: list of photos.Photo.
    pairs: list of real_pairs.Pair of them, verified by geometry.

  Returns:
    dict by index of a photo: [4] float32, the median box over its pairs.
    Photos without a pair that shows one thing in the middle are not in it.
  """
  found = collections.defaultdict(list)
  for pair in pairs:
    if len(pair.points) < _LEAST_POINTS:
      continue
    one = of_points(pair.points[:, :2], photos[pair.first].image.shape)
    two = of_points(pair.points[:, 2:], photos[pair.second].image.shape)
    shift = np.abs((one[:2] + one[2:]) - (two[:2] + two[2:])) / 2
    if shift.max() <= _SAME_CENTRE:
      found[pair.first].append(one)
      found[pair.second].append(two)
  medians = {i: np.median(each, axis=0) for i, each in found.items()}
  return {
    i: box.astype(np.float32)
    for i, box in medians.items()
    if _LEAST_AREA <= boxes.areas(box)[0] <= _MOST_AREA
  }


def of_attention(attention):
  """Returns the box that has much attention inside and little outside.

  It is the one with the largest sum of what is over the mean, or near it.

  Args:
    attention: float [H, W], of the cells of a photo, not negative.

  Returns:
    [4] float32; None where there is no attention, or the box says nothing.
  """
  mass = cv2.GaussianBlur(attention.astype(np.float32), (0, 0), _SMOOTH)
  mass = cv2.resize(mass, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
  mean = mass.mean()
  if mean <= 0:
    return None
  total = np.zeros([_GRID + 1, _GRID + 1])
  total[1:, 1:] = (mass - _OF_MEAN * mean).cumsum(0).cumsum(1)
  low, high = np.triu_indices(_GRID + 1, 1)
  rows = total[high] - total[low]
  sums = rows[:, high] - rows[:, low]
  row, column = np.unravel_index(sums.argmax(), sums.shape)
  box = [low[row], low[column], high[row], high[column]]
  box = np.float32(box) / _GRID
  return box if _LEAST_AREA <= boxes.areas(box)[0] <= _MOST_AREA else None


def attention_maps(model, images):
  """Yields how much the cells of photos are looked at.

  It is attention times the length of the descriptor: attention alone is the
  same in most of a photo.

  Args:
    model: delg_model.Delg of the compact backbone.
    images: list of uint8 [H, W, 3], RGB, of any size.

  Yields:
    float32 [32, 32] of each photo.
  """
  import tensorflow as tf

  @tf.function
  def look(squares):
    pixels = (tf.cast(squares, tf.float32) - 128) / 128
    cells, _ = model.backbone.cells_call(pixels, training=False)
    cells = tf.cast(cells, tf.float32)
    scores = model.attention(cells, training=False)[1]
    return tf.cast(scores[..., 0], tf.float32) * tf.norm(cells, axis=-1)

  for start in range(0, len(images), _BATCH):
    some = images[start : start + _BATCH]
    yield from look(squares(some, _ATTENTION_SIDE)).numpy()


def squares(images, side):
  """Returns images drawn out to squares, uint8 [N, side, side, 3]."""
  size = (side, side)
  return np.stack(
    [cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in images]
  )


def collect(photos, pairs, model):
  """Gives photos the boxes that can be known of them.

  Args:
    photos: list of photos.Photo.
    pairs: list of real_pairs.Pair of them.
    model: delg_model.Delg of the compact backbone, for photos without pairs.

  Returns:
    list of Known; photos without either kind of box are left out.
  """
  common = of_pairs(photos, pairs)
  known = [
    Known(photos[i].image, box[None], _PAIR_WEIGHT, photos[i].pool)
    for i, box in common.items()
  ]
  others = [photo for i, photo in enumerate(photos) if i not in common]
  maps = attention_maps(model, [photo.image for photo in others])
  track = progress.track(others, "boxes of photos")
  for photo, attention in zip(track, maps, strict=True):
    box = of_attention(attention)
    if box is not None:
      known.append(Known(photo.image, box[None], _ATTENTION_WEIGHT, photo.pool))
  return known
