"""Training of the detector: views of photos with boxes, and the learner."""

import dataclasses
from collections.abc import Callable, Sequence

import cv2
import keras
import numpy as np
import tensorflow as tf

from delf.base import boxes
from delf.learning import detector_network, loop

# Boxes of a photo; of more, the largest are kept.
MOST_BOXES = 8

_WARM_UP = 50
_BOX_WEIGHT = 0.5

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
# A box is a part of another one that covers this share of it.
_PART_INSIDE = 0.9


@dataclasses.dataclass(frozen=True)
class BoxedPhoto:
  """A photo with its boxes."""

  image: np.ndarray  # uint8 [H, W, 3], RGB.
  boxes: np.ndarray  # float32 [N, 4], (ymin, xmin, ymax, xmax) in [0, 1].
  pool: int  # Number of the photo or of its place.


@dataclasses.dataclass(frozen=True)
class Options:
  """Content of a batch; with one seed, that of a step is always the same."""

  number: int = 8  # Views.
  pasted: float = 0.5  # Share of views that are pasted.
  side: int = detector_network.SIDE  # Of a view, in pixels.
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Batch:
  """Views of photos with known boxes."""

  images: np.ndarray  # uint8 [B, S, S, 3], RGB.
  boxes: np.ndarray  # float32 [B, MOST_BOXES, 4]; those of no area fill up.
  pools: list[int]  # Of the photos.


