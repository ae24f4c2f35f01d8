"""Heads of local features: attention, autoencoder, keypoints inside cells."""

import keras
import numpy as np
from keras import layers, ops

from delf.python.normalization_layers import normalization

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


# Weight of the L2 regularisation of the attention's convolutions.
_DECAY = 1e-4

# Channels of the attention's first convolution: section 3.3 of DELF.
_ATTENTION_CHANNELS = 512
# From here on the softplus of a float32 is the number itself.
_SAME = 20.0


class AttentionModel(keras.Model):
  """Scores of local features, and the mean feature that they weight."""

  foldable = (("conv1", "bn_conv1"),)

  def __init__(self, kernel_size=1, decay=_DECAY, name="attention"):
    """Creates the model; `decay` is of the kernels' L2 regularisation."""
    super().__init__(name=name)
    self.conv1 = layers.Conv2D(
      _ATTENTION_CHANNELS,
      kernel_size,
      padding="same",
      kernel_regularizer=keras.regularizers.L2(decay),
      name="attn_conv1",
    )
    self.bn_conv1 = normalization.BatchNormalization(axis=3, name="bn_conv1")
    self.conv2 = layers.Conv2D(
      1,
      kernel_size,
      padding="same",
      kernel_regularizer=keras.regularizers.L2(decay),
      name="attn_conv2",
    )

  def build(self, input_shape):
    """Makes the variables for local features of this shape."""
    self.conv1.build(input_shape)
    hidden_shape = (*input_shape[:3], _ATTENTION_CHANNELS)
    self.bn_conv1.build(hidden_shape)
    self.conv2.build(hidden_shape)

  def call(self, inputs, training=True):
    """Scores local features.

    Args:
      inputs: Float [B, H, W, C], local features.
      training: Whether batch normalisation uses the statistics of the batch.

    Returns:
      Mean of the features at unit length times their probabilities, [B, C]; the
      "probabilities", softplus of the scores, [B, H, W, 1]; and the scores,
      [B, H, W, 1].
    """
    x = self.bn_conv1(self.conv1(inputs), training=training)
    score = self.conv2(ops.relu(x))
    probability = _softplus(score)
    units = normalization.l2_normalize(inputs, axis=-1)
    feature = ops.mean(units * probability, axis=(1, 2))
    return feature, probability, score


def _softplus(score):
  """Returns the softplus, to the bit, without e to the power of a high score.

  TFLite's own is infinite from 89 on, and scores of trained models go to 1000.
  """
  low = ops.softplus(ops.minimum(score, _SAME))
  return ops.where(score > _SAME, score, low)


class AutoencoderModel(keras.Model):
  """Short codes of local features, and the features back from them."""

  def __init__(
    self, reduced_dimension, expand_dimension, kernel_size=1, name="autoencoder"
  ):
    super().__init__(name=name)
    self.conv1 = layers.Conv2D(
      reduced_dimension, kernel_size, padding="same", name="autoenc_conv1"
    )
    self.conv2 = layers.Conv2D(
      expand_dimension,
      kernel_size,
      padding="same",
      activation="relu",
      name="autoenc_conv2",
    )

  def build(self, input_shape):
    """Makes the variables for local features of this shape."""
    self.conv1.build(input_shape)
    self.conv2.build((*input_shape[:3], self.conv1.filters))

  def call(self, inputs):
    """Returns the features reconstructed from codes, and the codes."""
    reduced = self.conv1(inputs)
    return self.conv2(reduced), reduced
