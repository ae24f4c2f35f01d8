"""Arithmetic of local features: pixels, receptive boxes and descriptors.

Everything takes arrays or tensors, returns tensors, and works in graphs.
"""

import tensorflow as tf

from delf.base import errors
from delf.inference import extractor


def NormalizePixelValues(
  image, pixel_value_offset=128.0, pixel_value_scale=128.0
):
  """Normalise uint8 pixels to about [-1, 1], (image - offset) / scale."""
  image = tf.cast(image, tf.float32)
  return (image - pixel_value_offset) / pixel_value_scale


def CalculateReceptiveBoxes(height, width, rf, stride, padding):
  """Calculate what each cell of a feature map sees of the image.

  Args:
    height: Rows of the feature map, int or scalar tensor; `width` its columns.
    rf: Side of the receptive field, in pixels.
    stride: Pixels from one cell to the next.
    padding: Pixels that the first field begins before the image.

  Returns:
    [height * width, 4] float32, (ymin, xmin, ymax, xmax) in pixels, row by row:
    ymin = stride * y - padding, ymax = ymin + rf - 1, and so for x.
  """
  rf, stride, padding = (tf.cast(v, tf.float32) for v in (rf, stride, padding))
  y, x = tf.meshgrid(tf.range(height), tf.range(width), indexing="ij")
  corners = tf.reshape(tf.stack([y, x], axis=2), [-1, 2])
  mins = stride * tf.cast(corners, tf.float32) - padding
  return tf.concat([mins, mins + (rf - 1)], axis=1)


def CalculateKeypointCenters(boxes):
  """Calculate the centres (y, x), [N, 2], of (ymin, xmin, ymax, xmax) boxes."""
  boxes = tf.convert_to_tensor(boxes)
  return (boxes[:, :2] + boxes[:, 2:]) / 2


def ApplyPcaAndWhitening(
  data,
  pca_matrix,
  pca_mean,
  output_dim,
  use_whitening=False,
  pca_variances=None,
):
  """Project descriptors onto principal components.

  Args:
    data: [N, D] float.
    pca_matrix: [D, D] float, one component a row, the largest first.
    output_dim: Number of components to keep.
    use_whitening: Whether to divide by the standard deviations, the roots of
      `pca_variances`.

  Returns:
    [N, output_dim] float.
  """
  if use_whitening and pca_variances is None:
    raise errors.InputError("pca_variances, to whiten by", "none")
  return extractor.project(
    tf.convert_to_tensor(data),
    pca_mean,
    tf.transpose(tf.convert_to_tensor(pca_matrix)[:output_dim]),
    tf.convert_to_tensor(pca_variances)[:output_dim] if use_whitening else None,
  )


def PostProcessDescriptors(descriptors, use_pca, pca_parameters=None):
  """L2-normalise descriptors and, with PCA, project and normalise them again.

  With PCA, [N, D] become [N, dim]. Its parameters are `extractor.PcaParameters`
  or a dict with `matrix`, `mean`, `dim`, `use_whitening` and `variances`, as
  `ApplyPcaAndWhitening` takes them.
  """
  descriptors = tf.nn.l2_normalize(descriptors, axis=1)
  if not use_pca:
    return descriptors
  if pca_parameters is None:
    raise errors.InputError("pca_parameters, as use_pca is set", "none")
  names = ("matrix", "mean", "dim", "use_whitening", "variances")
  if isinstance(pca_parameters, extractor.PcaParameters):
    values = [getattr(pca_parameters, name) for name in names]
  else:
    values = [pca_parameters[name] for name in names]
  projected = ApplyPcaAndWhitening(descriptors, *values)
  return tf.nn.l2_normalize(projected, axis=1)


def DelfFeaturePostProcessing(boxes, descriptors, use_pca, pca_parameters=None):
  """Return the locations (y, x), [N, 2], and final descriptors of features.

  See `CalculateKeypointCenters` and `PostProcessDescriptors`.
  """
  return CalculateKeypointCenters(boxes), PostProcessDescriptors(
    descriptors, use_pca, pca_parameters
  )
