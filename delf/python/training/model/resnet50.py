"""ResNet backbones compatible with Keras's ImageNet weights.

He et al., arXiv:1512.03385, with the stride in the first convolution of a stage
and with biases in all convolutions.
"""

import os
import string
from typing import TypeAlias

import keras
from absl import logging
from keras import layers, ops

from delf.base import errors
from delf.networks import backbones
from delf.python.normalization_layers import normalization
from delf.python.pooling_layers import pooling as pooling_layers

Tensor: TypeAlias = keras.KerasTensor

# Filters of the inner convolutions and of the output of blocks, by stage.
_FILTERS = {2: (64, 256), 3: (128, 512), 4: (256, 1024), 5: (512, 2048)}

_POOLINGS = ("avg", "max", "gem")


class Bottleneck(layers.Layer):
  """Three convolutions with a shortcut, which is a projection in block "a"."""

  def __init__(
    self, stage: int, block: str, stride: int, data_format: str
  ) -> None:
    super().__init__(name=f"block{stage}{block}")
    self._data_format = data_format
    filters, filters_out = _FILTERS[stage]
    # Attributes are keys of checkpoints, names are keys of Keras files.
    branches = [
      ("2a", "conv2a", "bn2a", filters, 1, stride),
      ("2b", "conv2b", "bn2b", filters, 3, 1),
      ("2c", "conv2c", "bn2c", filters_out, 1, 1),
    ]
    if block == "a":
      branches.append(
        ("1", "conv_shortcut", "bn_shortcut", filters_out, 1, stride)
      )
    else:
      self.conv_shortcut = self.bn_shortcut = None
    self.foldable = tuple((conv, norm) for _, conv, norm, *_ in branches)
    for branch, conv, norm, channels, size, strides in branches:
      convolution = layers.Conv2D(
        channels,
        size,
        strides,
        padding="same",
        data_format=data_format,
        name=f"res{stage}{block}_branch{branch}",
      )
      setattr(self, conv, convolution)
      name = f"bn{stage}{block}_branch{branch}"
      setattr(self, norm, _batch_norm(name, data_format))

  def build(self, input_shape: tuple) -> None:
    """Create the variables for feature maps of this shape."""
    shape = input_shape
    for conv, norm in self.foldable:
      before = input_shape if conv == "conv_shortcut" else shape
      layers_of_pair = getattr(self, conv), getattr(self, norm)
      shape = _build_pair(*layers_of_pair, before, self._data_format)

  def call(self, inputs: Tensor, training: bool = True) -> Tensor:
    """Return the feature map after the block."""
    x = ops.relu(self.bn2a(self.conv2a(inputs), training=training))
    x = ops.relu(self.bn2b(self.conv2b(x), training=training))
    x = self.bn2c(self.conv2c(x), training=training)
    if self.conv_shortcut is not None:
      inputs = self.bn_shortcut(self.conv_shortcut(inputs), training=training)
    return ops.relu(x + inputs)


def _batch_norm(name, data_format):
  axis = 3 if data_format == "channels_last" else 1
  return normalization.BatchNormalization(axis=axis, name=name)


def _map_shape(channels, data_format):
  last = data_format == "channels_last"
  return (None, None, None, channels) if last else (None, channels, None, None)


def _build_pair(conv, norm, input_shape, data_format):
  """Build a convolution and its normalisation; return their output shape."""
  conv.build(input_shape)
  norm.build(_map_shape(conv.filters, data_format))
  return _map_shape(conv.filters, data_format)


