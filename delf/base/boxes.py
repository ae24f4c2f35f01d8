"""Arithmetic of boxes in images: areas, overlaps, suppression, units, checks.

A box is (ymin, xmin, ymax, xmax), as shares of the image's height and width, in
[0, 1], unless a name says pixels. Areas and overlaps do not depend on the unit.
"""

import dataclasses

import numpy as np

from delf.base import errors

# How far rounding in float32 may carry a corner out of the image.
_ROUNDING = 1e-5

# No detector sees a box this many image sides away: coordinates beyond are in
# pixels.
_PIXELS = 10.0

_EXPECTED = "boxes of ymin, xmin, ymax, xmax in [0, 1]"

# Boxes that are compared with each other at once.
_BLOCK = 256


def areas(boxes):
  """Returns the areas of boxes, [N] float64; 0 where a corner is reversed."""
  boxes = np.asarray(boxes, np.float64).reshape([-1, 4])
  return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)


def iou(first, second):
  """Returns how much boxes overlap: what two share, over what both cover.

  Args:
    first: [N, 4].
    second: [M, 4], in the same unit.

  Returns:
    [N, M] float64 in [0, 1]; 0 where neither box has an area.
  """
  first = np.asarray(first, np.float64).reshape([-1, 4])
  second = np.asarray(second, np.float64).reshape([-1, 4])
  shared = np.ones([len(first), len(second)])
  for low, high in ((0, 2), (1, 3)):
    side = np.minimum(first[:, None, high], second[:, high])
    side -= np.maximum(first[:, None, low], second[:, low])
    shared *= np.maximum(side, 0)
  either = areas(first)[:, None] + areas(second) - shared
  return np.divide(shared, either, out=shared, where=either > 0)


def suppress(boxes, scores, most_overlap=0.5, most=None, classes=None):
  """Chooses boxes, the best first, that do not overlap a better one too much.

  Args:
    boxes: [N, 4].
    scores: [N].
    most_overlap: IoU up to which a box may overlap a better one that is kept.
    most: Largest number of boxes, or None.
    classes: [N], or None. Boxes of two classes may overlap.

  Returns:
    [K] int64, indices in descending order of score; of equal scores the earlier
    comes first.

  Raises:
    InputError: If the overlap is not in [0, 1], or a score is no number.
  """
  if not 0 <= most_overlap <= 1:
    raise errors.InputError("an overlap in [0, 1]", f"{most_overlap}")
  scores = np.asarray(scores)
  if np.isnan(scores).any():
    raise errors.InputError("numbers as scores", "NaN")
  boxes = np.asarray(boxes, np.float64).reshape([-1, 4])
  classes = np.zeros(len(scores)) if classes is None else np.asarray(classes)

  def clash(first, second):
    too_close = iou(boxes[first], boxes[second]) > most_overlap
    return too_close & (classes[first][:, None] == classes[second])

  left = np.argsort(-scores, kind="stable")
  kept, number = [left[:0]], 0
  while len(left) and (most is None or number < most):
    head, left = left[:_BLOCK], left[_BLOCK:]
    chosen = head[_best(clash(head, head))]
    left = left[~clash(left, chosen).any(axis=1)]
    kept.append(chosen)
    number += len(chosen)
  return np.concatenate(kept)[:most]


def _best(clash):
  """Returns a mask of those, best first, that clash with no better one kept."""
  kept = np.ones(len(clash), bool)
  for i in range(len(clash)):
    if kept[i]:
      kept[i + 1 :] &= ~clash[i, i + 1 :]
  return kept


def clip(boxes):
  """Returns the parts of boxes that are in the image, [N, 4] float32.

  A box beside the image has no area then.
  """
  return np.clip(np.asarray(boxes, np.float32).reshape([-1, 4]), 0, 1)


def to_pixels(boxes, height, width):
  """Returns boxes in pixels of an image, [N, 4] float64.

  Corners are edges of pixels: the whole image is (0, 0, height, width).
  """
  sides = np.array([height, width, height, width], np.float64)
  return np.asarray(boxes, np.float64).reshape([-1, 4]) * sides


def to_normalized(boxes, height, width):
  """Returns boxes in pixels, as of `to_pixels`, as shares: [N, 4] float32."""
  sides = np.array([height, width, height, width], np.float64)
  return (np.asarray(boxes, np.float64).reshape([-1, 4]) / sides).astype(
    np.float32
  )


def to_crops(boxes, height, width):
  """Returns the whole pixels that boxes cover, as Detect-to-Retrieve cuts them.

  Args:
    boxes: [N, 4] in [0, 1].
    height: Of the image, in pixels.
    width: Of the image, in pixels.

  Returns:
    [N, 4] int64 (ymin, xmin, ymax, xmax): the floor of the smaller corner and
    the ceiling of the larger one, which is not part of the crop.
  """
  pixels = to_pixels(boxes, height, width)
  low, high = np.floor(pixels[:, :2]), np.ceil(pixels[:, 2:])
  return np.concatenate([low, high], axis=1).astype(np.int64)


