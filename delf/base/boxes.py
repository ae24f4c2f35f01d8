"""Boxes in images: areas, overlaps, suppression, units, checks.

A box is (ymin, xmin, ymax, xmax), as fractions of the image's height and width
in [0, 1], or in pixels where a name says so. Areas and overlaps take any unit.
"""

import dataclasses

import numpy as np
from numpy import typing as npt

from delf.base import errors, files

# Rounding in float32 may put a corner outside of the image by this.
_ROUNDING = 1e-5

# Beyond this many image sides, a coordinate must be in pixels.
_PIXELS = 10.0

# Boxes compared at once, best first.
_BLOCK = 256
_FORMAT = "boxes are ymin, xmin, ymax, xmax in [0, 1], not pixels"


def areas(boxes: npt.ArrayLike) -> np.ndarray:
  """Return the areas of boxes, [N] float64; 0 if corners are reversed."""
  boxes = np.asarray(boxes, np.float64).reshape([-1, 4])
  return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)


def iou(first: npt.ArrayLike, second: npt.ArrayLike) -> np.ndarray:
  """Return the intersection over union of boxes, [N, M]; 0 for empty boxes."""
  first = np.asarray(first, np.float64).reshape([-1, 4])
  second = np.asarray(second, np.float64).reshape([-1, 4])
  shared = np.ones([len(first), len(second)])
  for low, high in ((0, 2), (1, 3)):
    side = np.minimum(first[:, None, high], second[:, high])
    side -= np.maximum(first[:, None, low], second[:, low])
    shared *= np.maximum(side, 0)
  either = areas(first)[:, None] + areas(second) - shared
  return np.divide(shared, either, out=shared, where=either > 0)


def suppress(
  boxes: npt.ArrayLike,
  scores: npt.ArrayLike,
  most_overlap: float = 0.5,
  most: int | None = None,
  classes: npt.ArrayLike | None = None,
) -> np.ndarray:
  """Select at most `most` boxes by non-maximum suppression.

  Drops a box if its IoU with a better one of its class is over `most_overlap`.
  Returns [K] indices by descending score, ties in order.
  """
  if not 0 <= most_overlap <= 1:
    raise errors.InputError(f"an overlap must be in [0, 1], not {most_overlap}")
  scores = np.asarray(scores)
  if np.isnan(scores).any():
    raise errors.InputError("scores must be numbers, but some are NaN")
  boxes = np.asarray(boxes, np.float64).reshape([-1, 4])
  classes = np.zeros(len(scores)) if classes is None else np.asarray(classes)

  # `cv2.dnn.NMSBoxesBatched` selects other boxes where an overlap equals the
  # threshold (816 of 20 000 cases with duplicates) or a box has no area.
  def clash(first, second):
    too_close = iou(boxes[first], boxes[second]) > most_overlap
    return too_close & (classes[first][:, None] == classes[second])

  left = np.argsort(-scores, kind="stable")
  kept, number = [left[:0]], 0
  while len(left) and (most is None or number < most):
    head, left = left[:_BLOCK], left[_BLOCK:]
    clashes = clash(head, head)
    best = np.ones(len(head), bool)
    for i in range(len(head)):
      if best[i]:
        best[i + 1 :] &= ~clashes[i, i + 1 :]
    chosen = head[best]
    left = left[~clash(left, chosen).any(axis=1)]
    kept.append(chosen)
    number += len(chosen)
  return np.concatenate(kept)[:most]


def clip(boxes: npt.ArrayLike) -> np.ndarray:
  """Return the parts of boxes inside the image, [N, 4] float32."""
  return np.clip(np.asarray(boxes, np.float32).reshape([-1, 4]), 0, 1)


def to_pixels(boxes: npt.ArrayLike, height: int, width: int) -> np.ndarray:
  """Return boxes in pixels; the whole image is (0, 0, height, width)."""
  sides = np.array([height, width, height, width], np.float64)
  return np.asarray(boxes, np.float64).reshape([-1, 4]) * sides


