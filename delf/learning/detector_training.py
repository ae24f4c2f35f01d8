"""Training of the detector: views with boxes, learner, and measures."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import cv2
import keras
import numpy as np
import tensorflow as tf

from delf.base import boxes
from delf.learning import detector_network, loop

# Upper limit of the boxes of a view: the largest are kept.
MOST_BOXES = 8

_WARM_UP = 50
_BOX_WEIGHT = 0.5

# Shares of views with a reduced photo on a background, and with a part of one.
_SMALLER, _PART = 0.35, 0.45
# Largest factor of this reduction.
_MOST_SMALLER = 2.2
# Share of the side of a box that a view may cut off.
_CUT = 0.04
# Lower limits of a box's visible share, and of its visible sides.
_LEAST_SEEN, _LEAST_LENGTH = 0.6, 0.03
# Lower limits of the sides and the area of a pasted box, as shares of the view.
_LEAST_SIDE, _LEAST_AREA = 0.1, 0.015
# Upper limit of the change of its aspect ratio.
_MOST_STRETCH = 1.6
# Share of a box inside another one from which it is a part of it.
_PART_INSIDE = 0.9

# Overlap (intersection over union) from which a detection is right.
OVERLAP = 0.5

# Names in `compare`: the best box of a photo alone, all boxes, and baselines.
BEST, ALL = "best box", "all boxes"
WHOLE, MEDIAN = "whole image", "median box"

# Image uint8 [S, S, 3] and its boxes float32 [M, 4].
View = tuple[np.ndarray, np.ndarray]
# Boxes [N, 4] and scores [N] of a photo, best first.
Detections = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class BoxedPhoto:
  """A photo with its boxes."""

  image: np.ndarray  # uint8 [H, W, 3], RGB.
  boxes: np.ndarray  # float32 [N, 4], (ymin, xmin, ymax, xmax) in [0, 1].
  pool: int  # Number of the photo or of its place, for messages.


@dataclasses.dataclass(frozen=True)
class Options:
  """Content of a batch; with one seed, that of a step is always the same."""

  number: int = 8  # Views.
  pasted: float = 0.5  # Share of views with boxes pasted on a background.
  side: int = detector_network.SIDE  # Side of a view, in pixels.
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Batch:
  """Views of photos with known boxes."""

  images: np.ndarray  # uint8 [B, S, S, 3], RGB.
  boxes: np.ndarray  # float32 [B, MOST_BOXES, 4], padded with 0.
  pools: list[int]  # Of the photos.


class DetectorTrainer(loop.FileLearner):
  """Learner of a detector's head and, optionally, its backbone.

  Metrics of a step are those of `detector_network.loss`.
  """

  terms = ("score", "box", "overlap")
  kind = "a checkpoint of a detector"

  def __init__(
    self,
    detector: detector_network.Detector,
    rate: float,
    backbone_rate: float = 0.0,
    draw: Callable[[int], Batch] | None = None,
    path: str | os.PathLike | None = None,
  ):
    """Build the optimizers; the detector is trained in place.

    `rate` is the highest learning rate of the head (see `loop.cosine_rate`),
    `backbone_rate` that of the backbone, or 0 to freeze it.
    """
    super().__init__(draw, path)
    self.detector = detector
    parts = [(detector.head.trainable_variables, rate)]
    if backbone_rate:
      parts.append((detector.backbone_variables(), backbone_rate))
    self._parts = []
    for variables, highest in parts:
      optimizer = keras.optimizers.AdamW(
        highest, weight_decay=1e-3, global_clipnorm=5.0
      )
      optimizer.build(variables)
      self._parts.append((variables, optimizer, highest))
    self._train = tf.function(self._step, reduce_retracing=True)

  def variables(self) -> list:
    """Return the variables of the head and other trained ones."""
    variables = list(self.detector.head.variables)
    for trained, _, _ in self._parts[1:]:
      variables += trained
    return variables + [v for _, o, _ in self._parts for v in o.variables]

  def learn(self, batch: Batch, spent: float) -> dict[str, float]:
    """Make one step."""
    rate = loop.cosine_rate(spent, self.step, _WARM_UP)
    for _, optimizer, highest in self._parts:
      optimizer.learning_rate.assign(highest * rate)
    self.step += 1
    return self.metrics(self._train(batch.images, batch.boxes))

  def _step(self, images, boxes):
    with tf.GradientTape() as tape:
      logits, predicted = self.detector(images, training=True)
      cells = self.detector.head.cells
      terms = detector_network.loss(logits, predicted, cells, boxes)
      total = terms[0] + _BOX_WEIGHT * terms[1]
    gradients = tape.gradient(total, [part[0] for part in self._parts])
    for part, each in zip(self._parts, gradients, strict=True):
      variables, optimizer, _ = part
      optimizer.apply_gradients(zip(each, variables, strict=True))
    return tf.stack(terms)


def batch(known: Sequence[BoxedPhoto], options: Options, step: int) -> Batch:
  """Draw the batch of a step from at least one photo."""
  rng = np.random.default_rng((options.seed, step))
  images, boxes, pools = [], [], []
  for _ in range(options.number):
    photo = known[int(rng.integers(len(known)))]
    if len(photo.boxes) and rng.random() < options.pasted:
      view, seen = _pasted(rng, photo, known, options.side)
    else:
      view, seen = window(rng, photo.image, photo.boxes, options.side)
    areas = np.prod(seen[:, 2:] - seen[:, :2], axis=1)
    kept = seen[np.sort(np.argsort(-areas, kind="stable")[:MOST_BOXES])]
    images.append(view)
    boxes.append(np.pad(kept, ((0, MOST_BOXES - len(kept)), (0, 0))))
    pools.append(photo.pool)
  return Batch(np.stack(images), np.stack(boxes), pools)


def window(
  rng: np.random.Generator, image: np.ndarray, boxes: np.ndarray, side: int
) -> View:
  """Draw a view of a photo, of a part of it, or of it on a background."""
  frame = _frame(rng, boxes)
  view = _render_frame(rng, image, frame, side)
  return _mirrored_and_lit(rng, view, inside(boxes, frame))


def _mirrored_and_lit(rng, view, boxes):
  if rng.random() < 0.5:
    view, boxes = mirrored(view, boxes)
  return _relit(rng, view), boxes


def _frame(rng, boxes):
  """Draw the frame of a view, as shares of the photo, which it may exceed."""
  kind = rng.random()
  if kind < _SMALLER:
    extent = np.exp(rng.uniform(0.1, 1) * np.log(_MOST_SMALLER))
    extent = np.maximum(1, extent * np.exp(rng.uniform(-0.15, 0.15, 2)))
    origin = -rng.random(2) * (extent - 1)
    return np.concatenate([origin, origin + extent]).astype(np.float32)
  whole = np.array([0, 0, 1, 1], np.float32)
  if kind < _SMALLER + _PART and len(boxes):
    inner = boxes[rng.integers(len(boxes))]
    span = np.tile(inner[2:] - inner[:2], 2)
    inner = inner + _CUT * span * np.array([1, 1, -1, -1], np.float32)
    # Between the whole photo (0) and the box (1), each side independently.
    return whole + (inner - whole) * np.float32(rng.random(4) ** 1.5)
  return whole


def _render_frame(rng, image, frame, side):
  if frame.min() >= 0 and frame.max() <= 1:
    return _scaled(_crop(image, frame), side, side)
  view = background(rng, image, side)
  (place,) = inside(np.array([[0, 0, 1, 1]]), frame, least=0)
  top, left, bottom, right = np.round(place * side).astype(int)
  view[top:bottom, left:right] = _scaled(image, right - left, bottom - top)
  return view


def _scaled(image, width, height):
  return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _crop(image, box):
  """Return the pixels of a box, of 8 or more pixels to a side."""
  pixels = np.tile(image.shape[:2], 2)
  top, left, bottom, right = np.round(box * pixels).astype(int)
  return image[top : max(bottom, top + 8), left : max(right, left + 8)]


def inside(
  boxes: np.ndarray, frame: np.ndarray, least: float = _LEAST_SEEN
) -> np.ndarray:
  """Return boxes [N, 4] as shares of a frame [4], float32 [M, 4] in [0, 1].

  Boxes with a smaller share than `least` in the frame are left out.
  """
  boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
  origin, extent = np.tile(frame[:2], 2), np.tile(frame[2:] - frame[:2], 2)
  moved = (boxes - origin) / extent
  seen = np.clip(moved, 0, 1)
  sides, all_sides = (b[:, 2:] - b[:, :2] for b in (seen, moved))
  share = sides.prod(1) / np.maximum(all_sides.prod(1), 1e-9)
  return seen[(share >= least) & (sides.min(1) >= _LEAST_LENGTH)]


def mirrored(image: np.ndarray, boxes: np.ndarray) -> View:
  """Exchange left and right of an image and its boxes [N, 4]."""
  ymin, xmin, ymax, xmax = boxes.T
  return image[:, ::-1], np.stack([ymin, 1 - xmax, ymax, 1 - xmin], 1)


def _relit(rng, image):
  """Change contrast, gamma and tint."""
  values = np.arange(256) / 255
  gamma = np.exp(rng.normal(0, 0.25))
  gain, shift = np.exp(rng.normal(0, 0.15)), rng.normal(0, 0.05)
  tables = [
    np.clip(255 * (gain * tint * values**gamma + shift), 0, 255)
    for tint in np.exp(rng.normal(0, 0.05, 3))
  ]
  return cv2.LUT(image, np.stack(tables, -1).astype(np.uint8)[None])


def background(
  rng: np.random.Generator, image: np.ndarray, side: int
) -> np.ndarray:
  """Draw a background [side, side, 3]: plain, or the blurred image."""
  if rng.random() < 0.3:
    ends = rng.integers(0, 256, [2, 1, 3])
    slope = np.linspace(0, 1, side)[:, None]
    plain = (ends[0] * (1 - slope) + ends[1] * slope)[:, None]
    return np.tile(plain.astype(np.uint8), (1, side, 1))
  # A strong blur needs few pixels.
  few = side // 4
  small = _scaled(image, few, few)
  small = cv2.GaussianBlur(small, (0, 0), few * rng.uniform(0.012, 0.08))
  return cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)


def _pasted(rng, photo, known, side):
  """Paste the content of a box of a photo, and perhaps one of another photo."""
  things = [_thing(rng, photo)]
  other = known[rng.integers(len(known))]
  if len(other.boxes) and rng.random() < 0.25:
    things.append(_thing(rng, other))
  behind = known[rng.integers(len(known))].image
  return pasted(rng, things, behind, side)


def _thing(rng, photo):
  """Return the content of one of the boxes, and the other boxes in it."""
  chosen = rng.integers(len(photo.boxes))
  box = photo.boxes[chosen]
  parts = inside(np.delete(photo.boxes, chosen, 0), box, _PART_INSIDE)
  return _crop(photo.image, box), parts


def pasted(
  rng: np.random.Generator,
  things: Sequence[View],
  behind: np.ndarray,
  side: int,
) -> View:
  """Paste images at random places on a background, of a photo `behind`.

  Each has boxes of its parts. The view has the boxes of images and parts, but
  for those that a later image hides by a third or more.
  """
  image = background(rng, behind, side).astype(np.float32)
  boxes: list[np.ndarray] = []
  for thing, parts in things:
    height, width = _size(rng, thing.shape, side)
    top = rng.integers(0, side - height + 1)
    left = rng.integers(0, side - width + 1)
    box = np.array([top, left, top + height, left + width], np.float32) / side
    boxes = [each for each in boxes if _hidden(each, box) < 1 / 3]
    # An outline would hide parts.
    mask = _mask(rng, height, width, plain=bool(len(parts)))[..., None]
    area = image[top : top + height, left : left + width]
    area += mask * (_scaled(thing, width, height) - area)
    extent = np.tile(box[2:] - box[:2], 2)
    boxes += [box, *(np.tile(box[:2], 2) + extent * parts)]
  known = np.array(boxes, np.float32)
  return _mirrored_and_lit(rng, image.astype(np.uint8), known)


def _size(rng, shape, side):
  """Draw height and width, in pixels, of a pasted image."""
  for _ in range(20):
    stretch = np.exp(rng.uniform(-1, 1) * np.log(_MOST_STRETCH))
    area = np.exp(rng.uniform(np.log(_LEAST_AREA), np.log(0.95)))
    ratio = np.clip(stretch * shape[0] / shape[1], 0.25, 4)
    height, width = np.sqrt(area * ratio), np.sqrt(area / ratio)
    if _LEAST_SIDE <= height <= 1 and _LEAST_SIDE <= width <= 1:
      return round(side * height), round(side * width)
  return side // 2, side // 2


def _hidden(box, other):
  """Return the share of a box that another box covers."""
  common = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
  return np.prod(np.maximum(common, 0)) / np.prod(box[2:] - box[:2])


def _mask(rng, height, width, plain):
  """Draw a soft mask, float32 [H, W] in [0, 1], that touches all four sides.

  It is a rectangle (always if `plain`), an ellipse or the outline of a skyline.
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