def check(boxes, path=None):
  """Checks boxes that a user gave.

  Args:
    boxes: [N, 4], (ymin, xmin, ymax, xmax).
    path: File that they are of, for the error.

  Returns:
    [N, 4] float32 in [0, 1].

  Raises:
    InputError: If they have another shape, are no numbers, are in pixels,
      reach out of the image or have no area; it says which box.
  """
  boxes = check_unit(boxes, path)
  beyond = (boxes < -_ROUNDING) | (boxes > 1 + _ROUNDING)
  refuse(beyond.any(axis=1), boxes, f"{_EXPECTED}, inside the image", path)
  inside = clip(boxes)
  refuse(areas(inside) <= 0, boxes, f"{_EXPECTED}, of some area", path)
  return inside


def check_unit(boxes, path=None):
  """Checks boxes as far as they may reach out of the image, or have no area.

  Args:
    boxes: [N, 4].
    path: File that they are of, for the error.

  Returns:
    [N, 4] float32, [0, 4] for none.

  Raises:
    InputError: If they have another shape, are no numbers or are in pixels.
  """
  boxes = np.asarray(boxes, np.float32)
  if not boxes.size:
    boxes = boxes.reshape([0, 4])
  if boxes.ndim != 2 or boxes.shape[1] != 4:
    raise errors.InputError(
      "boxes of shape [N, 4]", f"shape {list(boxes.shape)}", path
    )
  refuse(~np.isfinite(boxes).all(axis=1), boxes, _EXPECTED, path)
  far = np.abs(boxes).max(axis=1, initial=0) > _PIXELS
  refuse(far, boxes, f"{_EXPECTED}, not pixels", path)
  return boxes


def refuse(wrong, values, expected, path):
  """Raises InputError about the first value that is wrong, if there is one.

  Args:
    wrong: [N] bool.
    values: [N, ...] numbers.
    expected: Words for what each should be.
    path: File that they are of, or None.
  """
  if wrong.any():
    index = int(np.argmax(wrong))
    which = (
      f" as number {index + 1} of {len(values)}" if len(values) > 1 else ""
    )
    words = [f"{each:.6g}" for each in np.ravel(values[index])]
    raise errors.InputError(expected, f"{', '.join(words)}{which}", path)


@dataclasses.dataclass(frozen=True)
class Detections:
  """What a detector found in one image, in the detector's order.

  Attributes:
    boxes: [N, 4] float32 (ymin, xmin, ymax, xmax) in [0, 1], each of some area.
    scores: [N] float32.
    classes: [N] int32.
  """

  boxes: np.ndarray
  scores: np.ndarray
  classes: np.ndarray

  def __len__(self):
    """Returns the number of boxes."""
    return len(self.scores)

  def take(self, indices):
    """Returns the Detections of some indices, or of a mask."""
    return Detections(
      self.boxes[indices], self.scores[indices], self.classes[indices]
    )

  def at_least(self, threshold):
    """Returns those with at least a score, in order.

    Args:
      threshold: float; compared in float32, as scores are stored.
    """
    return self.take(self.scores >= np.float32(threshold))

  def apart(self, most_overlap):
    """Returns those left when each box has dropped weaker ones that it covers.

    Args:
      most_overlap: As in `boxes.suppress`; boxes of two classes may overlap.
    """
    kept = suppress(self.boxes, self.scores, most_overlap, classes=self.classes)
    return self.take(np.sort(kept))


def make_detections(found, scores, classes, path=None):
  """Returns what a detector gave for one image, with what can be no box gone.

  What reaches out of the image is cut off. Boxes of no area, which is what many
  detectors fill up with, and boxes beside the image are dropped.

  Args:
    found: [N, 4] boxes.
    scores: [N].
    classes: [N], integers or floats that hold them.
    path: Of the detector, for errors.

  Returns:
    Detections, in the order given.

  Raises:
    InputError: If shapes do not fit together, or there are boxes that are no
      numbers or in pixels, scores that are no numbers, or classes that are no
      integers.
  """
  found = check_unit(found, path)
  scores, classes = np.asarray(scores, np.float32), np.asarray(classes)
  if not scores.shape == classes.shape == found.shape[:1]:
    raise errors.InputError(
      f"a score and a class of each of {len(found)} boxes",
      f"shapes {list(scores.shape)} and {list(classes.shape)}",
      path,
    )
  refuse(~np.isfinite(scores), scores, "scores that are numbers", path)
  with np.errstate(invalid="ignore"):  # NaN, which is refused next.
    numbers = np.rint(classes).astype(np.int32)
  refuse(numbers != classes, classes, "whole numbers as classes", path)
  inside = clip(found)
  return Detections(inside, scores, numbers).take(areas(inside) > 0)
