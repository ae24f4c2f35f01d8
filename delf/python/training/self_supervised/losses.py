"""Losses of the compact model, on cells that correspond."""

from keras import ops

from delf.python.training.model import keypoints

# Two points of one pair nearer than this are not told apart, in pixels.
NEAR = 12.0

# Of the cosine similarities of descriptors.
LOCAL_TEMPERATURE = 0.06

# Of the pixels about a keypoint, in pixels.
KEYPOINT_SPREAD = 0.6

_NEVER = -1e4


def descriptor_loss(first, second, points_1, points_2, weights):
  """Contrasts each correspondence with every other one of the batch.

  The negative logarithm of the softmax over rows and over columns of the
  similarity matrix (InfoNCE, van den Oord et al. 2018, both ways). Points of
  the same pair that lie within NEAR pixels of each other are not negatives.

  Args:
    first: [P, K, C] float, descriptors in the first views, of length 1.
    second: [P, K, C] float, of the same points in the second views.
    points_1: [P, K, 2] float, where they are, in pixels.
    points_2: [P, K, 2] float.
    weights: [P, K] float, 0 for padding.

  Returns:
    Three tensors: the loss of each point [P, K]; the probability [P, K] that it
    is matched, both ways; whether it is the nearest neighbour both ways [P, K].
  """
  pairs, number, channels = first.shape
  total = pairs * number
  first = ops.reshape(first, [total, channels])
  second = ops.reshape(second, [total, channels])
  logits = ops.matmul(first, ops.transpose(second)) / LOCAL_TEMPERATURE
  ignored = _ignored(points_1, points_2, weights)
  logits = ops.where(ignored, _NEVER, logits)
  true = ops.diagonal(logits)
  rows = true - ops.logsumexp(logits, axis=1)
  columns = true - ops.logsumexp(logits, axis=0)
  nearest = (true >= ops.max(logits, axis=1)) & (
    true >= ops.max(logits, axis=0)
  )
  shape = [pairs, number]
  return (
    ops.reshape(-0.5 * (rows + columns), shape),
    ops.reshape(ops.exp(0.5 * (rows + columns)), shape),
    ops.reshape(ops.cast(nearest, "float32"), shape),
  )


def _ignored(points_1, points_2, weights):
  """Returns which entries of the similarity matrix say nothing, bool."""
  pairs, number = weights.shape
  total = pairs * number
  near = ops.zeros([pairs, number, number], dtype="bool")
  for points in (points_1, points_2):
    gap = ops.expand_dims(points, 2) - ops.expand_dims(points, 1)
    near = near | (ops.sum(ops.square(gap), axis=-1) < NEAR**2)
  near = ops.cast(near, "float32")
  same = ops.reshape(ops.eye(pairs), [pairs, 1, pairs, 1])
  near = ops.reshape(ops.expand_dims(near, 2) * same, [total, total]) * (
    1.0 - ops.eye(total)
  )
  padding = ops.reshape(weights, [total]) < 0.5
  either = ops.expand_dims(padding, 0) | ops.expand_dims(padding, 1)
  either = ops.cast(either, "float32") * (1.0 - ops.eye(total))
  return (near + either) > 0.5


def attention_loss(scores, target, weights):
  """Teaches attention how likely a cell is to be matched.

  With probability 1 - exp(-score), which for a softplus score is the logistic
  function, the cross entropy with `target`.

  Args:
    scores: [P, K] float, of softplus, in each view.
    target: [P, K] float, in [0, 1].
    weights: [P, K] float, 0 for padding.

  Returns:
    Scalar, the mean.
  """
  positive = -ops.log(1.0 - ops.exp(-scores) + 1e-6)
  entropy = target * positive + (1.0 - target) * scores
  return mean(entropy, weights)


def keypoint_loss(logits, offsets, weights):
  """Teaches each cell which of its pixels is the keypoint.

  Args:
    logits: [B, H, W, PIXELS] float.
    offsets: [B, H W, 2] float, (y, x) of the keypoint from the centre of its
      cell, in pixels, row by row.
    weights: [B, H W] float, how sure it is.

  Returns:
    Scalar, the mean cross entropy with pixels about the keypoint.
  """
  shape = ops.shape(logits)
  flat = ops.reshape(logits, [shape[0], shape[1] * shape[2], logits.shape[-1]])
  positions = ops.convert_to_tensor(keypoints.POSITIONS)
  away = ops.expand_dims(offsets, 2) - positions
  target = ops.softmax(
    -0.5 * ops.sum(ops.square(away), -1) / KEYPOINT_SPREAD**2, axis=-1
  )
  true = ops.sum(target * flat, axis=-1)
  return mean(ops.logsumexp(flat, axis=-1) - true, weights)


def mean(values, weights):
  """Returns the weighted mean of `values`, a scalar."""
  return ops.sum(values * weights) / (ops.sum(weights) + 1e-6)
