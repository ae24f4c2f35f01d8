"""Global descriptors by a network of Keras, pooling and optional whitening."""

import os
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from delf.base import errors, progress
from delf.networks import backbones, tensorflow_ops
from delf.python.datasets import generic_dataset
from delf.python.datasets.utils import MEAN_BGR
from delf.python.normalization_layers import normalization
from delf.python.pooling_layers import pooling as pooling_layers

ARCHITECTURES = backbones.ARCHITECTURES
POOLING = {
  "mac": pooling_layers.MAC,
  "spoc": pooling_layers.SPoC,
  "gem": pooling_layers.GeM,
}

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32)


class GlobalFeatureNet(keras.Model):
  """A network that describes an image by one vector of unit length.

  Batch normalisations are frozen, weights and statistics, since images of all
  sizes go through one at a time; nothing else depends on `training`. `meta` is
  a dict of `architecture`, `pooling`, `whitening` and `outputdim`.
  """

  def __init__(
    self,
    architecture: str = "ResNet101",
    pooling: str = "gem",
    whitening: bool = False,
    pretrained: bool = True,
    data_root: str | os.PathLike = "",
  ):
    """Create the network, of a key of ARCHITECTURES and one of POOLING.

    Args:
      whitening: Whether a dense layer, initially the identity, and L2
        normalisation follow.
      pretrained: Whether to load ImageNet weights, of files in `data_root`; see
        `backbones.network`.
    """
    super().__init__(name="global_feature_net")
    for what, value, known in (
      ("architecture", architecture, ARCHITECTURES),
      ("pooling", pooling, POOLING),
    ):
      if value not in known:
        expected = f"one of the {what}s {', '.join(known)}"
        raise errors.InputError(expected, repr(value))
    size, self._trained_on = ARCHITECTURES[architecture]
    self.feature_extractor = backbones.network(
      architecture, pretrained, data_root
    )
    for layer in self.feature_extractor._flatten_layers():
      if isinstance(layer, keras.layers.BatchNormalization):
        layer.trainable = False
    self.pool = POOLING[pooling]()
    self.normalize = normalization.L2Normalization()
    self.whiten = None
    if whitening:
      self.whiten = keras.layers.Dense(
        size, kernel_initializer="identity", name="whitening"
      )
      self.whiten.build((None, size))
    self.meta = {
      "architecture": architecture,
      "pooling": pooling,
      "whitening": whitening,
      "outputdim": size,
    }
    self.built = True
    self._describe = tf.function(
      self.call, input_signature=[_IMAGES], autograph=False
    )

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Return descriptors, [B, outputdim] float32 of unit length.

    Images [B, H, W, 3] are of `datasets.utils.default_loader`: BGR in [0, 255]
    less the mean of ImageNet, whatever the network's own preprocessing.
    """
    if self._trained_on is not None:
      offset, scale = self._trained_on
      rgb = ops.flip(x + np.float32(MEAN_BGR), -1)
      x = (rgb - np.float32(offset)) / np.float32(scale)
    features = self.feature_extractor(x, training=False)
    vectors = self.normalize(self.pool(features))
    if self.whiten is not None:
      vectors = self.normalize(self.whiten(vectors))
    return vectors

  def describe(self, images: tf.Tensor) -> tf.Tensor:
    """Run `call` as a graph; InputError if the images are too small."""
    images = ops.convert_to_tensor(images, "float32")
    try:
      vectors = self._describe(images)
      # On some processors pooling to nothing gives NaN, not an error.
      too_small = np.isnan(vectors).all() and not np.isnan(images).any()
    except (tf.errors.AbortedError, tf.errors.InvalidArgumentError):
      too_small = True
    if too_small:
      raise errors.InputError(
        f"an image that is large enough for {self.meta['architecture']}",
        f"one of {images.shape[1]} x {images.shape[2]} pixels",
      )
    return vectors

  def meta_repr(self) -> str:
    """Return `meta` as text of several lines."""
    lines = [f"    {name}: {value}" for name, value in self.meta.items()]
    return "\n".join(["  (meta): dict(", *lines, "  )"])


def extract_global_descriptors_from_list(
  net: GlobalFeatureNet,
  images: Sequence[str],
  image_size: int | None,
  bounding_boxes: Sequence | None = None,
  scales: Sequence[float] = [1.0],  # noqa: B006
  multi_scale_power: float = 1.0,
  print_freq: int = 10,
  workers: int = 4,
) -> np.ndarray:
  """Describe the images of a list; return [D, N], one descriptor per column.

  Args:
    images: Paths.
    image_size: Largest side of an image in pixels, or None.
    bounding_boxes: A box (x1, y1, x2, y2) in pixels or None for each image;
      None for whole images.
    multi_scale_power: Power of the generalised mean over the scales.
    print_freq: Images between two updates of the progress line.
  """
  listed = generic_dataset.ImagesFromList(
    "", images, image_size, bounding_boxes, workers=workers
  )
  vectors = np.zeros([net.meta["outputdim"], len(listed)], np.float32)
  shown = progress.track(listed, "describing images", len(listed))
  for i, image in enumerate(shown):
    vector = extract_multi_scale_descriptor(
      net, image[None], scales, multi_scale_power
    )
    vectors[:, i] = ops.convert_to_numpy(vector)
    if i % print_freq == 0:
      shown.set_postfix_str(os.path.basename(listed.images[i]))
  return vectors


def extract_multi_scale_descriptor(
  net: GlobalFeatureNet | Callable,
  input: tf.Tensor,
  scales: Sequence[float],
  multi_scale_power: float,
) -> tf.Tensor:
  """Return the descriptor [D], of unit length, of an image [1, H, W, 3].

  The power of the generalised mean over the scales may be other than 1 only for
  descriptors without negative values.
  """
  if not len(scales) or not all(0 < scale < np.inf for scale in scales):
    raise errors.InputError("scales over 0, one at least", list(scales))
  describe = getattr(net, "describe", net)
  total = 0.0
  for scale in scales:
    scaled = input if scale == 1 else tensorflow_ops.resize(input, scale)
    total += ops.power(describe(scaled)[0], multi_scale_power)
  mean = ops.power(total / len(scales), 1.0 / multi_scale_power)
  vector = normalization.l2_normalize(mean, 0)
  if not np.isfinite(ops.convert_to_numpy(vector)).all():
    raise errors.InputError(
      "a power that the mean of these descriptors has", multi_scale_power
    )
  return vector
