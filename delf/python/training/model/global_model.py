"""Global descriptors: a Keras network, pooling and optional whitening."""

import os
from collections.abc import Callable, Sequence
from typing import Any

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
POOLING: dict[str, Callable[[], keras.layers.Layer]] = {
  "mac": pooling_layers.MAC,
  "spoc": pooling_layers.SPoC,
  "gem": pooling_layers.GeM,
}

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32)


class GlobalFeatureNet(keras.Model):
  """A network that computes a global descriptor of unit length.

  Weights and statistics of batch normalisation are frozen, since images of
  different sizes are processed one at a time, so `training` has no effect.
  `meta` has the keys `architecture`, `pooling`, `whitening` and `outputdim`.
  """

  def __init__(
    self,
    architecture: str = "ResNet101",
    pooling: str = "gem",
    whitening: bool = False,
    pretrained: bool = True,
    data_root: str | os.PathLike = "",
  ) -> None:
    """Create the network; see ARCHITECTURES and POOLING for the names.

    Args:
      whitening: Whether to append a dense layer, initially the identity, and L2
        normalisation.
      pretrained: Whether to load ImageNet weights from files in `data_root`;
        see `backbones.network`.
    """
    super().__init__(name="global_feature_net")
    for label, value, names in (
      ("architecture", architecture, list(ARCHITECTURES)),
      ("pooling", pooling, list(POOLING)),
    ):
      if value not in names:
        raise errors.InputError(
          f"{label} must be one of {', '.join(names)}, not {value!r}"
        )
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
    self.meta: dict[str, Any] = {
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

    Images [B, H, W, 3] are from `datasets.utils.default_loader`: BGR in
    [0, 255] minus the mean of ImageNet, for every architecture.
    """
    if self._trained_on is not None:
      offset, scale = np.array(self._trained_on, np.float32)
      rgb = ops.flip(x + np.array(MEAN_BGR, np.float32), -1)
      x = (rgb - offset) / scale
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
      # On some processors pooling an empty map gives NaN, not an error.
      too_small = np.isnan(vectors).all() and not np.isnan(images).any()
    except (tf.errors.AbortedError, tf.errors.InvalidArgumentError):
      too_small = True
    if too_small:
      raise errors.InputError(
        f"the image is too small for {self.meta['architecture']}: "
        f"{images.shape[1]} x {images.shape[2]} pixels"
      )
    return vectors

  def meta_repr(self) -> str:
    """Return `meta` as multi-line text."""
    lines = [f"    {name}: {value}" for name, value in self.meta.items()]
    return "\n".join(["  (meta): dict(", *lines, "  )"])


def extract_global_descriptors_from_list(
  net: GlobalFeatureNet,
  images: Sequence[str],
  image_size: int | None,
  bounding_boxes: Sequence[tuple | None] | None = None,
  scales: Sequence[float] = [1.0],  # noqa: B006
  multi_scale_power: float = 1.0,
  print_freq: int = 10,
  workers: int = 4,
) -> np.ndarray:
  """Return the descriptors of images, [D, N], one per column.

  Args:
    images: Paths.
    image_size: Largest side of an image in pixels, or None.
    bounding_boxes: A box (x1, y1, x2, y2) in pixels, or None, for each image;
      None for whole images.
    scales: Factors by which each image is resized.
    multi_scale_power: Power of the generalised mean over the scales.
    print_freq: Images between two updates of the progress bar.
    workers: Threads that load images.
  """
  listed = generic_dataset.ImagesFromList(
    "", images, image_size, bounding_boxes, workers=workers
  )
  vectors = np.zeros([net.meta["outputdim"], len(listed)], np.float32)
  bar = progress.track(listed, "describing images", len(listed))
  for i, image in enumerate(bar):
    vector = extract_multi_scale_descriptor(
      net, image[None], scales, multi_scale_power
    )
    vectors[:, i] = ops.convert_to_numpy(vector)
    if i % print_freq == 0:
      bar.set_postfix_str(os.path.basename(listed.images[i]))
  return vectors


def extract_multi_scale_descriptor(
  net: GlobalFeatureNet | Callable,
  input: tf.Tensor,
  scales: Sequence[float],
  multi_scale_power: float,
) -> tf.Tensor:
  """Return the descriptor [D], of unit length, of an image [1, H, W, 3].

  The power of the generalised mean over the scales must be 1 for descriptors
  with negative values.
  """
  if not len(scales) or not all(0 < scale < np.inf for scale in scales):
    raise errors.InputError(
      f"scales must be one or more finite numbers over 0, not {list(scales)}"
    )
  describe = getattr(net, "describe", net)
  total = 0.0
  for scale in scales:
    scaled = input if scale == 1 else tensorflow_ops.resize(input, scale)
    total += ops.power(describe(scaled)[0], multi_scale_power)
  mean = ops.power(total / len(scales), 1.0 / multi_scale_power)
  vector = normalization.l2_normalize(mean, 0)
  if not np.isfinite(ops.convert_to_numpy(vector)).all():
    raise errors.InputError(
      f"the mean with power {multi_scale_power} of these descriptors is not "
      "finite"
    )
  return vector
