"""Names of the tensors of models, and what a request for features feeds."""

import dataclasses

import numpy as np

from delf.base import errors

IMAGE, IMAGES = "input_image", "input_images"
SCALES = "input_scales"
THRESHOLD = "input_abs_thres"
MOST = "input_max_feature_num"
INDICES = "input_global_scales_ind"
COUNTS = "counts"

LOCAL_OUTPUTS = ("boxes", "features", "scales", "scores")
# One per scale, or pooled over the scales.
GLOBAL_OUTPUTS = ("global_descriptors", "global_descriptor")

# Of detectors, whose input is IMAGES.
DETECTIONS = ("detection_boxes", "detection_scores", "detection_classes")

INPUTS = (IMAGE, SCALES, THRESHOLD, MOST, INDICES)
LOCAL_INPUTS = (IMAGE, SCALES, THRESHOLD, MOST)


@dataclasses.dataclass(frozen=True)
class Request:
  """What to extract from an image.

  Attributes:
    image_scales: Image scales; may be empty for a model with scales of its own.
    use_local: Whether local features are asked for.
    max_feature_num: The most local features.
    abs_thres: The least attention of a local feature.
    global_scales: Positions in `image_scales` at which global descriptors are
      asked for, or None if none are. Empty, with no `image_scales`, for all
      that the model has.
  """

  image_scales: tuple[float, ...]
  use_local: bool = True
  max_feature_num: int = 1000
  abs_thres: float = 0.0
  global_scales: tuple[int, ...] | None = None

  @property
  def use_global(self):
    """Whether global descriptors are asked for."""
    return self.global_scales is not None


def wanted(request, outputs):
  """Returns the names of the outputs that a request needs."""
  names = list(LOCAL_OUTPUTS) if request.use_local else []
  if request.use_global:
    names.append(next(name for name in GLOBAL_OUTPUTS if name in outputs))
  return names


def feeds(inputs, request):
  """Returns {name: array} for all inputs but the image.

  A part that was not asked for gets what makes it cheapest.
  """
  scales = list(request.image_scales)
  indices = sorted(set(request.global_scales or ()))
  if not request.use_local:
    scales = [scales[index] for index in indices]
    indices = list(range(len(scales)))
  values = {
    SCALES: np.array(scales, np.float32),
    THRESHOLD: np.float32(
      request.abs_thres if request.use_local else float("inf")
    ),
    MOST: np.int32(request.max_feature_num if request.use_local else 1),
    # Models of both parts refuse an empty list.
    INDICES: np.array(indices or [np.argmin(scales or [0])], np.int32),
  }
  return {name: value for name, value in values.items() if name in inputs}


def check(request, inputs, outputs, path):
  """Raises InputError if a request and a model do not fit each other.

  Args:
    request: Request.
    inputs: Names of the model's inputs.
    outputs: Names of its outputs.
    path: Of the model, for the error.
  """
  needed = [*LOCAL_INPUTS, *LOCAL_OUTPUTS] if request.use_local else []
  found = {IMAGE if n == IMAGES else n for n in (*inputs, *outputs)}
  missing = {IMAGE, *needed} - found
  if request.use_global:
    needed.append(" or ".join(GLOBAL_OUTPUTS))
    missing |= set() if found & set(GLOBAL_OUTPUTS) else {needed[-1]}
  unknown = set(inputs) - {*INPUTS, IMAGES}
  if missing or unknown:
    needed = [IMAGE, *(name for name in needed if name != IMAGE)]
    raise errors.InputError(
      f"a model with the tensors {', '.join(needed)}",
      ", ".join(sorted(found)) or "one with none of them",
      path,
    )
  if SCALES in inputs and not request.image_scales:
    raise errors.InputError(
      "image_scales in the configuration, as the model takes them", "none", path
    )


def check_size(image, inputs, request):
  """Raises InputError if an image has no pixel left at one of the scales.

  Args:
    image: [..., H, W, 3].
    inputs: Names of the model's inputs.
    request: Request.
  """
  if SCALES not in inputs:
    return
  scales = np.float32(request.image_scales)
  if not request.use_local:
    scales = scales[list(request.global_scales)]
  # As the models round: float32, half to even.
  shortest = np.float32(min(image.shape[-3:-1]))
  if not np.round(shortest * min(scales)):
    raise errors.InputError(
      "an image of at least one pixel a side at each scale",
      f"{image.shape[-3]} x {image.shape[-2]} (height x width), at scale"
      f" {min(scales):g}",
    )


def l2_normalized(values):
  """Returns float32 values at L2 norm 1 along the last axis; zeros stay.

  As `tf.nn.l2_normalize`: squared norms under 1e-12 count as 1e-12.
  """
  squared = np.square(values).sum(axis=-1, keepdims=True, dtype=np.float32)
  return values / np.sqrt(np.maximum(squared, np.float32(1e-12)))


def chosen_rows(descriptors, inputs, request):
  """Returns the global descriptors asked for, of all that a model gives.

  Args:
    descriptors: [S, D], one for each scale that the model ran.
    inputs: Names of its inputs.
    request: Request.

  Returns:
    [G, D]: a model that takes positions, or just the scales asked for, gives
    these alone. Of one that does not, their rows.

  Raises:
    InputError: If it has other scales than the request, which asks for some.
  """
  chosen = sorted(set(request.global_scales))
  number = len(request.image_scales)
  narrowed = SCALES in inputs and not request.use_local
  if INDICES in inputs or narrowed or chosen == list(range(number)):
    return descriptors
  if len(descriptors) != number:
    raise errors.InputError(
      f"a model that has {number} scales, as image_scales, to take"
      f" image_scales_ind {chosen} of",
      f"one of {len(descriptors)}",
    )
  return descriptors[chosen]


def tidy(arrays, inputs, request):
  """Returns one image's arrays as `ExtractionModel.prepare` describes them."""
  shaped = {}
  for name, array in arrays.items():
    if name == "scores":
      shaped[name] = array.reshape(-1)
    elif name == GLOBAL_OUTPUTS[0]:
      shaped[name] = chosen_rows(array, inputs, request)
    elif name in GLOBAL_OUTPUTS:
      shaped[GLOBAL_OUTPUTS[0]] = array[np.newaxis]
    else:
      shaped[name] = array
  return shaped


def row(arrays, index, count):
  """Returns the arrays of one image of a batch."""
  return {
    name: array[index][:count] if name in LOCAL_OUTPUTS else array[index]
    for name, array in arrays.items()
  }
