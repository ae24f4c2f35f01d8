"""ResNet backbones of the kind that the ImageNet weights of Keras are for.

He et al., arXiv:1512.03385, with the stride in the first convolution of a stage
and with biases in all convolutions.
"""

import string

import keras
from absl import logging
from keras import layers, ops

from delf.base import errors
from delf.networks import backbones
from delf.python.pooling_layers import pooling as pooling_layers

# What may be made of the last feature map.
_POOLINGS = ("avg", "max", "gem")


class ResNet50(keras.Model):
  """ResNet-50; its local features are the map after stage 4 (`block3`).

  All variables exist once it is made. What exporting needs is in
  `receptive_field`, `receptive_stride` and `receptive_padding` (pixels, of a
  position of `block3`), `local_channels`, and `global_channels`.
  """

  # Blocks of stages 2 to 5: table 1 of the paper.
  blocks_by_stage = (3, 4, 6, 3)
  foldable = (("conv1", "bn_conv1"),)

  # Those of the published models, whichever the depth: a deeper net sees more,
  # but its positions have the same centres.
  receptive_field = 291
  receptive_padding = 145
  local_channels = backbones.FILTERS[4][1]

  def __init__(  # noqa: PLR0913
    self,
    data_format,
    name="",
    include_top=True,
    pooling=None,
    block3_strides=False,
    average_pooling=True,
    classes=1000,
    gem_power=3.0,
    embedding_layer=False,
    embedding_layer_dim=2048,
  ):
    """Creates the backbone with random weights.

    Args:
      data_format: "channels_last" or "channels_first".
      name: Name of the model.
      include_top: Whether it returns the logits of `classes`.
      pooling: What is returned without the top: "avg", "max" or "gem" of the
        last feature map, or None for the map itself.
      block3_strides: Whether `block3` keeps every second position alone, in
        place of the stride of stage 5; what comes after is the same.
      average_pooling: Whether the last map is averaged over 7 x 7 positions.
      classes: Number of logits.
      gem_power: Power of "gem".
      embedding_layer: Whether a dense layer follows the pooling.
      embedding_layer_dim: Size of what it returns.

    Raises:
      InputError: If there is no such pooling.
    """
    if pooling not in (None, "", *_POOLINGS):
      raise errors.InputError(f"a pooling of {_POOLINGS}", repr(pooling))
    super().__init__(name=name or None)
    self.include_top = include_top
    self.pooling = pooling
    self.block3_strides = block3_strides
    self.gem_power = gem_power
    self.receptive_stride = 32 if block3_strides else 16
    self._make_stages(data_format)
    self.avg_pool = self.fc1000 = self.embedding_layer = None
    self.global_channels = backbones.FILTERS[5][1]
    if average_pooling:
      self.avg_pool = layers.AveragePooling2D(7, 7, data_format=data_format)
    if include_top:
      self.fc1000 = self._dense(classes, "fc1000")
    elif pooling and embedding_layer:
      self.embedding_layer = self._dense(embedding_layer_dim, "embedding_layer")
    self.build(backbones.map_shape(3, data_format))

  def _dense(self, size, name):
    """Returns the last layer, whose size is that of what comes out."""
    self.global_channels = size
    return layers.Dense(size, name=name)

  def _make_stages(self, data_format):
    self._data_format = data_format
    self.conv1 = layers.Conv2D(
      64, 7, 2, padding="same", data_format=data_format, name="conv1"
    )
    self.bn_conv1 = backbones.batch_norm("bn_conv1", data_format)
    self.max_pool = layers.MaxPooling2D(3, 2, data_format=data_format)
    self.subsampling_layer = None
    if self.block3_strides:
      self.subsampling_layer = layers.MaxPooling2D(
        1, 2, data_format=data_format
      )
    for stage, count in enumerate(self.blocks_by_stage, start=2):
      whole = stage == 2 or (stage == 5 and self.block3_strides)
      for block in string.ascii_lowercase[:count]:
        stride = 2 if block == "a" and not whole else 1
        # Named attributes: they are the keys of a checkpoint.
        setattr(
          self,
          f"l{stage}{block}",
          backbones.Bottleneck(stage, block, stride, data_format),
        )

  def _stage(self, stage):
    count = self.blocks_by_stage[stage - 2]
    return [
      getattr(self, f"l{stage}{block}")
      for block in string.ascii_lowercase[:count]
    ]

  def build(self, input_shape):
    """Makes the variables for images of this shape."""
    shape = backbones.build_pair(
      self.conv1, self.bn_conv1, input_shape, self._data_format
    )
    for stage in range(2, 6):
      for block in self._stage(stage):
        block.build(shape)
        shape = backbones.map_shape(
          backbones.FILTERS[stage][1], self._data_format
        )
    for dense in (self.fc1000, self.embedding_layer):
      if dense is not None:
        dense.build((None, backbones.FILTERS[5][1]))

  def __call__(self, inputs, training=True, intermediates_dict=None):
    """Returns what `build_call` returns."""
    if intermediates_dict is None:
      return super().__call__(inputs, training=training)
    # Keras would hand `call` a copy of the dict that is to be filled.
    return self.build_call(inputs, training, intermediates_dict)

  def call(self, inputs, training=True, intermediates_dict=None):
    """Returns what `build_call` returns."""
    return self.build_call(inputs, training, intermediates_dict)

  def build_call(self, inputs, training=True, intermediates_dict=None):
    """Runs the backbone.

    Args:
      inputs: Float [B, H, W, 3] ("channels_first": [B, 3, H, W]), normalised.
      training: Whether batch normalisation uses the statistics of the batch.
      intermediates_dict: dict to fill with the feature maps `block0` (after the
        first convolution), `block0mp` (after the max pooling) and `block1` to
        `block4` (after stages 2 to 5), or None.

    Returns:
      Float [B, classes] logits with the top; else [B, D] pooled, or embedded,
      features; without pooling the last feature map, `block4`.
    """
    blocks = {} if intermediates_dict is None else intermediates_dict
    x = self.local_call(inputs, training, blocks)
    for block in self._stage(5):
      x = block(x, training=training)
    positions = (1, 2) if self._data_format == "channels_last" else (2, 3)
    blocks["block4"] = x if self.avg_pool is None else self.avg_pool(x)
    if self.include_top:
      return self.fc1000(ops.mean(x, axis=positions))
    return self._pool(blocks["block4"], positions)

  def local_call(self, inputs, training=True, intermediates_dict=None):
    """Returns `block3`, [B, H', W', 1024], the local features.

    The last stage does not run; arguments are those of `build_call`.
    """
    blocks = {} if intermediates_dict is None else intermediates_dict
    x = self.bn_conv1(self.conv1(inputs), training=training)
    blocks["block0"] = x = ops.relu(x)
    blocks["block0mp"] = x = self.max_pool(x)
    for stage, name in ((2, "block1"), (3, "block2"), (4, "block3")):
      for block in self._stage(stage):
        x = block(x, training=training)
      blocks[name] = x
    if self.subsampling_layer is not None:
      blocks["block3"] = x = self.subsampling_layer(x)
    return x

  def _pool(self, x, positions):
    if not self.pooling:
      return x
    if self.pooling == "gem":
      x = pooling_layers.gem(x, axis=positions, power=self.gem_power)
    else:
      x = {"avg": ops.mean, "max": ops.max}[self.pooling](x, axis=positions)
    return x if self.embedding_layer is None else self.embedding_layer(x)

  def restore_weights(self, filepath):
    """Reads the weights of a Keras `.h5` file by layer name.

    The embedding and, where the file has none, the top keep their weights.

    Raises:
      FileNotFoundError: If there is no such file.
      InputError: If it is no such file, or if it lacks weights, holds others,
        or holds some of another shape; then nothing has changed.
    """
    backbones.restore(self, filepath)

  def log_weights(self):
    """Logs the mean and the spread of every weight."""
    logging.info("Weights of %s", self.name)
    for variable in self.variables:
      logging.info(
        "  %s %s: mean %g, standard deviation %g",
        variable.path,
        tuple(variable.shape),
        ops.mean(variable),
        ops.std(variable),
      )


class ResNet101(ResNet50):
  """ResNet-101, with the interface of `ResNet50`."""

  blocks_by_stage = (3, 4, 23, 3)
