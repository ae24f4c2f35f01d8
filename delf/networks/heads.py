"""Heads of local features: attention, autoencoder, keypoints inside cells."""

from typing import TypeAlias

import keras
import numpy as np
from keras import layers, ops

from delf.python.normalization_layers import normalization

Tensor: TypeAlias = keras.KerasTensor

# Side of a cell in pixels, and number of its pixels, row by row.
STRIDE = 8
PIXELS = STRIDE * STRIDE

# float32 [PIXELS, 2]: (y, x) of each pixel from the centre of its cell.
_SIDE = np.arange(STRIDE, dtype=np.float32) - STRIDE / 2
_GRID = np.meshgrid(_SIDE, _SIDE, indexing="ij")
POSITIONS = np.stack(_GRID, -1).reshape(-1, 2)

# Whether two positions are the same or touch.
_DISTANCES = np.abs(POSITIONS[:, None] - POSITIONS[None]).max(-1)
_TOUCH = (_DISTANCES < 1.5).astype(np.float32)


def offsets(logits: Tensor) -> Tensor:
  """Return the sub-pixel keypoint of each cell, given logits [..., PIXELS].

  It is the mean of the best position and its neighbours, weighted by their
  probabilities: float32 [..., 2], (y, x) from the centre of the cell in pixels.
  """
  logits = ops.cast(logits, "float32")
  logits = logits - ops.max(logits, axis=-1, keepdims=True)
  # Not `argmax`, which Keras implements by operations that other formats lack.
  best = ops.cast(ops.equal(logits, 0.0), "float32")
  near = ops.minimum(ops.matmul(best, ops.convert_to_tensor(_TOUCH)), 1.0)
  weights = near * ops.exp(logits)
  weights = weights / ops.sum(weights, axis=-1, keepdims=True)
  return ops.matmul(weights, ops.convert_to_tensor(POSITIONS))


def sample(cells: Tensor, moves: Tensor) -> Tensor:
  """Interpolate a map of cells [B, H, W, C] at one point of each cell.

  `moves` are [B, H, W, 2], (y, x) from the centre of each cell in pixels.
  """
  shape = ops.shape(cells)
  height, width = shape[1], shape[2]
  rows = ops.expand_dims(ops.cast(ops.arange(height), "float32"), 1)
  columns = ops.expand_dims(ops.cast(ops.arange(width), "float32"), 0)
  y = rows + moves[..., 0] / STRIDE
  x = columns + moves[..., 1] / STRIDE
  points = ops.reshape(ops.stack([y, x], -1), [shape[0], height * width, 2])
  return ops.reshape(interpolate(cells, points), shape)


def interpolate(cells: Tensor, points: Tensor) -> Tensor:
  """Interpolate a map of cells [B, H, W, C] linearly at points [B, N, 2].

  Points are (row, column) in cells; outside, the edge is repeated. Returns
  [B, N, C], NaN at points that are NaN.
  """
  shape = ops.shape(cells)
  height, width = shape[1], shape[2]
  last = ops.cast(ops.stack([height - 1, width - 1]), "float32")
  points = ops.clip(ops.cast(points, "float32"), 0.0, last)
  low = ops.minimum(ops.floor(points), ops.maximum(last - 1.0, 0.0))
  share = ops.expand_dims(ops.cast(points - low, cells.dtype), -1)
  most = ops.stack([height - 1, width - 1])
  # NaN may become any integer, which must stay within the map; the share makes
  # the result NaN.
  low = ops.minimum(ops.maximum(ops.cast(low, "int32"), 0), most)
  high = ops.minimum(low + 1, most)
  # Gathering from one list of all images is faster than from a list per image.
  flat = ops.reshape(cells, [-1, cells.shape[-1]])
  start = ops.expand_dims(ops.arange(shape[0]) * height * width, 1)

  def at(rows, columns):
    return ops.take(flat, start + rows * width + columns, axis=0)

  def blend(first, second, weight):
    return first + (second - first) * weight

  y0, x0, y1, x1 = low[..., 0], low[..., 1], high[..., 0], high[..., 1]
  top = blend(at(y0, x0), at(y0, x1), share[:, :, 1])
  bottom = blend(at(y1, x0), at(y1, x1), share[:, :, 1])
  return blend(top, bottom, share[:, :, 0])


# Weight of the L2 regularisation of the attention's convolutions.
_DECAY = 1e-4

# Channels of the attention's first convolution: section 3.3 of DELF.
_ATTENTION_CHANNELS = 512
# From this score onwards the softplus of a float32 is the score itself.
_LINEAR = 20.0


class AttentionModel(keras.Model):
  """Attention scores of local features, and their weighted mean."""

  foldable = (("conv1", "bn_conv1"),)

  def __init__(
    self, kernel_size: int = 1, decay: float = _DECAY, name: str = "attention"
  ):
    super().__init__(name=name)

    def conv(channels, name):
      return layers.Conv2D(
        channels,
        kernel_size,
        padding="same",
        kernel_regularizer=keras.regularizers.L2(decay),
        name=name,
      )

    self.conv1 = conv(_ATTENTION_CHANNELS, "attn_conv1")
    self.bn_conv1 = normalization.BatchNormalization(axis=3, name="bn_conv1")
    self.conv2 = conv(1, "attn_conv2")

  def build(self, input_shape: tuple) -> None:
    """Create the variables for local features of this shape."""
    self.conv1.build(input_shape)
    hidden_shape = (*input_shape[:3], _ATTENTION_CHANNELS)
    self.bn_conv1.build(hidden_shape)
    self.conv2.build(hidden_shape)

  def call(
    self, inputs: Tensor, training: bool = True
  ) -> tuple[Tensor, Tensor, Tensor]:
    """Score local features [B, H, W, C].

    Returns the mean of the normalised features times their probabilities,
    [B, C]; the "probabilities", softplus of the scores, [B, H, W, 1]; and the
    scores, [B, H, W, 1].
    """
    x = self.bn_conv1(self.conv1(inputs), training=training)
    score = self.conv2(ops.relu(x))
    probability = _softplus(score)
    units = normalization.l2_normalize(inputs, axis=-1)
    feature = ops.mean(units * probability, axis=(1, 2))
    return feature, probability, score


def _softplus(score):
  """Return the softplus, to the bit, without large exponentials."""
  # TFLite's softplus is infinite from 89 onwards; trained scores reach 1000.
  low = ops.softplus(ops.minimum(score, _LINEAR))
  return ops.where(score > _LINEAR, score, low)


class AutoencoderModel(keras.Model):
  """Short codes of local features, and features reconstructed from them."""

  def __init__(
    self,
    reduced_dimension: int,
    expand_dimension: int,
    kernel_size: int = 1,
    name: str = "autoencoder",
  ):
    super().__init__(name=name)
    options = {"kernel_size": kernel_size, "padding": "same"}
    self.conv1 = layers.Conv2D(
      reduced_dimension, name="autoenc_conv1", **options
    )
    self.conv2 = layers.Conv2D(
      expand_dimension, activation="relu", name="autoenc_conv2", **options
    )

  def build(self, input_shape: tuple) -> None:
    """Create the variables for local features of this shape."""
    self.conv1.build(input_shape)
    self.conv2.build((*input_shape[:3], self.conv1.filters))

  def call(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features reconstructed from codes, and the codes."""
    reduced = self.conv1(inputs)
    return self.conv2(reduced), reduced
