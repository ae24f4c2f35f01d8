"""Arithmetic of local features: pixels, receptive boxes and descriptors.

Everything takes arrays or tensors, returns tensors, and works in graphs.
"""

import tensorflow as tf

from delf.base import errors
from delf.inference import extractor


def NormalizePixelValues(
  image, pixel_value_offset=128.0, pixel_value_scale=128.0
):
  """Normalises pixels to about [-1, 1].

  Args:
    image: uint8 of any shape, usually [H, W, 3].
    pixel_value_offset: What is subtracted.
    pixel_value_scale: What is divided by.

  Returns:
    float32 of the same shape, (image - offset) / scale.
  """
  image = tf.cast(image, tf.float32)
  return (image - pixel_value_offset) / pixel_value_scale


def CalculateReceptiveBoxes(height, width, rf, stride, padding):
  """Calculates what each cell of a feature map sees of the image.

  Args:
    height: Rows of the feature map, int or scalar tensor.
    width: Columns of the feature map.
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
  """Calculates the centres of boxes.

  Args:
    boxes: [N, 4] float, (ymin, xmin, ymax, xmax).

  Returns:
    [N, 2] float, (y, x).
  """
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
  """Projects descriptors onto principal components.

  Args:
    data: [N, D] float.
    pca_matrix: [D, D] float, one component a row, the largest first.
    pca_mean: [D] float.
    output_dim: Number of components to keep.
    use_whitening: Whether to divide by the standard deviations.
    pca_variances: [D] float; needed with `use_whitening`.

  Returns:
    [N, output_dim] float.

  Raises:
    InputError: If `use_whitening` is set without variances.
  """
  if use_whitening and pca_variances is None:
    raise errors.InputError("pca_variances, to whiten by", "none")
  return extractor.project(
    tf.convert_to_tensor(data),
    pca_mean,
    tf.transpose(tf.convert_to_tensor(pca_matrix)[:output_dim]),
    tf.convert_to_tensor(pca_variances)[:output_dim] if use_whitening else None,
  )


class Projection:
  """Projection onto principal components, prepared for use on many images.

  Attributes:
    size: Size of the descriptors it takes.
    dim: Size of those it gives.
  """

  def __init__(self, parameters):
    """Makes tensors of pca.PcaParameters."""
    self.dim, self.size = parameters.matrix.shape
    self._mean = tf.constant(parameters.mean)
    self._components = tf.transpose(tf.constant(parameters.matrix))
    self._variances = None
    if parameters.use_whitening:
      self._variances = tf.constant(parameters.variances)

  def __call__(self, descriptors):
    """Returns [N, dim] float32 of descriptors, [N, size] float32."""
    return extractor.project(
      descriptors, self._mean, self._components, self._variances
    )


def PostProcessDescriptors(descriptors, use_pca, pca_parameters=None):
  """Normalises descriptors and, where asked to, reduces them.

  Args:
    descriptors: [N, D] float.
    use_pca: Whether to project them, and normalise once more.
    pca_parameters: For `use_pca`: Projection, pca.PcaParameters, or a dict with
      `matrix`, `mean`, `dim`, `use_whitening` and `variances`, as
      `ApplyPcaAndWhitening` takes them.

  Returns:
    [N, D] float, or [N, dim] with PCA, of L2 norm 1 (but for zeros).

  Raises:
    InputError: If `use_pca` is set without parameters.
  """
  descriptors = tf.nn.l2_normalize(descriptors, axis=1)
  if not use_pca:
    return descriptors
  if pca_parameters is None:
    raise errors.InputError("pca_parameters, as use_pca is set", "none")
  if isinstance(pca_parameters, extractor.PcaParameters):
    pca_parameters = Projection(pca_parameters)
  if isinstance(pca_parameters, Projection):
    projected = pca_parameters(descriptors)
  else:
    projected = ApplyPcaAndWhitening(
      descriptors,
      pca_parameters["matrix"],
      pca_parameters["mean"],
      pca_parameters["dim"],
      pca_parameters["use_whitening"],
      pca_parameters["variances"],
    )
  return tf.nn.l2_normalize(projected, axis=1)


def DelfFeaturePostProcessing(boxes, descriptors, use_pca, pca_parameters=None):
  """Makes locations and final descriptors of what a model returns.

  Args:
    boxes: [N, 4] float, (ymin, xmin, ymax, xmax) in pixels.
    descriptors: [N, D] float.
    use_pca: As in `PostProcessDescriptors`.
    pca_parameters: As in `PostProcessDescriptors`.

  Returns:
    Locations [N, 2] float, (y, x) in pixels, and descriptors [N, D or dim].
  """
  return CalculateKeypointCenters(boxes), PostProcessDescriptors(
    descriptors, use_pca, pca_parameters
  )
