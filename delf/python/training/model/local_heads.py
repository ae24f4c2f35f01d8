"""Small models over local features: attention and autoencoder."""

import keras
from keras import layers, ops

from delf.python.normalization_layers import normalization

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
    """Creates the model.

    Args:
      kernel_size: Side of the convolutions' kernels in positions.
      decay: Weight of their L2 regularisation (see `losses`).
      name: Name of the model.
    """
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
      Tuple of float [B, C], the mean of the features at unit length times their
      probabilities; float [B, H, W, 1] >= 0, the "probabilities", which are the
      softplus of the scores; and float [B, H, W, 1], the scores.
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
    """Creates the model.

    Args:
      reduced_dimension: Channels of the codes.
      expand_dimension: Channels of the features.
      kernel_size: Side of the convolutions' kernels in positions.
      name: Name of the model.
    """
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
    """Codes local features.

    Args:
      inputs: Float [B, H, W, C], local features.

    Returns:
      Tuple of float [B, H, W, expand_dimension], the features back from the
      codes, and float [B, H, W, reduced_dimension], the codes.
    """
    reduced = self.conv1(inputs)
    return self.conv2(reduced), reduced
