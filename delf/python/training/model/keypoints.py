"""Keypoints inside the cells of a feature map of stride 8."""

import numpy as np
from keras import ops

STRIDE = 8

# Positions in a cell, row by row.
PIXELS = STRIDE * STRIDE


def _positions():
  """Returns float32 [PIXELS, 2]: (y, x) from the centre of the cell."""
  one = np.arange(STRIDE, dtype=np.float32) - STRIDE / 2
  return np.stack(np.meshgrid(one, one, indexing="ij"), -1).reshape(-1, 2)


POSITIONS = _positions()

# Whether two positions are the same or touch.
_TOUCH = (np.abs(POSITIONS[:, None] - POSITIONS[None]).max(-1) < 1.5).astype(
  np.float32
)


def offsets(logits):
  """Returns where the keypoint of each cell is, finer than a pixel.

  The best position and those around it, weighted by their probabilities.

  Args:
    logits: float [..., PIXELS].

  Returns:
    float32 [..., 2], (y, x) from the centre of the cell, in pixels.
  """
  logits = ops.cast(logits, "float32")
  logits = logits - ops.max(logits, axis=-1, keepdims=True)
  # Not `argmax`, of which Keras makes operations that no other format has.
  best = ops.cast(ops.equal(logits, 0.0), "float32")
  near = ops.minimum(ops.matmul(best, ops.convert_to_tensor(_TOUCH)), 1.0)
  weights = near * ops.exp(logits)
  weights = weights / ops.sum(weights, axis=-1, keepdims=True)
  return ops.matmul(weights, ops.convert_to_tensor(POSITIONS))


def sample(cells, moves):
  """Interpolates a map of cells at a point of each cell.

  Args:
    cells: float [B, H, W, C].
    moves: float [B, H, W, 2], (y, x) from the centre of each cell in pixels.

  Returns:
    float [B, H, W, C].
  """
  shape = ops.shape(cells)
  height, width = shape[1], shape[2]
  rows = ops.expand_dims(ops.cast(ops.arange(height), "float32"), 1)
  columns = ops.expand_dims(ops.cast(ops.arange(width), "float32"), 0)
  y = rows + moves[..., 0] / STRIDE
  x = columns + moves[..., 1] / STRIDE
  points = ops.reshape(ops.stack([y, x], -1), [shape[0], height * width, 2])
  return ops.reshape(interpolate(cells, points), shape)


def interpolate(cells, points):
  """Interpolates a map of cells linearly; its edge goes on outside.

  Args:
    cells: float [B, H, W, C].
    points: float [B, N, 2], (row, column) in cells.

  Returns:
    float [B, N, C], NaN at points that are.
  """
  shape = ops.shape(cells)
  height, width = shape[1], shape[2]
  last = ops.cast(ops.stack([height - 1, width - 1]), "float32")
  points = ops.clip(ops.cast(points, "float32"), 0.0, last)
  low = ops.minimum(ops.floor(points), ops.maximum(last - 1.0, 0.0))
  share = ops.expand_dims(ops.cast(points - low, cells.dtype), -1)
  most = ops.stack([height - 1, width - 1])
  # A point that is no number is any integer: it must not be read outside of
  # the map, and its share makes the result none.
  low = ops.minimum(ops.maximum(ops.cast(low, "int32"), 0), most)
  high = ops.minimum(low + 1, most)
  # One list for all images, which is faster to gather from than one each.
  flat = ops.reshape(cells, [-1, cells.shape[-1]])
  start = ops.expand_dims(ops.arange(shape[0]) * height * width, 1)

  def at(rows, columns):
    return ops.take(flat, start + rows * width + columns, axis=0)

  top = _blend(
    at(low[..., 0], low[..., 1]), at(low[..., 0], high[..., 1]), share[:, :, 1]
  )
  bottom = _blend(
    at(high[..., 0], low[..., 1]),
    at(high[..., 0], high[..., 1]),
    share[:, :, 1],
  )
  return _blend(top, bottom, share[:, :, 0])


def _blend(first, second, share):
  return first + (second - first) * share
