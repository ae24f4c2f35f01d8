"""Arithmetic of local features: pixels, receptive boxes and descriptors.

All functions take arrays or tensors, return tensors, and work in graphs.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from delf.base import errors
from delf.inference import extractor

Array: TypeAlias = np.ndarray | tf.Tensor


def NormalizePixelValues(
  image: Array,
  pixel_value_offset: float = 128.0,
  pixel_value_scale: float = 128.0,
) -> tf.Tensor:
  """Normalise uint8 pixels to about [-1, 1], (image - offset) / scale."""
  image = tf.cast(image, tf.float32)
  return (image - pixel_value_offset) / pixel_value_scale


def CalculateReceptiveBoxes(
  height: int | tf.Tensor,
  width: int | tf.Tensor,
  rf: float | tf.Tensor,
  stride: float | tf.Tensor,
  padding: float | tf.Tensor,
) -> tf.Tensor:
  """Calculate the receptive field in the image of each cell of a feature map.

  Args:
    height: Rows of the feature map.
    width: Columns of the feature map.
    rf: Side of the receptive field, in pixels.
    stride: Distance between neighbouring cells, in pixels.
    padding: Pixels by which the first field starts before the image.

  Returns:
    [height * width, 4] float32, (ymin, xmin, ymax, xmax) in pixels, row by row:
    ymin = stride * y - padding, ymax = ymin + rf - 1, and likewise for x.
  """
  rf, stride, padding = (tf.cast(v, tf.float32) for v in (rf, stride, padding))
  y, x = tf.meshgrid(tf.range(height), tf.range(width), indexing="ij")
  corners = tf.reshape(tf.stack([y, x], axis=2), [-1, 2])
  mins = stride * tf.cast(corners, tf.float32) - padding
  return tf.concat([mins, mins + (rf - 1)], axis=1)


def CalculateKeypointCenters(boxes: Array) -> tf.Tensor:
  """Calculate the centres (y, x), [N, 2], of (ymin, xmin, ymax, xmax) boxes."""
  boxes = tf.convert_to_tensor(boxes)
  return (boxes[:, :2] + boxes[:, 2:]) / 2


def ApplyPcaAndWhitening(
  data: Array,
  pca_matrix: Array,
  pca_mean: Array,
  output_dim: int,
  use_whitening: bool = False,
  pca_variances: Array | None = None,
) -> tf.Tensor:
  """Project descriptors onto principal components.

  Args:
    data: [N, D] float.
    pca_matrix: [D, D] float, one component a row, by descending variance.
    pca_mean: [D] float, subtracted from the descriptors.
    output_dim: Number of components to keep.
    use_whitening: Whether to divide by the square roots of `pca_variances`.
    pca_variances: [D] float; required for whitening.

  Returns:
    [N, output_dim] float.
  """
  if use_whitening and pca_variances is None:
    raise errors.InputError("whitening requires pca_variances")
  return extractor.project(
    tf.convert_to_tensor(data),
    pca_mean,
    tf.transpose(tf.convert_to_tensor(pca_matrix)[:output_dim]),
    tf.convert_to_tensor(pca_variances)[:output_dim] if use_whitening else None,
  )


def PostProcessDescriptors(
  descriptors: Array,
  use_pca: bool,
  pca_parameters: extractor.PcaParameters | Mapping[str, Any] | None = None,
) -> tf.Tensor:
  """L2-normalise descriptors and, with PCA, project and normalise them again.

  PCA reduces [N, D] to [N, dim]. A mapping of parameters has `matrix`, `mean`,
  `dim`, `use_whitening` and `variances`; see `ApplyPcaAndWhitening`.
  """
  descriptors = tf.nn.l2_normalize(descriptors, axis=1)
  if not use_pca:
    return descriptors
  if pca_parameters is None:
    raise errors.InputError("use_pca requires pca_parameters")
  names = ("matrix", "mean", "dim", "use_whitening", "variances")
  if isinstance(pca_parameters, extractor.PcaParameters):
    values = [getattr(pca_parameters, name) for name in names]
  else:
    values = [pca_parameters[name] for name in names]
  projected = ApplyPcaAndWhitening(descriptors, *values)
  return tf.nn.l2_normalize(projected, axis=1)


def DelfFeaturePostProcessing(
  boxes: Array,
  descriptors: Array,
  use_pca: bool,
  pca_parameters: extractor.PcaParameters | Mapping[str, Any] | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Return the locations (y, x), [N, 2], and final descriptors of features.

  See `CalculateKeypointCenters` and `PostProcessDescriptors`.
  """
  return CalculateKeypointCenters(boxes), PostProcessDescriptors(
    descriptors, use_pca, pca_parameters
  )