class ResNet50(keras.Model):
  """ResNet-50; its local features are the map after stage 4 (`block3`).

  All variables are created at once; see `backbones` for the attributes.
  """

  # Blocks of stages 2 to 5: table 1 of the paper.
  blocks_by_stage = (3, 4, 6, 3)
  foldable = (("conv1", "bn_conv1"),)

  # Values of the published models for every depth: a deeper network has a
  # larger receptive field with the same centres.
  receptive_field = 291
  receptive_padding = 145
  local_channels = _FILTERS[4][1]

  def __init__(  # noqa: PLR0913
    self,
    data_format: str,
    name: str = "",
    include_top: bool = True,
    pooling: str | None = None,
    block3_strides: bool = False,
    average_pooling: bool = True,
    classes: int = 1000,
    gem_power: float = 3.0,
    embedding_layer: bool = False,
    embedding_layer_dim: int = 2048,
  ) -> None:
    """Create the backbone with random weights.

    Args:
      data_format: "channels_last" or "channels_first".
      include_top: Whether to return the logits of `classes`.
      pooling: Pooling of the last feature map without the top: "avg", "max" or
        "gem", or None for the map itself. `embedding_layer` follows it.
      block3_strides: Whether `block3` keeps every second position, instead of
        the stride of stage 5; the result of stage 5 is the same.
      average_pooling: Whether to average the last map over 7 x 7 positions.
    """
    if pooling not in (None, "", *_POOLINGS):
      names = ", ".join(_POOLINGS)
      raise errors.InputError(f"pooling must be {names}, not {pooling!r}")
    super().__init__(name=name or None)
    self.include_top = include_top
    self.pooling = pooling
    self.block3_strides = block3_strides
    self.gem_power = gem_power
    self.receptive_stride = 32 if block3_strides else 16
    self._make_stages(data_format)
    self.avg_pool = self.fc1000 = self.embedding_layer = None
    self.global_channels = _FILTERS[5][1]
    if average_pooling:
      self.avg_pool = layers.AveragePooling2D(7, 7, data_format=data_format)
    if include_top:
      self.global_channels = classes
      self.fc1000 = layers.Dense(classes, name="fc1000")
    elif pooling and embedding_layer:
      self.global_channels = embedding_layer_dim
      self.embedding_layer = layers.Dense(
        embedding_layer_dim, name="embedding_layer"
      )
    self.build(_map_shape(3, data_format))

  def _make_stages(self, data_format):
    self._data_format = data_format
    self.conv1 = layers.Conv2D(
      64, 7, 2, padding="same", data_format=data_format, name="conv1"
    )
    self.bn_conv1 = _batch_norm("bn_conv1", data_format)
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
        # Attributes are the keys of a checkpoint.
        layer = Bottleneck(stage, block, stride, data_format)
        setattr(self, f"l{stage}{block}", layer)

  def _stage(self, stage):
    letters = string.ascii_lowercase[: self.blocks_by_stage[stage - 2]]
    return [getattr(self, f"l{stage}{block}") for block in letters]

  def build(self, input_shape: tuple) -> None:
    """Create the variables for images of this shape."""
    shape = _build_pair(
      self.conv1, self.bn_conv1, input_shape, self._data_format
    )
    for stage, (_, channels) in _FILTERS.items():
      for block in self._stage(stage):
        block.build(shape)
        shape = _map_shape(channels, self._data_format)
    for dense in (self.fc1000, self.embedding_layer):
      if dense is not None:
        dense.build((None, _FILTERS[5][1]))

  def __call__(
    self,
    inputs: Tensor,
    training: bool = True,
    intermediates_dict: dict | None = None,
  ) -> Tensor:
    """Run `build_call` as a Keras model."""
    if intermediates_dict is None:
      return super().__call__(inputs, training=training)
    # Keras would pass `call` a copy of the dict.
    return self.build_call(inputs, training, intermediates_dict)

  def build_call(
    self,
    inputs: Tensor,
    training: bool = True,
    intermediates_dict: dict | None = None,
  ) -> Tensor:
    """Run the backbone.

    Args:
      inputs: Float [B, H, W, 3] ("channels_first": [B, 3, H, W]), normalised.
      training: Whether batch normalisation uses the statistics of the batch.
      intermediates_dict: Receives the feature maps `block0` (after the first
        convolution), `block0mp` (after the max pooling) and `block1` to
        `block4` (after stages 2 to 5).

    Returns:
      Float [B, classes] logits, [B, D] features, or `block4` without top and
      pooling.
    """
    blocks = {} if intermediates_dict is None else intermediates_dict
    x = self.local_call(inputs, training, blocks)
    for block in self._stage(5):
      x = block(x, training=training)
    positions = (1, 2) if self._data_format == "channels_last" else (2, 3)
    blocks["block4"] = x if self.avg_pool is None else self.avg_pool(x)
    if self.fc1000 is not None:
      return self.fc1000(ops.mean(x, axis=positions))
    x = blocks["block4"]
    if not self.pooling:
      return x
    if self.pooling == "gem":
      x = pooling_layers.gem(x, axis=positions, power=self.gem_power)
    else:
      x = {"avg": ops.mean, "max": ops.max}[self.pooling](x, axis=positions)
    return x if self.embedding_layer is None else self.embedding_layer(x)

  call = build_call

  def local_call(
    self,
    inputs: Tensor,
    training: bool = True,
    intermediates_dict: dict | None = None,
  ) -> Tensor:
    """Return the local features, `block3`, without running stage 5."""
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

  def restore_weights(self, filepath: str | os.PathLike) -> None:
    """Load a Keras `.h5` file; see `backbones.restore`.

    The embedding keeps its weights, as does the top if the file has none.
    """
    backbones.restore(self, filepath)

  def log_weights(self) -> None:
    """Log the mean and the standard deviation of every weight."""
    logging.info("Weights of %s", self.name)
    for variable in self.variables:
      shape, values = (
        tuple(variable.shape),
        (ops.mean(variable), ops.std(variable)),
      )
      text = "  %s %s: mean %g, standard deviation %g"
      logging.info(text, variable.path, shape, *values)


class ResNet101(ResNet50):
  """ResNet-101, with the interface of `ResNet50`."""

  blocks_by_stage = (3, 4, 23, 3)
