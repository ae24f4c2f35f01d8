"""Pooling of local features by the words that they are like, for any Keras.

NetVLAD: Arandjelovic et al., arXiv:1511.07247.
"""

import keras
from keras import ops

# Below this length a direction is noise.
_EPSILON = 1e-6


class SoftVLAD(keras.layers.Layer):
  """Sums, for each word, how the features near it differ from it.

  Each feature, at unit length, is shared out between the words by the softmax
  of its cosines, and counts as much as it was long. The sum of each word gets
  unit length (Arandjelovic and Zisserman, CVPR 2013), so that a texture that
  fills a photo counts as one thing.

  Attributes:
    words: [number, channels] weights, of unit length.
  """

  def __init__(self, number, temperature=0.1, name="soft_vlad"):
    """Creates the layer.

    Args:
      number: Of words.
      temperature: What cosines are divided by; towards 0, a feature belongs to
        its nearest word alone.
      name: Name of the layer.
    """
    super().__init__(name=name, dtype="float32")
    self.number = number
    self.temperature = temperature

  def build(self, shape):
    """Makes random words for features of shape (B, H, W, channels)."""
    self.words = self.add_weight(
      shape=(self.number, shape[-1]),
      initializer=keras.initializers.OrthogonalInitializer(),
      name="words",
    )

  def call(self, features):
    """Pools maps of features.

    Args:
      features: [B, H, W, C] float, of any lengths.

    Returns:
      [B, number * C] float32 of unit length, word by word; where no feature is
      near a word, its part is near 0.
    """
    batch, channels = ops.shape(features)[0], self.words.shape[1]
    x = ops.reshape(features, (batch, -1, channels))
    lengths = ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True))
    units = x / (lengths + _EPSILON)
    cosines = ops.matmul(units, ops.transpose(self.words))
    shares = ops.softmax(cosines / self.temperature, axis=-1) * lengths
    totals = ops.expand_dims(ops.sum(shares, axis=1), -1)
    sums = ops.matmul(ops.transpose(shares, (0, 2, 1)), units)
    sums = sums - totals * self.words
    lengths = ops.sqrt(ops.sum(ops.square(sums), axis=-1, keepdims=True))
    rows = sums / ((lengths + _EPSILON) * self.number**0.5)
    return ops.reshape(rows, (batch, self.number * channels))
