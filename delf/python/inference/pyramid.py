"""Local features over a pyramid of scales, as NumPy code for other runtimes.

It gives what `training.model.multi_scale` and `selecting` give in TensorFlow:
the same cells in the same order, values equal to rounding.
"""

import typing

import cv2
import numpy as np

# Boxes that are compared at once with each other and with those that stay.
_BLOCK = 1000

# Of the bound on the distance of two boxes, which is rounded.
_SLACK = 1.001


class Candidates(typing.NamedTuple):
  """Local features of one scale, as positions on its feature map.

  Attributes:
    boxes: [N, 4] float32, receptive boxes (ymin, xmin, ymax, xmax) in pixels.
    scores: [N] float32, attention.
    cells: [N] int, position on the map, row by row.
    features: [Y * X, D] float32, the map, which is not copied.
    scale: float32, inverse of the image scale.
  """

  boxes: np.ndarray
  scores: np.ndarray
  cells: np.ndarray
  features: np.ndarray
  scale: np.float32


class Local(typing.NamedTuple):
  """Local features of an image.

  Attributes:
    boxes: [N, 4] float32, receptive boxes (ymin, xmin, ymax, xmax) in pixels.
    features: [N, D] float32.
    scales: [N] float32, inverse of the image scale.
    scores: [N] float32, attention.
  """

  boxes: np.ndarray
  features: np.ndarray
  scales: np.ndarray
  scores: np.ndarray


def normalised(image):
  """Returns float32 [H, W, 3], (value - 128) / 128, of an image in uint8."""
  return (image.astype(np.float32) - np.float32(128)) / np.float32(128)


def resize(pixels, scale):
  """Returns [1, h, w, 3] float32: pixels [H, W, 3] at a scale, bilinear.

  Sides are rounded half to even, in float32. Pixel centres are at halves and
  nothing is smoothed before, as `tf.image.resize` has it.
  """
  shape = np.array(pixels.shape[:2], np.float32)
  height, width = np.round(shape * np.float32(scale)).astype(int)
  if (height, width) == pixels.shape[:2]:
    return pixels[np.newaxis]
  size = (int(width), int(height))
  return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)[np.newaxis]


def candidates(maps, scale, threshold, receptive):
  """Returns the local features of one scale that pass the threshold.

  Args:
    maps: Attention, [1, y, x, 1] float32; features, [1, y, x, D] float32; and
      perhaps offsets, [1, y, x, 2] float32: (y, x) of each feature from the
      centre of its cell, in pixels at this scale.
    scale: Image scale.
    threshold: The least attention. What is not a number passes, so that it is
      seen.
    receptive: (size, stride, padding) of a cell, in pixels at this scale.

  Returns:
    Candidates, row by row.
  """
  attention, features, *offsets = maps
  size, stride, padding = np.float32(receptive)
  scale = np.float32(scale)
  scores = attention.reshape(-1)
  cells = np.flatnonzero(~(scores < np.float32(threshold)))
  corners = np.stack(np.divmod(cells, features.shape[2]), axis=1)
  least = stride * corners.astype(np.float32) - padding
  boxes = np.concatenate([least, least + (size - np.float32(1))], axis=1)
  if offsets:
    boxes += np.tile(offsets[0].reshape(-1, 2)[cells], [1, 2])
  return Candidates(
    boxes=boxes / scale,
    scores=scores[cells],
    cells=cells,
    features=features.reshape(-1, features.shape[-1]),
    scale=np.float32(1) / scale,
  )


def select(found, most, iou):
  """Returns the best features, best first; of equal ones the first ones.

  Args:
    found: list of Candidates, of one or more scales.
    most: The most to return.
    iou: Overlap of two boxes over which the weaker one goes; from 1.0 on, all
      stay.

  Returns:
    Local.
  """
  boxes = np.concatenate([each.boxes for each in found])
  scores = np.concatenate([each.scores for each in found])
  ranks = np.where(np.isnan(scores), np.inf, scores)
  order = np.argsort(-ranks, kind="stable")
  if iou >= 1.0:
    kept = order[:most]
  else:
    kept = order[_suppress(boxes[order], most, iou)]
  scales = [np.full(len(each.cells), each.scale) for each in found]
  return Local(
    boxes=boxes[kept],
    features=_features(found, kept),
    scales=np.concatenate(scales)[kept],
    scores=scores[kept],
  )