class DetectorTrainer(loop.FileLearner):
  """The learner of a detector: its head, and perhaps its backbone.

  Metrics of a step are the losses of scores and of boxes, and the mean overlap
  of the boxes of cells that answer for one.
  """

  terms = ("score", "box", "overlap")
  kind = "a checkpoint of a detector"

  def __init__(
    self,
    detector: detector_network.Detector,
    rate: float,
    backbone_rate: float = 0.0,
    draw: Callable[[int], Batch] | None = None,
    path=None,
  ):
    """Build all variables of a detector, which is trained in place.

    Args:
      rate: Highest learning rate of the head; it falls to a hundredth along a
        cosine.
      backbone_rate: The same of the backbone; 0 leaves it as it is.
      draw: See `FileLearner`; so `path`.
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
    """Return the variables of the head and of what else learns."""
    # A backbone that does not learn is as it was: it is not kept.
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
      logits, found = self.detector(images, training=True)
      terms = detector_network.loss(
        logits, found, self.detector.head.cells, boxes
      )
      total = terms[0] + _BOX_WEIGHT * terms[1]
    gradients = tape.gradient(total, [part[0] for part in self._parts])
    for (variables, optimizer, _), some in zip(
      self._parts, gradients, strict=True
    ):
      optimizer.apply_gradients(zip(some, variables, strict=True))
    return tf.stack(terms)


def batch(known: Sequence[BoxedPhoto], options: Options, step: int) -> Batch:
  """Draw the batch of a step from at least one photo."""
  rng = np.random.default_rng((options.seed, step))
  images, boxes, pools = [], [], []
  for _ in range(options.number):
    photo = known[rng.integers(len(known))]
    if len(photo.boxes) and rng.random() < options.pasted:
      view, seen = _pasted(rng, photo, known, options.side)
    else:
      view, seen = window(rng, photo.image, photo.boxes, options.side)
    images.append(view)
    boxes.append(_padded(seen))
    pools.append(photo.pool)
  return Batch(np.stack(images), np.stack(boxes), pools)


def _padded(boxes):
  """Return boxes as float32 [MOST_BOXES, 4], the largest if there are more."""
  areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
  kept = boxes[np.sort(np.argsort(-areas, kind="stable")[:MOST_BOXES])]
  padded = np.zeros([MOST_BOXES, 4], np.float32)
  padded[: len(kept)] = kept
  return padded


def window(rng, image: np.ndarray, boxes: np.ndarray, side: int):
  """Show a photo, a part of it, or the photo on a larger background.

  Returns a view uint8 [side, side, 3], and the boxes in it, float32 [M, 4].
  """
  frame = _frame(rng, boxes)
  view = _render_frame(rng, image, frame, side)
  return _mirrored_and_lit(rng, view, inside(boxes, frame))


def _mirrored_and_lit(rng, view, boxes):
  if rng.random() < 0.5:
    view, boxes = mirrored(view, boxes)
  return _relit(rng, view), boxes


def _frame(rng, boxes):
  """Draw what a view shows, in parts of the photo; it may exceed the photo."""
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


def _render_frame(rng, image, frame, side):
  if frame.min() >= 0 and frame.max() <= 1:
    return cv2.resize(
      _crop(image, frame), (side, side), interpolation=cv2.INTER_AREA
    )
  view = background(rng, image, side)
  (place,) = inside(np.float32([[0, 0, 1, 1]]), frame, least=0)
  top, left, bottom, right = np.round(place * side).astype(int)
  size = (right - left, bottom - top)
  small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
  view[top:bottom, left:right] = small
  return view


def _crop(image, box):
  """Return the pixels of a box, at least 8 to a side."""
  pixels = np.tile(image.shape[:2], 2)
  top, left, bottom, right = np.round(box * pixels).astype(int)
  return image[top : max(bottom, top + 8), left : max(right, left + 8)]


def inside(boxes, frame: np.ndarray, least: float = _LEAST_SEEN) -> np.ndarray:
  """Return boxes [N, 4] in parts of a frame [4], float32 [M, 4] in [0, 1].

  Boxes of which a smaller share than `least` lies in the frame are left out.
  """
  boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
  origin, extent = np.tile(frame[:2], 2), np.tile(frame[2:] - frame[:2], 2)
  moved = (boxes - origin) / extent
  seen = np.clip(moved, 0, 1)
  sides, all_sides = (b[:, 2:] - b[:, :2] for b in (seen, moved))
  share = sides.prod(1) / np.maximum(all_sides.prod(1), 1e-9)
  return seen[(share >= least) & (sides.min(1) >= _LEAST_LENGTH)]


def mirrored(image: np.ndarray, boxes: np.ndarray):
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


def background(rng, image: np.ndarray, side: int) -> np.ndarray:
  """Make an empty background [side, side, 3]: plain, or a blurred photo."""
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


def _pasted(rng, photo, known, side):
  """Paste the content of a box of a photo, and perhaps of another one."""
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


def pasted(rng, things: list, behind: np.ndarray, side: int):
  """Paste things at known places on a background, of a photo `behind`.

  Things are pixels uint8 [H, W, 3], pasted one after the other, and boxes
  [N, 4] in them, in parts of the thing.

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
  return _mirrored_and_lit(rng, image.astype(np.uint8), np.float32(boxes))


def _size(rng, shape, side):
  """Draw height and width, in pixels, of a thing that is pasted."""
  for _ in range(20):
    stretch = np.exp(rng.uniform(-1, 1) * np.log(_MOST_STRETCH))
    area = np.exp(rng.uniform(np.log(_LEAST_AREA), np.log(0.95)))
    ratio = np.clip(stretch * shape[0] / shape[1], 0.25, 4)
    height, width = np.sqrt(area * ratio), np.sqrt(area / ratio)
    if _LEAST_SIDE <= height <= 1 and _LEAST_SIDE <= width <= 1:
      return round(side * height), round(side * width)
  return side // 2, side // 2


def _hidden(box, other):
  """Return the share of a box that another one covers."""
  common = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
  return np.prod(np.maximum(common, 0)) / np.prod(box[2:] - box[:2])


