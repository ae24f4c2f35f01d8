"""How well boxes are found: recall, precision and their average."""

import csv
import dataclasses
import hashlib
import math
import pathlib

import cv2
import keras
import numpy as np
import tensorflow as tf

from delf.base import arrays as base_arrays
from delf.base import boxes, errors, files
from delf.learning import compact_training as checkpoint
from delf.learning import detector_network

# Overlap (intersection over union) from which on a box is found.
OVERLAP = 0.5

# Names of what `compare` measures: the best box of a photo alone, all boxes,
# and the baselines.
BEST, ALL = "best box", "all boxes"
WHOLE, MEDIAN = "whole image", "median box"


@dataclasses.dataclass(frozen=True)
class Scores:
  """What was found of the boxes that are known.

  Attributes:
    photos: Number of photos.
    known: Number of boxes that are known.
    recall: Share of known boxes that a found one overlaps by OVERLAP or more.
    precision: Share of found boxes that overlap a known one so, each known one
      once; 0 where none was found.
    average_precision: Mean over the recall of the precision that it takes.
    mean_overlap: Over known boxes, of the best overlap of a found one.
  """

  photos: int
  known: int
  recall: float
  precision: float
  average_precision: float
  mean_overlap: float


def score(found, known, threshold=0.0, most=None):
  """Compares found boxes with known ones.

  Args:
    found: Of each photo (boxes [N, 4], scores [N]), best first.
    known: Of each photo [M, 4], boxes (ymin, xmin, ymax, xmax) in [0, 1].
    threshold: Found boxes of a lower score are left out.
    most: Found boxes of a photo that count, or None for all.

  Returns:
    Scores.
  """
  right, values, best, number = [], [], [], 0
  for (found_boxes, scores), wanted in zip(found, known, strict=True):
    kept = np.flatnonzero(scores >= threshold)[:most]
    overlap = boxes.iou(found_boxes[kept], wanted)
    right.append(_right(overlap))
    values.append(scores[kept])
    best += list(overlap.max(0, initial=0.0))
    number += len(wanted)
  right, values = np.concatenate(right), np.concatenate(values)
  hits = int(right.sum())
  return Scores(
    photos=len(known),
    known=number,
    recall=hits / max(1, number),
    precision=hits / max(1, len(right)),
    average_precision=_average(right, values, number),
    mean_overlap=float(np.mean(best)) if best else 0.0,
  )


def _right(overlap):
  """Returns which found boxes are right, bool [N]: each known one once."""
  free = np.ones(overlap.shape[1], bool)
  right = np.zeros(len(overlap), bool)
  for i, row in enumerate(overlap):
    row = np.where(free, row, 0.0)
    if row.max(initial=0.0) >= OVERLAP:
      free[row.argmax()] = False
      right[i] = True
  return right


def _average(right, values, number):
  """Returns the average precision of a ranking over all photos."""
  order = np.argsort(-values, kind="stable")
  hits = right[order]
  if not number or not hits.any():
    return 0.0
  precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
  # Precision at a recall is the best that this recall or a higher one has.
  best = np.maximum.accumulate(precision[::-1])[::-1]
  return float(best[hits].sum() / number)


def whole_image(number):
  """Returns a detector's findings of `number` photos: each whole."""
  return [(np.float32([[0, 0, 1, 1]]), np.ones(1, np.float32))] * number


def middle_box(number, size):
  """Returns findings of `number` photos: a box of one size in the middle.

  Args:
    number: Of photos.
    size: Its height and width, in parts of the photo.
  """
  half = np.float32(size) / 2
  box = np.concatenate([0.5 - half, 0.5 + half])
  return [(box[None], np.ones(1, np.float32))] * number


def median_size(known):
  """Returns the median height and width of boxes, float [2].

  Args:
    known: list of [M, 4].
  """
  every = np.concatenate(known).astype(float)
  return np.median(every[:, 2:] - every[:, :2], axis=0).round(4)


def compare(find, known, held_out, threshold=0.0):
  """Measures a detector and the two baselines.

  Args:
    find: Function from a photo, uint8 [H, W, 3], to boxes [N, 4] and scores
      [N], best first.
    known: Boxes that were learnt from, list of [M, 4].
    held_out: list of (photo, boxes [M, 4]).
    threshold: Found boxes of a lower score do not count.

  Returns:
    dict by BEST, ALL, WHOLE and MEDIAN of Scores.
  """
  wanted = [each for _, each in held_out]
  found = [find(image) for image, _ in held_out]
  number = len(held_out)
  return {
    BEST: score(found, wanted, threshold, most=1),
    ALL: score(found, wanted, threshold),
    WHOLE: score(whole_image(number), wanted),
    MEDIAN: score(middle_box(number, median_size(known)), wanted),
  }


