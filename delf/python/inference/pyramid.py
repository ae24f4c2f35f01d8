"""Local features over a pyramid of scales, as NumPy code for other runtimes.

It gives what `training.model.multi_scale` and `selecting` give in TensorFlow:
the same cells in the same order, values equal to rounding.
"""

import typing

import cv2
import numpy as np

# Boxes that are compared at once with those that stay.
_BLOCK = 500


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
    Local, row by row.
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
  return Local(
    boxes=boxes / scale,
    features=features.reshape(-1, features.shape[-1])[cells],
    scales=np.full(len(cells), np.float32(1) / scale, np.float32),
    scores=scores[cells],
  )


def select(found, most, iou):
  """Returns the best features, best first; of equal ones the first ones.

  Args:
    found: list of Local, of one or more scales.
    most: The most to return.
    iou: Overlap of two boxes over which the weaker one goes; from 1.0 on, all
      stay.

  Returns:
    Local.
  """
  joined = Local(*map(np.concatenate, zip(*found, strict=True)))
  ranks = np.where(np.isnan(joined.scores), np.inf, joined.scores)
  if iou >= 1.0:
    kept = np.argsort(-ranks, kind="stable")[:most]
  else:
    kept = _suppress(joined.boxes, ranks, most, iou)
  return Local(*(values[kept] for values in joined))


def _suppress(boxes, ranks, most, iou):
  """Returns the positions that non-maximum suppression leaves, best first.

  A feature goes if it overlaps a better one that stays by more than `iou`
  (intersection over union).
  """
  order = np.argsort(-ranks, kind="stable")
  kept = np.zeros(0, int)
  for start in range(0, len(order), _BLOCK):
    block = order[start : start + _BLOCK]
    block = block[~(_overlaps(boxes[block], boxes[kept]) > iou).any(axis=1)]
    stays = _independent(_overlaps(boxes[block], boxes[block]) > iou)
    kept = np.concatenate([kept, block[stays]])
    if len(kept) >= most:
      break
  return kept[:most]


def _overlaps(boxes, others):
  """Returns [N, M] float32, intersection over union of each two boxes."""
  shared = np.float32(1)
  for side in (0, 1):
    least = np.maximum(boxes[:, np.newaxis, side], others[:, side])
    most = np.minimum(boxes[:, np.newaxis, side + 2], others[:, side + 2])
    shared = shared * np.maximum(most - least, 0)
  areas, other_areas = (
    (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, others)
  )
  return shared / (areas[:, np.newaxis] + other_areas - shared)


def _independent(conflicts):
  """Returns [N] bool: what stays if each takes away those after it.

  Args:
    conflicts: [N, N] bool, symmetric: whether two cannot both stay.
  """
  # What nothing undecided before it can take away stays, all such at once.
  earlier = np.tril(conflicts, -1)
  undecided = np.ones(len(conflicts), bool)
  stays = ~undecided
  while undecided.any():
    free = undecided & ~earlier[:, undecided].any(axis=1)
    stays |= free
    undecided &= ~(free | earlier[:, free].any(axis=1))
  return stays
