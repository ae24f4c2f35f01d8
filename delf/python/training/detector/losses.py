"""What a detector of boxes is taught by: where scores are high, how boxes fit.

Scores learn how well the box of the cell fits (Li et al., "Generalized focal
loss", 2020), boxes the generalised overlap (Rezatofighi et al., CVPR 2019).
"""

import tensorflow as tf

from delf.python.training.detector import network

# Share of a box, around its middle, whose cells answer for it; cells further
# out, but inside of the larger share, answer for nothing.
_ANSWERS, _SPARED = 0.35, 0.7
# At least so far from the middle, in parts of the photo: a cell and a half.
_NEAREST = 0.05


def assign(cells, boxes):
  """Says which cells answer for which boxes.

  Args:
    cells: float32 [N, 2], centres (y, x) in [0, 1].
    boxes: float32 [B, M, 4]; a box of no area is none.

  Returns:
    answers: float32 [B, N * SIZES], 1 where a cell answers for a box of the
      size.
    spared: float32 [B, N * SIZES], 1 where it is neither right nor wrong.
    wanted: float32 [B, N * SIZES, 4], the box of each that answers; the
      smallest of several.
  """
  sides = boxes[..., 2:] - boxes[..., :2]
  large = sides[..., 0] * sides[..., 1] >= network.LARGE**2
  of_sizes = [
    _assign(cells, tf.where(which[..., None], boxes, 0.0))
    for which in (large, ~large)
  ]
  total = len(cells) * network.SIZES
  answers, spared, wanted = (
    tf.stack(each, 2) for each in zip(*of_sizes, strict=True)
  )
  return (
    tf.reshape(answers, [-1, total]),
    tf.reshape(spared, [-1, total]),
    tf.reshape(wanted, [-1, total, 4]),
  )


def _assign(cells, boxes):
  """Does for boxes of one size what `assign` does for all."""
  centre = (boxes[..., :2] + boxes[..., 2:]) / 2
  size = boxes[..., 2:] - boxes[..., :2]
  area = size[..., 0] * size[..., 1]
  away = tf.abs(cells[None, :, None] - centre[:, None])
  there = (area > 0)[:, None]

  def within(share):
    reach = tf.maximum(share * size / 2, _NEAREST)[:, None]
    return tf.reduce_all(away <= reach, -1) & there

  near = within(_ANSWERS)
  smallest = tf.argmin(tf.where(near, area[:, None], 9.0), -1)
  wanted = tf.gather(boxes, smallest, batch_dims=1)
  answers = tf.reduce_any(near, -1)
  spared = tf.reduce_any(within(_SPARED), -1) & ~answers
  return tf.cast(answers, tf.float32), tf.cast(spared, tf.float32), wanted


def overlaps(one, two):
  """Returns overlap and generalised overlap of boxes, pair by pair.

  Args:
    one: float32 [..., 4], (ymin, xmin, ymax, xmax).
    two: The same shape.

  Returns:
    Two float32 [...], in [0, 1] and in [-1, 1].
  """
  low = tf.maximum(one[..., :2], two[..., :2])
  high = tf.minimum(one[..., 2:], two[..., 2:])
  common = tf.reduce_prod(tf.nn.relu(high - low), -1)
  areas = [tf.reduce_prod(b[..., 2:] - b[..., :2], -1) for b in (one, two)]
  union = areas[0] + areas[1] - common
  low = tf.minimum(one[..., :2], two[..., :2])
  high = tf.maximum(one[..., 2:], two[..., 2:])
  hull = tf.reduce_prod(high - low, -1)
  overlap = tf.math.divide_no_nan(common, union)
  return overlap, overlap - tf.math.divide_no_nan(hull - union, hull)


def loss(logits, found, cells, boxes, weights):
  """Compares what was found with the boxes that are known.

  Args:
    logits: float32 [B, N * SIZES], of scores.
    found: float32 [B, N * SIZES, 4], boxes of the cells.
    cells: float32 [N, 2], their centres.
    boxes: float32 [B, M, 4], known boxes; those of no area fill up.
    weights: float32 [B], of the photos.

  Returns:
    Loss of scores, loss of boxes, and mean overlap of the boxes of cells that
    answer: three float32.
  """
  answers, spared, wanted = assign(cells, boxes)
  overlap, general = overlaps(found, wanted)
  number = tf.maximum(tf.reduce_sum(answers, -1), 1.0)
  target = tf.stop_gradient(answers * overlap)
  entropy = tf.nn.sigmoid_cross_entropy_with_logits(target, logits)
  # Sure and right counts little, so that many empty cells do not outweigh few.
  hard = tf.square(tf.stop_gradient(tf.sigmoid(logits)) - target)
  scores = tf.reduce_sum(hard * entropy * (1 - spared), -1) / number
  apart = tf.reduce_sum(tf.abs(found - wanted), -1)
  fit = tf.reduce_sum(answers * (1 - general + apart), -1) / number
  total = tf.maximum(tf.reduce_sum(weights), 1e-6)
  per_photo = tf.reduce_sum(answers * overlap, -1) / number

  def mean(values):
    return tf.reduce_sum(values * weights) / total

  return mean(scores), mean(fit), mean(per_photo)
