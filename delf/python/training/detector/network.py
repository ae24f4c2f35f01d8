"""A small detector of boxes on the compact backbone, without anchors."""

import keras
import numpy as np
from keras import ops

from delf.python.training.model import compact, compact_layers

# Side in pixels of the square that every photo is scaled to.
SIDE = 320
# Pixels between the cells, which each give one box of every size.
STRIDE = 16
# Boxes are large or small: the root of the area of large ones is this share of
# the photo, or more.
LARGE = 0.4
SIZES = 2
# Layers of the backbone that lead to its last stage.
STAGES = (
  "stem",
  "conv1a",
  "norm1",
  "conv1b",
  "conv2a",
  "conv2b",
  "conv2c",
  "conv3a",
  "conv3b",
  "conv3c",
  "conv4a",
  "conv4b",
)
# Channels of the head.
_CHANNELS = 96
# Logits before training, of a score, and of the sides of a large and of a small
# box: few boxes, of middle size.
_FIRST_SCORE, _FIRST_SIDES = -3.0, (-1.0, -2.2)


def centres(side=SIDE):
  """Returns where the cells look, [N, 2] float32: (y, x) in [0, 1].

  Args:
    side: Of the images, in pixels; a multiple of 32.
  """
  # Cell i of the backbone is centred on pixel 16 i.
  one = (np.arange(side // STRIDE, dtype=np.float32) * STRIDE + 0.5) / side
  return np.stack(np.meshgrid(one, one, indexing="ij"), -1).reshape(-1, 2)


class BoxHead(keras.Model):
  """Scores and boxes in cells of stride 16, from three stages.

  Attributes:
    side: Of the images, in pixels.
  """

  def __init__(self, side=SIDE, name="head"):
    """Creates the head with random weights.

    Args:
      side: Of the images, in pixels; a multiple of 32.
      name: Its name.
    """
    super().__init__(name=name)
    self.side = side
    self.finer = keras.layers.AveragePooling2D(2, name="finer")
    self.coarser = keras.layers.UpSampling2D(2, name="coarser")
    self.mix = compact_layers.Convolution(_CHANNELS, size=1, name="mix")
    self.place = compact_layers.Convolution(_CHANNELS, name="place")
    self.wide = [
      _Dilated(_CHANNELS, dilation, name=f"wide{dilation}")
      for dilation in (2, 4)
    ]
    self.whole = keras.layers.Dense(_CHANNELS, name="whole")
    self.last = compact_layers.Convolution(
      _CHANNELS, residual=True, name="last"
    )
    self.score = keras.layers.Conv2D(
      SIZES,
      1,
      bias_initializer=keras.initializers.Constant(_FIRST_SCORE),
      dtype="float32",
      name="score",
    )
    self.sides = keras.layers.Conv2D(
      4 * SIZES,
      1,
      bias_initializer=_first_sides,
      dtype="float32",
      name="sides",
    )
    self.cells = centres(side)

  def build(self, input_shape):
    """Does nothing: `call` builds the layers."""

  def call(self, stages, training=False):
    """Finds boxes.

    Args:
      stages: Maps of stride 8, 16 and 32 of the backbone.
      training: Whether batch statistics are used.

    Returns:
      Logits of scores, float32 [B, N], and boxes, float32 [B, N, 4]: (ymin,
      xmin, ymax, xmax) in [0, 1]. N is the number of cells times SIZES: a
      large and a small box of each cell, then those of the next.
    """
    fine, middle, coarse = stages
    x = ops.concatenate(
      [self.finer(fine), middle, self.coarser(coarse)], axis=-1
    )
    x = self.mix(x, training=training)
    number = self.side // STRIDE
    where = ops.reshape(2.0 * self.cells - 1.0, [1, number, number, 2])
    where = ops.cast(where, x.dtype) + 0 * x[..., :2]
    x = self.place(ops.concatenate([x, where], -1), training=training)
    for layer in self.wide:
      x = layer(x, training=training)
    # What the whole photo is like: a box is more than its own texture.
    whole = ops.concatenate(
      [ops.mean(x, axis=(1, 2)), ops.max(x, axis=(1, 2))], -1
    )
    x = ops.relu(x + self.whole(whole)[:, None, None])
    x = self.last(x, training=training)
    sides = ops.sigmoid(ops.reshape(self.sides(x), [-1, number**2, SIZES, 4]))
    # Up, left, down, right of the centre of the cell, in parts of the photo.
    middle = np.concatenate([self.cells, self.cells], -1)[:, None]
    signs = np.float32([-1, -1, 1, 1])
    boxes = ops.clip(middle + signs * sides, 0.0, 1.0)
    total = number**2 * SIZES
    scores = ops.reshape(self.score(x), [-1, total])
    return scores, ops.reshape(boxes, [-1, total, 4])


def _first_sides(shape, dtype=None):
  """Initializes the biases of the sides."""
  return ops.cast(np.repeat(_FIRST_SIDES, shape[0] // SIZES), dtype)


class _Dilated(keras.layers.Layer):
  """A residual convolution that looks further, with batch normalisation."""

  def __init__(self, filters, dilation, **kwargs):
    super().__init__(**kwargs)
    self.convolution = keras.layers.Conv2D(
      filters,
      3,
      padding="same",
      dilation_rate=dilation,
      use_bias=False,
      kernel_initializer="he_normal",
      name="convolution",
    )
    self.normalization = compact_layers.normalization.BatchNormalization(
      momentum=0.97, gamma_initializer="zeros", name="normalization"
    )

  def call(self, inputs, training=False):
    """Returns a map of the same shape."""
    x = self.normalization(self.convolution(inputs), training=training)
    return ops.relu(inputs + x)


def in_part(variable, part):
  """Returns the path of a variable below a part, whatever the part is in."""
  return variable.path.rpartition(f"{part.name}/")[2]


class Detector:
  """The compact backbone and a head of boxes.

  Attributes:
    side: Of the images, in pixels.
    backbone: compact.CompactBackbone.
    head: BoxHead.
  """

  def __init__(self, backbone=None, side=SIDE):
    """Creates the detector; its head has random weights.

    Args:
      backbone: compact.CompactBackbone, or None for one of random weights.
      side: Of the images, in pixels; a multiple of 32.
    """
    self.side = side
    self.backbone = backbone or compact.CompactBackbone()
    self.head = BoxHead(side)
    image = np.zeros([1, side, side, 3], np.float32)
    # Variables have their names by the models that are called, so one by one.
    self.backbone(image, training=False)
    self.head(self.stages(image), training=False)

  def backbone_variables(self):
    """Returns the trainable variables of the backbone that boxes need."""
    return [
      variable
      for variable in self.backbone.trainable_variables
      if in_part(variable, self.backbone).partition("/")[0] in STAGES
    ]

  def stages(self, images):
    """Returns what the head takes of [B, side, side, 3] RGB from 0 to 255."""
    pixels = (ops.cast(images, "float32") - 128.0) / 128.0
    # Statistics of the backbone stay as they are, also where it learns.
    return self.backbone.stages(pixels, training=False)[2:]

  def __call__(self, images, training=False):
    """Finds boxes; see `BoxHead.call`.

    Args:
      images: [B, side, side, 3], RGB from 0 to 255.
      training: Whether the head uses batch statistics.
    """
    return self.head(self.stages(images), training=training)
