"""Recall, precision and average precision of boxes that a detector finds."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from delf.base import boxes

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
  """Compare found boxes with known ones.

  Args:
    found: Boxes and scores of each photo.
    known: [M, 4] of each photo, (ymin, xmin, ymax, xmax) in [0, 1].
    threshold: Found boxes of a lower score do not count.
    most: Found boxes of a photo that count; None for all.
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


def whole_image(number: int) -> list[Found]:
  """Return one box of the whole photo for each of `number` photos."""
  return [(np.float32([[0, 0, 1, 1]]), np.ones(1, np.float32))] * number


def middle_box(number: int, size) -> list[Found]:
  """Return one box of this height and width in the middle of each photo."""
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
  """Measure a detector and two baselines.

  Args:
    find: Returns boxes and scores of a photo, uint8 [H, W, 3].
    known: [M, 4] of each photo trained on, for the median box.
    held_out: Photo and boxes [M, 4] of each to measure with.

  Returns:
    Scores by BEST, ALL, WHOLE and MEDIAN.
  """
  truth = [each for _, each in held_out]
  found = [find(image) for image, _ in held_out]
  number = len(held_out)
  return {
    BEST: score(found, truth, most=1),
    ALL: score(found, truth),
    WHOLE: score(whole_image(number), truth),
    MEDIAN: score(middle_box(number, median_size(known)), truth),
  }