def _features(found, kept):
  """Returns [K, D] float32, the features at positions in all candidates."""
  values = np.empty([len(kept), found[0].features.shape[1]], np.float32)
  start = 0
  for each in found:
    end = start + len(each.cells)
    rows = np.flatnonzero((kept >= start) & (kept < end))
    values[rows] = each.features[each.cells[kept[rows] - start]]
    start = end
  return values


def _suppress(boxes, most, iou):
  """Returns the positions that non-maximum suppression leaves, at most `most`.

  A box goes if it overlaps one before it that stays by more than `iou`
  (intersection over union).

  Args:
    boxes: [N, 4] float32, best first.
    most: int.
    iou: float, less than 1.
  """
  kept = np.zeros(0, int)
  for start in range(0, len(boxes), _BLOCK):
    block = np.arange(start, min(start + _BLOCK, len(boxes)))
    gone, _ = _overlapping(boxes[block], boxes[kept], iou)
    block = np.delete(block, gone)
    pairs = _overlapping(boxes[block], boxes[block], iou)
    kept = np.concatenate([kept, block[_independent(len(block), *pairs)]])
    if len(kept) >= most:
      break
  return kept[:most]


def _overlapping(boxes, others, iou):
  """Returns positions of pairs that overlap by more than `iou`, two [P] int."""
  first, second = _near(boxes, others, iou)
  one, other = boxes[first], others[second]
  shared = np.float32(1)
  for side in (0, 1):
    least = np.maximum(one[:, side], other[:, side])
    most = np.minimum(one[:, side + 2], other[:, side + 2])
    shared = shared * np.maximum(most - least, 0)
  areas, other_areas = (
    (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (one, other)
  )
  # As TensorFlow rounds it, which tells at equality.
  joined = areas + other_areas - shared
  over = np.divide(shared, joined, out=np.zeros_like(joined), where=joined > 0)
  over = over > np.float32(iou)
  return first[over], second[over]


def _near(boxes, others, iou):
  """Returns positions of pairs with all that may overlap by more than `iou`.

  Along each axis, sides a <= b at a distance d overlap by at most a / b, and by
  (s - d) / (s + d) with s = (a + b) / 2. Where that is more than `iou`, d is
  less than s (1 - iou) / (1 + iou), and the other side less than a / iou.
  """
  centres, other_centres = (b[:, :2] + b[:, 2:] for b in (boxes, others))
  sides, other_sides = (
    (b[:, 2:] - b[:, :2]).max(axis=1, initial=0) for b in (boxes, others)
  )
  # Twice the distance, as centres are.
  reach = np.minimum(
    sides * ((1 - iou) / max(iou, 1e-9)), sides + other_sides.max(initial=0)
  )
  reach *= _SLACK
  order = np.argsort(other_centres[:, 0])
  rows = other_centres[order, 0]
  low = np.searchsorted(rows, centres[:, 0] - reach)
  counts = np.searchsorted(rows, centres[:, 0] + reach, "right") - low
  first = np.repeat(np.arange(len(boxes)), counts)
  ends = np.cumsum(counts)
  second = order[np.arange(len(first)) + np.repeat(low - ends + counts, counts)]
  across = np.abs(centres[first, 1] - other_centres[second, 1])
  near = np.flatnonzero(across <= reach[first])
  return first[near], second[near]


def _independent(number, first, second):
  """Returns [number] bool: what stays if each takes away those after it.

  Args:
    number: int.
    first: [P] int, of pairs that cannot both stay, each in both orders.
    second: [P] int, the other one.
  """
  earlier = second < first
  first, second = first[earlier], second[earlier]
  stays = np.zeros(number, bool)
  undecided = ~stays
  while undecided.any():
    # What nothing undecided before it can take away stays, all such at once.
    free = undecided.copy()
    free[first] = False
    stays |= free
    undecided &= ~free
    undecided[first[free[second]]] = False
    open_ = undecided[first] & undecided[second]
    first, second = first[open_], second[open_]
  return stays