def to_crops(boxes: npt.ArrayLike, height: int, width: int) -> np.ndarray:
  """Return boxes in pixels, rounded outwards, [N, 4] int64; ends exclusive."""
  pixels = to_pixels(boxes, height, width)
  low, high = np.floor(pixels[:, :2]), np.ceil(pixels[:, 2:])
  return np.concatenate([low, high], axis=1).astype(np.int64)


def check(boxes: npt.ArrayLike, path: files.Path | None = None) -> np.ndarray:
  """Return a user's boxes as [N, 4] float32 in [0, 1].

  Raises InputError about the first that is not finite, not inside or empty.
  """
  checked = _check_coordinates(boxes, path)
  beyond = ((checked < -_ROUNDING) | (checked > 1 + _ROUNDING)).any(axis=1)
  _check_none(beyond, "box", checked, "is not inside the image", path)
  inside = clip(checked)
  _check_none(areas(inside) <= 0, "box", checked, "has no area", path)
  return inside


def _check_coordinates(boxes, path):
  """Return [N, 4] finite float32 boxes, not necessarily inside the image."""
  boxes = np.asarray(boxes, np.float32)
  if not boxes.size:
    boxes = boxes.reshape([0, 4])
  if boxes.ndim != 2 or boxes.shape[1] != 4:
    problem = f"boxes must have shape [N, 4], not {list(boxes.shape)}"
    raise errors.InputError(problem, path=path)
  infinite = ~np.isfinite(boxes).all(axis=1)
  _check_none(infinite, "box", boxes, "is not finite", path)
  far = np.abs(boxes).max(axis=1, initial=0) > _PIXELS
  _check_none(far, "box", boxes, "is out of range", path)
  return boxes


def _check_none(wrong, name, values, problem, path):
  """Raise InputError about the first of the [N, ...] values that is wrong."""
  if wrong.any():
    index = int(np.argmax(wrong))
    text = ", ".join(f"{value:.6g}" for value in np.ravel(values[index]))
    if len(values) > 1:
      text += f" (number {index + 1} of {len(values)})"
    hint = f": {_FORMAT}" if name == "box" else ""
    raise errors.InputError(f"the {name} {text} {problem}{hint}", path=path)


@dataclasses.dataclass(frozen=True)
class Detections:
  """Detections in one image, in the detector's order."""

  boxes: np.ndarray  # [N, 4] float32 in [0, 1]; areas are positive.
  scores: np.ndarray  # [N] float32.
  classes: np.ndarray  # [N] int32.

  def __len__(self) -> int:
    return len(self.scores)

  def take(self, indices: np.ndarray) -> "Detections":
    """Select detections by indices or a mask."""
    return Detections(
      self.boxes[indices], self.scores[indices], self.classes[indices]
    )

  def at_least(self, threshold: float) -> "Detections":
    """Select by score, compared in float32, the type of stored scores."""
    return self.take(self.scores >= np.float32(threshold))

  def apart(self, most_overlap: float) -> "Detections":
    """Select by `suppress`, keeping the order."""
    kept = suppress(self.boxes, self.scores, most_overlap, classes=self.classes)
    return self.take(np.sort(kept))


def make_detections(
  boxes: npt.ArrayLike,
  scores: npt.ArrayLike,
  classes: npt.ArrayLike,
  path: files.Path | None = None,
) -> Detections:
  """Check a detector's output for one image, of [N, 4], [N] and [N] numbers.

  Boxes are clipped; empty ones, with which detectors pad, are dropped.
  """
  checked = _check_coordinates(boxes, path)
  scores, classes = np.asarray(scores, np.float32), np.asarray(classes)
  if not scores.shape == classes.shape == checked.shape[:1]:
    shapes = f"{list(scores.shape)} and {list(classes.shape)}"
    problem = f"each of {len(checked)} boxes needs a score and a class"
    raise errors.InputError(f"{problem}, not {shapes}", path=path)
  _check_none(~np.isfinite(scores), "score", scores, "is not finite", path)
  with np.errstate(invalid="ignore"):  # NaN is refused next.
    numbers = np.rint(classes).astype(np.int32)
  problem = "is not a whole number"
  _check_none(numbers != classes, "class", classes, problem, path)
  inside = clip(checked)
  return Detections(inside, scores, numbers).take(areas(inside) > 0)
