"""Views of photos with known boxes: windows, mirror images, light, pasting."""

import cv2
import numpy as np

# Share of views that show the photo smaller than it is, on a background, and of
# those that show a part of it.
_SMALLER, _PART = 0.35, 0.45
# A smaller photo is at most so many times smaller, to either side.
_MOST_SMALLER = 2.2
# Of the box that a window goes towards, the share of a side it may cut off.
_CUT = 0.04
# A box counts where this share of it is seen, and either side is so long.
_LEAST_SEEN, _LEAST_LENGTH = 0.6, 0.03
# A pasted thing has at least this share of either side, and of the area.
_LEAST_SIDE, _LEAST_AREA = 0.1, 0.015
# Its sides are drawn out at most so much against each other.
_MOST_STRETCH = 1.6


def window(rng, image, boxes, side):
  """Shows a photo, a part of it, or the photo and what might be around it.

  Args:
    rng: numpy.random.Generator.
    image: uint8 [H, W, 3].
    boxes: float32 [N, 4], (ymin, xmin, ymax, xmax) in [0, 1].
    side: Of the square that the window is scaled to, in pixels.

  Returns:
    uint8 [side, side, 3], and the boxes that it shows, float32 [M, 4].
  """
  frame = _frame(rng, boxes)
  view, boxes = _cut(rng, image, frame, side), inside(boxes, frame)
  if rng.random() < 0.5:
    view, boxes = mirrored(view, boxes)
  return lit(rng, view), boxes


def _frame(rng, boxes):
  """Returns what a view shows, in parts of the photo; it may lie around it."""
  kind = rng.random()
  if kind < _SMALLER:
    extent = np.exp(rng.uniform(0.1, 1) * np.log(_MOST_SMALLER))
    extent = np.maximum(1, extent * np.exp(rng.uniform(-0.15, 0.15, 2)))
    origin = -rng.random(2) * (extent - 1)
    return np.concatenate([origin, origin + extent]).astype(np.float32)
  whole = np.float32([0, 0, 1, 1])
  if kind < _SMALLER + _PART and len(boxes):
    inner = boxes[rng.integers(len(boxes))]
    span = np.tile(inner[2:] - inner[:2], 2)
    inner = inner + _CUT * span * np.float32([1, 1, -1, -1])
    # From the whole photo (0) towards the box (1), each side by itself.
    return whole + (inner - whole) * np.float32(rng.random(4) ** 1.5)
  return whole


def _cut(rng, image, frame, side):
  """Returns what a frame shows, uint8 [side, side, 3]."""
  if frame.min() < 0 or frame.max() > 1:
    view = background(rng, image, side)
    (place,) = inside(np.float32([[0, 0, 1, 1]]), frame, least=0)
    top, left, bottom, right = np.round(place * side).astype(int)
    size = (right - left, bottom - top)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    view[top:bottom, left:right] = small
    return view
  pixels = np.tile(image.shape[:2], 2)
  top, left, bottom, right = np.round(frame * pixels).astype(int)
  cut = image[top : max(bottom, top + 8), left : max(right, left + 8)]
  return cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)


def inside(boxes, frame, least=_LEAST_SEEN):
  """Returns boxes in parts of a frame.

  Args:
    boxes: float32 [N, 4], (ymin, xmin, ymax, xmax), in parts of the photo.
    frame: float32 [4], the same of the frame.
    least: Share of a box that lies in the frame, or it is left out.

  Returns:
    float32 [M, 4] in [0, 1].
  """
  boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
  origin, extent = np.tile(frame[:2], 2), np.tile(frame[2:] - frame[:2], 2)
  moved = (boxes - origin) / extent
  seen = np.clip(moved, 0, 1)
  sides, all_sides = (b[:, 2:] - b[:, :2] for b in (seen, moved))
  share = sides.prod(1) / np.maximum(all_sides.prod(1), 1e-9)
  return seen[(share >= least) & (sides.min(1) >= _LEAST_LENGTH)]


def mirrored(image, boxes):
  """Returns an image and its boxes [N, 4] with left and right exchanged."""
  ymin, xmin, ymax, xmax = boxes.T
  return image[:, ::-1], np.stack([ymin, 1 - xmax, ymax, 1 - xmin], 1)


def lit(rng, image):
  """Returns an image in another light: contrast, gamma, tint."""
  values = np.arange(256) / 255
  gamma = np.exp(rng.normal(0, 0.25))
  gain, shift = np.exp(rng.normal(0, 0.15)), rng.normal(0, 0.05)
  tables = [
    np.clip(255 * (gain * tint * values**gamma + shift), 0, 255)
    for tint in np.exp(rng.normal(0, 0.05, 3))
  ]
  return cv2.LUT(image, np.stack(tables, -1).astype(np.uint8)[None])


