"""What ResNets are made of."""

from keras import layers, ops

from delf.python.normalization_layers import normalization

# Filters of the first convolution, and of what a block returns, by stage.
FILTERS = {2: (64, 256), 3: (128, 512), 4: (256, 1024), 5: (512, 2048)}


class Bottleneck(layers.Layer):
  """Three convolutions with a shortcut around them."""

  foldable = (
    ("conv2a", "bn2a"),
    ("conv2b", "bn2b"),
    ("conv2c", "bn2c"),
    ("conv_shortcut", "bn_shortcut"),
  )

  def __init__(self, stage, block, stride, data_format):
    """Creates the block.

    Args:
      stage: int from 2 to 5.
      block: Letter of the block in the stage; the first one, "a", has a
        convolution in the shortcut.
      stride: Of the first convolution and of the shortcut.
      data_format: "channels_last" or "channels_first".
    """
    super().__init__(name=f"block{stage}{block}")
    self._data_format = data_format
    filters, filters_out = FILTERS[stage]

    def conv(branch, filters, kernel_size, stride):
      return layers.Conv2D(
        filters,
        kernel_size,
        stride,
        padding="same",
        data_format=data_format,
        name=f"res{stage}{block}_branch{branch}",
      )

    def norm(branch):
      return batch_norm(f"bn{stage}{block}_branch{branch}", data_format)

    self.conv2a, self.bn2a = conv("2a", filters, 1, stride), norm("2a")
    self.conv2b, self.bn2b = conv("2b", filters, 3, 1), norm("2b")
    self.conv2c, self.bn2c = conv("2c", filters_out, 1, 1), norm("2c")
    self.conv_shortcut = self.bn_shortcut = None
    if block == "a":
      self.conv_shortcut = conv("1", filters_out, 1, stride)
      self.bn_shortcut = norm("1")

  def build(self, input_shape):
    """Makes the variables for feature maps of this shape."""
    shape = input_shape
    for conv, norm in (
      (self.conv2a, self.bn2a),
      (self.conv2b, self.bn2b),
      (self.conv2c, self.bn2c),
    ):
      shape = build_pair(conv, norm, shape, self._data_format)
    if self.conv_shortcut is not None:
      build_pair(
        self.conv_shortcut, self.bn_shortcut, input_shape, self._data_format
      )

  def call(self, inputs, training=True):
    """Returns the feature map after the block."""
    x = ops.relu(self.bn2a(self.conv2a(inputs), training=training))
    x = ops.relu(self.bn2b(self.conv2b(x), training=training))
    x = self.bn2c(self.conv2c(x), training=training)
    if self.conv_shortcut is not None:
      inputs = self.bn_shortcut(self.conv_shortcut(inputs), training=training)
    return ops.relu(x + inputs)


def batch_norm(name, data_format):
  """Returns a batch normalisation over the channels."""
  axis = 3 if data_format == "channels_last" else 1
  return normalization.BatchNormalization(axis=axis, name=name)


def map_shape(channels, data_format):
  """Returns the shape of feature maps of any size."""
  last = data_format == "channels_last"
  return (None, None, None, channels) if last else (None, channels, None, None)


def build_pair(conv, norm, input_shape, data_format):
  """Builds a convolution and its normalisation; returns their output shape."""
  conv.build(input_shape)
  output_shape = map_shape(conv.filters, data_format)
  norm.build(output_shape)
  return output_shape