# What `DetectorTrainer.learn` returns, by place.
TERMS = ("score", "box", "overlap")

_WARM_UP = 50
_BOX_WEIGHT = 0.5
_NUMBERS = ("step", "seconds")


@dataclasses.dataclass(frozen=True)
class Batch:
  """Photos with known boxes.

  Attributes:
    images: uint8 [B, S, S, 3], RGB.
    boxes: float32 [B, M, 4], (ymin, xmin, ymax, xmax) in [0, 1]; boxes of no
      area fill up.
    weights: float32 [B], how far each photo is believed.
    pools: list of B numbers, which photo each is.
  """

  images: np.ndarray
  boxes: np.ndarray
  weights: np.ndarray
  pools: list


class DetectorTrainer:
  """A detector that learns, its optimizers, and what it remembers.

  Attributes:
    detector: network.Detector.
    step: Steps made.
    seconds: Time spent, by whoever counts it.
  """

  def __init__(self, detector, rate, backbone_rate=0.0):
    """Builds all variables.

    Args:
      detector: network.Detector.
      rate: Highest learning rate of the head; it falls to a hundredth along a
        cosine.
      backbone_rate: The same of the backbone; 0 leaves it as it is.
    """
    self.detector = detector
    self.step, self.seconds = 0, 0.0
    # By part: variables, optimizer, highest rate.
    self._parts = [_part(detector.head.trainable_variables, rate)]
    if backbone_rate:
      variables = detector.backbone_variables()
      self._parts.append(_part(variables, backbone_rate))
    self._graph = tf.function(self._learn, reduce_retracing=True)

  def learn(self, batch, spent):
    """Makes one step.

    Args:
      batch: Batch.
      spent: Share of the budget that is over, in [0, 1].

    Returns:
      [3] float32, TERMS: losses of scores and of boxes, and the mean overlap.
    """
    rate = 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, spent)))
    rate *= min(1.0, (self.step + 1) / _WARM_UP)
    for _, optimizer, highest in self._parts:
      optimizer.learning_rate.assign(highest * rate)
    self.step += 1
    return self._graph(batch.images, batch.boxes, batch.weights).numpy()

  def _learn(self, images, boxes, weights):
    with tf.GradientTape() as tape:
      logits, found = self.detector(images, training=True)
      terms = detector_network.loss(
        logits, found, self.detector.head.cells, boxes, weights
      )
      total = terms[0] + _BOX_WEIGHT * terms[1]
    gradients = tape.gradient(total, [part[0] for part in self._parts])
    for (variables, optimizer, _), some in zip(
      self._parts, gradients, strict=True
    ):
      optimizer.apply_gradients(zip(some, variables, strict=True))
    return tf.stack(terms)

  def _variables(self):
    # A backbone that does not learn is as it was: it is not kept.
    every = list(self.detector.head.variables)
    if len(self._parts) > 1:
      every += self._parts[1][0]
    for _, optimizer, _ in self._parts:
      every += optimizer.variables
    return {f"{i:03d}/{v.path}": v for i, v in enumerate(every)}

  def save(self, path):
    """Writes head, optimizer and counters to an `.npz` file."""
    arrays = {name: v.numpy() for name, v in self._variables().items()}
    arrays["step"] = np.int64(self.step)
    arrays["seconds"] = np.float64(self.seconds)
    with files.atomic_path(path) as temporary:
      np.savez(temporary, **arrays)

  def resume(self, path):
    """Goes on from what `save` wrote, if it is there.

    Raises:
      InputError: If the file is of something else.
    """
    if not path.exists():
      return
    arrays = base_arrays.read_npz(path, "a checkpoint of a detector", _NUMBERS)
    checkpoint.assign(list(self._variables().values()), arrays, path)
    self.step = int(arrays["step"])
    self.seconds = float(arrays["seconds"])


def _part(variables, rate):
  """Returns variables, their optimizer and its highest rate."""
  optimizer = keras.optimizers.AdamW(
    rate, weight_decay=1e-3, global_clipnorm=5.0
  )
  optimizer.build(variables)
  return variables, optimizer, rate


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


# Boxes of a photo; of more, the largest are kept.
MOST_BOXES = 8
# How far a pasted view is believed: its box is exact.
_PASTED_WEIGHT = 1.0
# A box is a part of another one that covers this share of it.
_PART_INSIDE = 0.9