@dataclasses.dataclass(frozen=True)
class Scores:
  """Measures of detections, of which each known box makes one right at most."""

  photos: int
  known: int  # Number of known boxes.
  recall: float  # Share of known boxes that a detection overlaps by OVERLAP.
  precision: float  # Share of right detections; 0 without detections.
  average_precision: float  # Mean precision over the recall.
  mean_overlap: float  # Mean of the best overlaps of known boxes.

  def overall(self) -> float:
    """Return the number by which detectors are compared."""
    return self.average_precision


def score(
  detections: Sequence[Detections],
  known: Sequence[np.ndarray],
  threshold: float = 0.0,
  most: int | None = None,
) -> Scores:
  """Compare the detections of photos with their known boxes [M, 4].

  Detections with scores below the threshold, and those after the first `most`
  of a photo, do not count.
  """
  rights, values, best, number = [], [], [], 0
  for (predicted, scores), known_boxes in zip(detections, known, strict=True):
    kept = np.flatnonzero(scores >= threshold)[:most]
    overlap = boxes.iou(predicted[kept], known_boxes)
    rights.append(_right(overlap))
    values.append(scores[kept])
    best += list(overlap.max(0, initial=0.0))
    number += len(known_boxes)
  right = np.concatenate(rights)
  hits = int(right.sum())
  return Scores(
    photos=len(known),
    known=number,
    recall=hits / max(1, number),
    precision=hits / max(1, len(right)),
    average_precision=_average_precision(right, np.concatenate(values), number),
    mean_overlap=float(np.mean(best)) if best else 0.0,
  )


