"""Names of the tensors of extraction models, and what a request feeds them."""

import dataclasses

import numpy as np
import tensorflow as tf

IMAGE, IMAGES = "input_image", "input_images"
SCALES = "input_scales"
THRESHOLD = "input_abs_thres"
MOST = "input_max_feature_num"
INDICES = "input_global_scales_ind"
COUNTS = "counts"

LOCAL_OUTPUTS = ("boxes", "features", "scales", "scores")
# One per scale, or pooled over the scales.
GLOBAL_OUTPUTS = ("global_descriptors", "global_descriptor")

INPUTS = (IMAGE, SCALES, THRESHOLD, MOST, INDICES)
LOCAL_INPUTS = (IMAGE, SCALES, THRESHOLD, MOST)


@dataclasses.dataclass(frozen=True)
class Request:
  """What to extract from an image.

  Attributes:
    image_scales: Image scales.
    use_local: Whether local features are asked for.
    max_feature_num: The most local features.
    abs_thres: The least attention of a local feature.
    global_scales: Positions in `image_scales` at which global descriptors are
      asked for; none if it is empty.
  """

  image_scales: tuple[float, ...]
  use_local: bool = True
  max_feature_num: int = 1000
  abs_thres: float = 0.0
  global_scales: tuple[int, ...] = ()

  @property
  def use_global(self):
    """Whether global descriptors are asked for."""
    return bool(self.global_scales)


def wanted(request, outputs):
  """Returns the names of the outputs that a request needs."""
  names = list(LOCAL_OUTPUTS) if request.use_local else []
  if request.use_global:
    names.append(next(name for name in GLOBAL_OUTPUTS if name in outputs))
  return names


def feeds(inputs, request):
  """Returns {name: tensor} for all inputs but the image.

  A part that was not asked for gets what makes it cheapest.
  """
  scales = list(request.image_scales)
  indices = sorted(set(request.global_scales))
  if not request.use_local:
    scales = [scales[index] for index in indices]
    indices = list(range(len(scales)))
  values = {
    SCALES: tf.constant(scales, tf.float32),
    THRESHOLD: tf.constant(
      request.abs_thres if request.use_local else float("inf"), tf.float32
    ),
    MOST: tf.constant(
      request.max_feature_num if request.use_local else 1, tf.int32
    ),
    # Models of both parts refuse an empty list.
    INDICES: tf.constant(indices or [scales.index(min(scales))], tf.int32),
  }
  return {name: value for name, value in values.items() if name in inputs}


def tidy(arrays):
  """Returns one image's arrays as `ExtractionModel.prepare` describes them."""
  shaped = {}
  for name, array in arrays.items():
    if name == "scores":
      shaped[name] = array.reshape(-1)
    elif name in GLOBAL_OUTPUTS:
      shaped[GLOBAL_OUTPUTS[0]] = np.atleast_2d(array)
    else:
      shaped[name] = array
  return shaped


def row(arrays, index, count):
  """Returns the arrays of one image of a batch."""
  return tidy(
    {
      name: array[index][:count] if name in LOCAL_OUTPUTS else array[index]
      for name, array in arrays.items()
    }
  )