@dataclasses.dataclass(frozen=True)
class Options:
  """How views are drawn.

  Attributes:
    number: Views of a batch.
    pasted: Share of views that are pasted.
    side: Of a view, in pixels.
    seed: int; views of a step are always the same.
  """

  number: int = 8
  pasted: float = 0.5
  side: int = detector_network.SIDE
  seed: int = 0


def batch(known, options, step):
  """Draws the batch of a step.

  Args:
    known: list of known_boxes.Known, at least one.
    options: Options.
    step: int, number of the step.

  Returns:
    trainer.Batch.
  """
  rng = np.random.default_rng((options.seed, step))
  images, boxes, weights, pools = [], [], [], []
  for _ in range(options.number):
    one = known[rng.integers(len(known))]
    if len(one.boxes) and rng.random() < options.pasted:
      view, found, weight = _pasted(rng, one, known, options.side)
    else:
      view, found = window(rng, one.image, one.boxes, options.side)
      weight = one.weight
    images.append(view)
    boxes.append(padded(found))
    weights.append(weight)
    pools.append(one.pool)
  return Batch(np.stack(images), np.stack(boxes), np.float32(weights), pools)


def padded(boxes):
  """Returns boxes as float32 [MOST_BOXES, 4], the largest if there are more."""
  areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
  kept = boxes[np.sort(np.argsort(-areas, kind="stable")[:MOST_BOXES])]
  filled = np.zeros([MOST_BOXES, 4], np.float32)
  filled[: len(kept)] = kept
  return filled


def _pasted(rng, one, known, side):
  things = [_thing(rng, one)]
  other = known[rng.integers(len(known))]
  if len(other.boxes) and rng.random() < 0.25:
    things.append(_thing(rng, other))
  behind = known[rng.integers(len(known))].image
  view, boxes = pasted(rng, things, behind, side)
  return view, boxes, _PASTED_WEIGHT


def _thing(rng, one):
  """Returns what lies in one of the boxes of a photo, and its parts.

  Parts are the other boxes in it, float32 [N, 4], in parts of what is returned.
  """
  chosen = rng.integers(len(one.boxes))
  box = one.boxes[chosen]
  parts = inside(np.delete(one.boxes, chosen, 0), box, _PART_INSIDE)
  pixels = np.tile(one.image.shape[:2], 2)
  top, left, bottom, right = np.round(box * pixels).astype(int)
  cut = one.image[top : max(bottom, top + 8), left : max(right, left + 8)]
  return cut, parts


class Source:
  """The batches from a step on, one after the other; for `ahead.batches`."""

  def __init__(self, known, options, step):
    """Takes what `batch` takes; `step` is the first one."""
    self._known, self._options, self._step = known, options, step

  def batch(self):
    """Returns the batch of the next step."""
    self._step += 1
    return batch(self._known, self._options, self._step - 1)


# Boxes of photos of `train_pool` and `train_pool_more`.
DRAWN = pathlib.Path(__file__).parents[2] / "tools" / "drawn_boxes.csv"
_SIDES = ("ymin", "xmin", "ymax", "xmax")
_NONE = "none"


@dataclasses.dataclass(frozen=True)
class Known:
  """A photo with its boxes.

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


def drawn(photos, path=DRAWN):
  """Finds the photos whose boxes are drawn.

  Args:
    photos: list of photos.Photo.
    path: pathlib.Path of a CSV file with the columns photo (`key` of its name),
      kind, and ymin, xmin, ymax, xmax in [0, 1]. The kinds are "whole" and
      "part" of landmarks, "other" of other things (people, animals, vehicles),
      and "none", a line without a box, of a photo on which there is nothing to
      draw. Boxes of all kinds are taken.

  Returns:
    list of Known, in the order of the photos.

  Raises:
    InputError: If no photo has a line.
  """
  found = {}
  with path.open(newline="") as lines:
    for row in csv.DictReader(lines):
      boxes = found.setdefault(row["photo"], [])
      if row["kind"] != _NONE:
        boxes.append([float(row[side]) for side in _SIDES])
  known = []
  for photo in photos:
    boxes = found.get(key(photo.name))
    if boxes is not None:
      boxes = np.float32(boxes).reshape(-1, 4)
      known.append(Known(photo.image, boxes, 1.0, photo.pool))
  if not known:
    raise errors.InputError(
      "photos of which boxes are drawn", f"{len(photos)} others", path
    )
  return known


def key(name):
  """Returns what stands for the name of a photo in the file of drawn boxes."""
  return hashlib.sha256(name.encode()).hexdigest()[:12]