def background(rng, image, side):
  """Makes a background with nothing on it.

  Args:
    rng: numpy.random.Generator.
    image: uint8 [H, W, 3]: blurred, unless the background is plain.
    side: Of the square, in pixels.

  Returns:
    uint8 [side, side, 3].
  """
  if rng.random() < 0.3:
    ends = rng.integers(0, 256, [2, 1, 3])
    slope = np.linspace(0, 1, side)[:, None]
    plain = (ends[0] * (1 - slope) + ends[1] * slope)[:, None]
    return np.tile(plain.astype(np.uint8), (1, side, 1))
  # What is blurred much needs no more pixels.
  few = (side // 4, side // 4)
  small = cv2.resize(image, few, interpolation=cv2.INTER_AREA)
  small = cv2.GaussianBlur(small, (0, 0), few[0] * rng.uniform(0.012, 0.08))
  return cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)


def pasted(rng, things, behind, side):
  """Pastes things at known places on a background.

  Args:
    rng: numpy.random.Generator.
    things: list of (pixels uint8 [H, W, 3], boxes [N, 4] of what is in it, in
      parts of the thing), pasted one after the other.
    behind: uint8 [H, W, 3], what the background is made of.
    side: Of the square, in pixels.

  Returns:
    uint8 [side, side, 3], and boxes float32 [N, 4]; one that a later thing
    hides by more than a third is left out.
  """
  image = background(rng, behind, side).astype(np.float32)
  boxes = []
  for thing, parts in things:
    height, width = _size(rng, thing.shape, side)
    top = rng.integers(0, side - height + 1)
    left = rng.integers(0, side - width + 1)
    box = np.float32([top, left, top + height, left + width]) / side
    boxes = [each for each in boxes if _hidden(each, box) < 1 / 3]
    small = cv2.resize(thing, (width, height), interpolation=cv2.INTER_AREA)
    # Parts are at their places in all of a thing: outlines would hide them.
    mask = _mask(rng, height, width, plain=bool(len(parts)))[..., None]
    area = image[top : top + height, left : left + width]
    area += mask * (small - area)
    extent = np.tile(box[2:] - box[:2], 2)
    boxes += [box, *(np.tile(box[:2], 2) + extent * parts)]
  view, boxes = image.astype(np.uint8), np.float32(boxes)
  if rng.random() < 0.5:
    view, boxes = mirrored(view, boxes)
  return lit(rng, view), boxes


def _size(rng, shape, side):
  """Returns height and width, in pixels, of a thing that is pasted."""
  for _ in range(20):
    stretch = np.exp(rng.uniform(-1, 1) * np.log(_MOST_STRETCH))
    area = np.exp(rng.uniform(np.log(_LEAST_AREA), np.log(0.95)))
    ratio = np.clip(stretch * shape[0] / shape[1], 0.25, 4)
    height, width = np.sqrt(area * ratio), np.sqrt(area / ratio)
    if _LEAST_SIDE <= height <= 1 and _LEAST_SIDE <= width <= 1:
      return round(side * height), round(side * width)
  return side // 2, side // 2


def _hidden(box, other):
  """Returns the share of a box that another one covers."""
  common = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
  return np.prod(np.maximum(common, 0)) / np.prod(box[2:] - box[:2])


def _mask(rng, height, width, plain):
  """Returns the outline of a thing, float32 [H, W] in [0, 1], soft-edged.

  It reaches all four sides: a rectangle, if `plain`, an ellipse, or something
  like a house.
  """
  mask = np.zeros([height, width], np.uint8)
  kind = rng.random()
  if plain or kind < 0.4:
    mask[:] = 255
  elif kind < 0.6:
    centre = ((width - 1) / 2, (height - 1) / 2)
    cv2.ellipse(mask, (centre, (width, height), 0), 255, -1)
  else:
    number = rng.integers(3, 9)
    xs = np.concatenate([[0], np.sort(rng.uniform(0, 1, number)), [1]])
    ys = rng.uniform(0, 0.5, len(xs))
    ys[rng.integers(len(xs))] = 0
    outline = np.stack([xs * (width - 1), ys * (height - 1)], 1)
    ground = [[width - 1, height - 1], [0, height - 1]]
    outline = np.concatenate([outline, ground]).round().astype(np.int32)
    cv2.fillPoly(mask, [outline], 255)
  soft = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.4, 2))
  return soft.astype(np.float32) / 255