def _mask(rng, height, width, plain):
  """Draw the soft outline of a thing, float32 [H, W] in [0, 1].

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


# Overlap (intersection over union) from which on a box is found.
OVERLAP = 0.5

# Names in `compare`: the best box of a photo alone, all boxes, and baselines.
BEST, ALL = "best box", "all boxes"
WHOLE, MEDIAN = "whole image", "median box"

# Boxes [N, 4] and scores [N] of a photo, best first.
Found = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Scores:
  """How well known boxes are found, each of them once."""

  photos: int
  known: int  # Boxes.
  recall: float  # Share of known boxes that one overlaps by OVERLAP or more.
  precision: float  # Share of found boxes that overlap so; 0 without any.
  average_precision: float  # Mean precision over the recall.
  mean_overlap: float  # Over known boxes, of the best overlap of a found one.

  def overall(self) -> float:
    """Return the one number that two detectors are compared by."""
    return self.average_precision


def score(
  found: Sequence[Found],
  known: Sequence[np.ndarray],
  threshold: float = 0.0,
  most: int | None = None,
) -> Scores:
  """Compare found boxes with known ones, [M, 4] of each photo.

  Found boxes of a lower score than the threshold do not count, nor those after
  the first `most` of a photo.
  """
  right, values, best, number = [], [], [], 0
  for (found_boxes, scores), known_boxes in zip(found, known, strict=True):
    kept = np.flatnonzero(scores >= threshold)[:most]
    overlap = boxes.iou(found_boxes[kept], known_boxes)
    right.append(_right(overlap))
    values.append(scores[kept])
    best += list(overlap.max(0, initial=0.0))
    number += len(known_boxes)
  right, values = np.concatenate(right), np.concatenate(values)
  hits = int(right.sum())
  return Scores(
    photos=len(known),
    known=number,
    recall=hits / max(1, number),
    precision=hits / max(1, len(right)),
    average_precision=_average_precision(right, values, number),
    mean_overlap=float(np.mean(best)) if best else 0.0,
  )


def _right(overlap):
  """Return which found boxes are right, bool [N]: each known one once."""
  free = np.ones(overlap.shape[1], bool)
  right = np.zeros(len(overlap), bool)
  for i, row in enumerate(overlap):
    row = np.where(free, row, 0.0)
    if row.max(initial=0.0) >= OVERLAP:
      free[row.argmax()] = False
      right[i] = True
  return right


def _average_precision(right, values, number):
  hits = right[np.argsort(-values, kind="stable")]
  if not number or not hits.any():
    return 0.0
  precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
  # Precision at a recall is the best that this recall or a higher one has.
  best = np.maximum.accumulate(precision[::-1])[::-1]
  return float(best[hits].sum() / number)


def middle_box(number: int, size=(1, 1)) -> list[Found]:
  """Return one box in the middle of each photo, by default all of the photo."""
  half = np.float32(size) / 2
  box = np.concatenate([0.5 - half, 0.5 + half])
  return [(box[None], np.ones(1, np.float32))] * number


def median_size(known: Sequence[np.ndarray]) -> np.ndarray:
  """Return the median height and width of the boxes [M, 4] of photos."""
  every = np.concatenate(known).astype(float)
  return np.median(every[:, 2:] - every[:, :2], axis=0).round(4)


def compare(
  find: Callable[[np.ndarray], Found],
  known: Sequence[np.ndarray],
  held_out: Sequence[tuple[np.ndarray, np.ndarray]],
) -> dict[str, Scores]:
  """Measure a detector and two baselines: Scores by BEST, ALL, WHOLE, MEDIAN.

  Args:
    find: Returns boxes and scores of a photo, uint8 [H, W, 3].
    known: [M, 4] of each photo trained on, for the median box.
    held_out: Photo and boxes [M, 4] of each to measure with.
  """
  truth = [each for _, each in held_out]
  found = [find(image) for image, _ in held_out]
  number = len(held_out)
  return {
    BEST: score(found, truth, most=1),
    ALL: score(found, truth),
    WHOLE: score(middle_box(number), truth),
    MEDIAN: score(middle_box(number, median_size(known)), truth),
  }
