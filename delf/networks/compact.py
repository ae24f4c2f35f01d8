"""The compact backbone of the embedded model, for CPUs."""

import contextlib
from collections.abc import Iterator
from typing import TypeAlias

import keras
import numpy as np
from keras import ops

from delf.networks import heads
from delf.python.normalization_layers import normalization

Tensor: TypeAlias = keras.KerasTensor

# Initial scale of residuals, so that residual layers start near the identity.
_RESIDUAL_START = keras.initializers.Constant(0.3)
# Shortest vector with a meaningful direction.
_EPSILON = 1e-6
# Added to the contrast before dividing by it, so that flat areas stay flat.
_LEAST_CONTRAST = 0.01


def _stem_kernel(shape, dtype=None):
  """Return [3, 3, 3, filters]: oriented gradients and spots with sum zero."""
  rng = np.random.default_rng(11)
  kernel = 0.05 * rng.standard_normal(shape)
  y, x = np.mgrid[-1:2, -1:2]
  weights = np.exp(-0.5 * (x**2 + y**2))
  for i in range(shape[3] * 3 // 4):
    angle = 2 * np.pi * i / (shape[3] * 3 // 4)
    gradient = (np.cos(angle) * x + np.sin(angle) * y) * weights
    kernel[:, :, :, i] += gradient[:, :, None] * 2
  kernel -= kernel.mean(axis=(0, 1), keepdims=True)
  return ops.convert_to_tensor(kernel, dtype=dtype or "float32")


class Convolution(keras.layers.Layer):
  """Convolution, batch normalisation and ReLU, centred on every 2nd pixel.

  Padding is symmetric for any size, so that output (i, j) of stride 2 is
  centred on input (2 i, 2 j).
  """

  foldable = (("convolution", "normalization"),)

  def __init__(
    self,
    filters: int,
    size: int = 3,
    strides: int = 1,
    plain: bool = False,
    residual: bool = False,
    name: str | None = None,
  ):
    """Create the layer; a `plain` one has neither normalisation nor ReLU."""
    super().__init__(name=name)
    self.residual = residual
    self.pad = None
    if strides > 1:
      self.pad = keras.layers.ZeroPadding2D(size // 2, name="pad")
    self.convolution = keras.layers.Conv2D(
      filters,
      size,
      strides=strides,
      padding="valid" if strides > 1 else "same",
      use_bias=False,
      kernel_initializer="he_normal",
      name="convolution",
    )
    self.normalization = None
    if not plain:
      self.normalization = normalization.BatchNormalization(
        momentum=0.97,
        gamma_initializer=_RESIDUAL_START if residual else "ones",
        name="normalization",
      )

  def call(self, inputs: Tensor, training: bool = False) -> Tensor:
    """Return float [B, ceil(H / strides), ceil(W / strides), filters]."""
    x = inputs if self.pad is None else self.pad(inputs)
    x = self.convolution(x)
    if self.normalization is not None:
      x = self.normalization(x, training=training)
      x = ops.relu(inputs + x if self.residual else x)
    return x


class SoftVLAD(keras.layers.Layer):
  """Sums of residuals of features to visual words, softly assigned.

  Features of unit length are assigned by the softmax of their cosines and
  weighted by their lengths. The sum of each word is scaled to unit length
  (intra-normalisation: Arandjelovic and Zisserman, CVPR 2013), so that a
  texture that fills a photo counts once. `words` are [number, channels].
  """

  def __init__(
    self, number: int, temperature: float = 0.1, name: str = "soft_vlad"
  ):
    """Create the layer; temperature 0 would assign each feature to one word."""
    super().__init__(name=name, dtype="float32")
    self.number = number
    self.temperature = temperature

  def build(self, shape: tuple) -> None:
    """Create random words for features of shape (B, H, W, channels)."""
    self.words = self.add_weight(
      shape=(self.number, shape[-1]),
      initializer=keras.initializers.OrthogonalInitializer(),
      name="words",
    )

  def call(self, features: Tensor) -> Tensor:
    """Return [B, number * C] float32 of unit length, word by word.

    The part of a word without features [B, H, W, C] near it is close to 0.
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


class CompactBackbone(keras.Model):
  """A small convolutional network with a local map of stride 8.

  Stages have strides 2, 4, 8, 16 and 32. Maps are divided by their contrast at
  stride 4, to reduce the effect of shade and exposure. The local map, linear
  since descriptors are L2-normalised later, sums the stages of stride 8, 16 and
  32. Each cell predicts the pixel of its keypoint, and its descriptor is
  interpolated there. The global descriptor is the SoftVLAD of the local map,
  embedded by one dense layer. See `backbones` for the attributes.
  """

  # Nominal: the neighbourhood of suppression, smaller than the true receptive
  # field. Cell (i, j) is centred on pixel (8 i, 8 j).
  receptive_field = 33
  receptive_stride = 8
  receptive_padding = 16

  def __init__(
    self,
    name: str = "compact",
    local_channels: int = 96,
    embedding_layer_dim: int = 256,
    words: int = 12,
  ):
    """Create the backbone; `words` is the number of visual words."""
    super().__init__(name=name)
    self.local_channels = local_channels
    self.global_channels = embedding_layer_dim
    self._make_stages()
    self.local = keras.layers.Conv2D(local_channels, 1, name="local")
    self.pool = SoftVLAD(words, name="pool")
    self.embedding_layer = keras.layers.Dense(
      embedding_layer_dim, name="embedding_layer"
    )
    self.upsample = keras.layers.UpSampling2D(2, name="upsample")
    average = keras.layers.AveragePooling2D
    self.blend = average(2, strides=1, padding="same", name="blend")
    self.contrast = average(9, strides=1, padding="same", name="contrast")

  def _make_stages(self):
    self.stem = keras.layers.Conv2D(
      16, 3, 2, use_bias=False, kernel_initializer=_stem_kernel, name="stem"
    )
    self.stem_pad = keras.layers.ZeroPadding2D(1, name="stem_pad")
    self.conv1a = Convolution(48, strides=2, plain=True, name="conv1a")
    self.norm1 = normalization.BatchNormalization(momentum=0.97, name="norm1")
    self.conv1b = Convolution(48, residual=True, name="conv1b")
    self.conv2a = Convolution(96, strides=2, name="conv2a")
    self.conv2b = Convolution(96, residual=True, name="conv2b")
    self.conv2c = Convolution(96, residual=True, name="conv2c")
    self.conv3a = Convolution(144, strides=2, name="conv3a")
    self.conv3b = Convolution(144, residual=True, name="conv3b")
    self.conv3c = Convolution(144, residual=True, name="conv3c")
    self.conv4a = Convolution(192, strides=2, name="conv4a")
    self.conv4b = Convolution(192, residual=True, name="conv4b")
    self.lateral3 = Convolution(96, size=1, name="lateral3")
    self.lateral4 = Convolution(96, size=1, name="lateral4")
    self.fuse = Convolution(128, name="fuse")
    self.detail = Convolution(64, strides=2, name="detail")
    self.corner = Convolution(64, size=1, name="corner")
    self.keypoint = keras.layers.Conv2D(
      heads.PIXELS, 1, dtype="float32", name="keypoint"
    )

  def _double(self, x, like):
    """Return `x` at twice the resolution, cropped to the size of `like`."""
    # Linear interpolation that keeps (i, j) at (2 i, 2 j).
    x = self.blend(self.upsample(x))
    return x[:, : ops.shape(like)[1], : ops.shape(like)[2], :]

  def stages(self, inputs: Tensor, training: bool) -> tuple[Tensor, ...]:
    """Return maps [B, ceil(H / s), ceil(W / s), C] of s = 2, 4, 8, 16, 32."""
    grey = ops.mean(inputs, axis=-1, keepdims=True)
    # Row by row: the result does not depend on the number of threads.
    rows = ops.mean(grey, axis=2, keepdims=True)
    grey = grey - ops.mean(rows, axis=1, keepdims=True)
    red, green, blue = ops.split(inputs, 3, axis=-1)
    x = ops.concatenate([grey, 0.5 * (red - green), 0.5 * (blue - green)], -1)
    block0 = ops.relu(self.stem(self.stem_pad(x)))
    x = self.conv1a(block0)
    energy = self.contrast(ops.mean(ops.abs(x), axis=-1, keepdims=True))
    x = x / (energy + _LEAST_CONTRAST)
    x = ops.relu(self.norm1(x, training=training))
    block1 = self.conv1b(x, training=training)
    x = self.conv2a(block1, training=training)
    x = self.conv2b(x, training=training)
    block2 = self.conv2c(x, training=training)
    x = self.conv3a(block2, training=training)
    x = self.conv3b(x, training=training)
    stage3 = self.conv3c(x, training=training)
    x = self.conv4a(stage3, training=training)
    stage4 = self.conv4b(x, training=training)
    return block0, block1, block2, stage3, stage4

  def cells_call(
    self, inputs: Tensor, training: bool = True
  ) -> tuple[Tensor, Tensor]:
    """Return the local map for training, with h, w = ceil(H, W / 8).

    It has descriptors of the centres of the cells, float [B, h, w, C], and
    logits of the pixels of each cell, float32 [B, h, w, heads.PIXELS].
    """
    return self._cells(self.stages(inputs, training), training)

  def _cells(self, stages, training):
    _, block1, block2, stage3, stage4 = stages
    lateral = self.lateral3(stage3, training=training)
    coarse = self.lateral4(stage4, training=training)
    lateral = lateral + self._double(coarse, lateral)
    x = block2 + self._double(lateral, block2)
    fused = self.fuse(x, training=training)
    detail = self.detail(block1, training=training)
    both = ops.concatenate([detail, fused], -1)
    corner = self.corner(both, training=training)
    return self.local(fused), self.keypoint(corner)

  def build_call(
    self,
    inputs: Tensor,
    training: bool = True,
    intermediates_dict: dict | None = None,
  ) -> Tensor:
    """Return the global descriptor, float [B, D], not normalised.

    Args:
      inputs: Float [B, H, W, 3], RGB as (value - 128) / 128.
      training: Whether batch normalisation uses the statistics of the batch.
      intermediates_dict: Receives `block0` ... `block4` (`block3` is the local
        map [B, h, w, C]), and `offsets`, float [B, h, w, 2], of each feature
        from the centre of its cell, (y, x) in pixels.
    """
    blocks = {} if intermediates_dict is None else intermediates_dict
    cells = self._local_map(inputs, training, blocks)
    return self.embedding_layer(self.pool(cells))

  call = build_call

  def local_call(
    self,
    inputs: Tensor,
    training: bool = True,
    intermediates_dict: dict | None = None,
  ) -> Tensor:
    """Return only `block3`; `intermediates_dict` is that of `build_call`."""
    blocks = {} if intermediates_dict is None else intermediates_dict
    self._local_map(inputs, training, blocks)
    return blocks["block3"]

  def _local_map(self, inputs, training, blocks):
    """Return the local map, and store all maps in a dict."""
    stages = self.stages(inputs, training)
    cells, logits = self._cells(stages, training)
    blocks["offsets"] = heads.offsets(logits)
    block3 = heads.sample(cells, blocks["offsets"])
    for i, block in enumerate((*stages[:3], block3, stages[4])):
      blocks[f"block{i}"] = block
    return cells


@contextlib.contextmanager
def folded(model: keras.Model) -> Iterator[None]:
  """Fold batch normalisations into convolutions within the context.

  The scale of a normalisation with fixed statistics is merged into the kernel
  and, with its shift, into the bias. Functions traced in the context return the
  same up to rounding, and run faster. All weights are restored at the end; do
  not train in the context. Nested contexts fold once. Layers declare their
  pairs in `foldable`: attribute names (convolution, normalization).
  """
  kept = []
  try:
    for convolution, norm in _foldable_pairs(model):
      kept.append((convolution, convolution.get_weights(), norm))
      _fold(convolution, norm)
    yield
  finally:
    for convolution, weights, norm in kept:
      convolution.set_weights(weights)
      norm.folded, norm.folded_shift = False, None


def _foldable_pairs(model):
  is_layer = isinstance(model, keras.layers.Layer)
  for layer in model._flatten_layers() if is_layer else ():
    for names in getattr(layer, "foldable", ()):
      convolution, norm = (getattr(layer, name) for name in names)
      if convolution is not None and norm is not None and not norm.folded:
        yield convolution, norm


def _fold(convolution, norm):
  gamma, beta, mean, variance = (np.asarray(w) for w in norm.get_weights())
  scale = gamma / np.sqrt(variance + norm.epsilon)
  shift = beta - mean * scale
  # Kernels have the output channels last for any layout of the images.
  kernel, *bias = convolution.get_weights()
  convolution.set_weights([kernel * scale, *(b * scale + shift for b in bias)])
  norm.folded, norm.folded_shift = True, None if bias else shift