def _right(overlap):
  """Return which detections are right, bool [N]: one for each known box."""
  free = np.ones(overlap.shape[1], bool)
  right = np.zeros(len(overlap), bool)
  for i, row in enumerate(np.asarray(overlap)):
    row = np.where(free, row, 0.0)
    if row.max(initial=0.0) >= OVERLAP:
      free[np.argmax(row)] = False
      right[i] = True
  return right


def _average_precision(right, values, number):
  hits = right[np.argsort(-values, kind="stable")]
  if not number or not hits.any():
    return 0.0
  precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
  # Precision at a recall is the highest one at this recall or above.
  best = np.maximum.accumulate(precision[::-1])[::-1]
  return float(best[hits].sum() / number)


def middle_box(
  number: int, size: Sequence[float] | np.ndarray = (1, 1)
) -> list[Detections]:
  """Return a box in the middle of each photo, by default the whole photo."""
  half = np.array(size, np.float32) / 2
  box = np.concatenate([0.5 - half, 0.5 + half])
  return [(box[None], np.ones(1, np.float32))] * number


def median_size(known: Sequence[np.ndarray]) -> np.ndarray:
  """Return the median height and width of the boxes [M, 4] of photos."""
  every = np.concatenate(known).astype(float)
  return np.median(every[:, 2:] - every[:, :2], axis=0).round(4)


def compare(
  find: Callable[[np.ndarray], Detections],
  known: Sequence[np.ndarray],
  held_out: Sequence[tuple[np.ndarray, np.ndarray]],
) -> dict[str, Scores]:
  """Measure a detector and two baselines: Scores by BEST, ALL, WHOLE, MEDIAN.

  `find` detects boxes in a photo, uint8 [H, W, 3]; `known` are the boxes [M, 4]
  of each training photo, for the median box; `held_out` are photos with boxes.
  """
  images, truth = zip(*held_out, strict=True)
  detections, number = [find(image) for image in images], len(images)
  return {
    BEST: score(detections, truth, most=1),
    ALL: score(detections, truth),
    WHOLE: score(middle_box(number), truth),
    MEDIAN: score(middle_box(number, median_size(known)), truth),
  }
