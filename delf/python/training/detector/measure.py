"""How well boxes are found: recall, precision and their average."""

import dataclasses

import numpy as np

from delf.python import boxes

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
