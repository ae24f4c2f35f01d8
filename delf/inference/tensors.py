"""Tensor names of models, and the feeds and fetches of a request."""

import dataclasses
import os
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from delf.base import errors

IMAGE, IMAGES = "input_image", "input_images"
SCALES = "input_scales"
THRESHOLD = "input_abs_thres"
MAX_FEATURE_NUM = "input_max_feature_num"
INDICES = "input_global_scales_ind"
COUNTS = "counts"

LOCAL_OUTPUTS = ("boxes", "features", "scales", "scores")
# The first has a row per scale, the second is pooled over the scales.
GLOBAL_OUTPUTS = ("global_descriptors", "global_descriptor")

# Outputs of detectors, whose input is IMAGES.
DETECTIONS = ("detection_boxes", "detection_scores", "detection_classes")

INPUTS = (IMAGE, SCALES, THRESHOLD, MAX_FEATURE_NUM, INDICES)
LOCAL_INPUTS = (IMAGE, SCALES, THRESHOLD, MAX_FEATURE_NUM)


@dataclasses.dataclass(frozen=True)
class Request:
  """Features to extract from an image."""

  image_scales: tuple[float, ...]  # Empty for a model with fixed scales.
  use_local: bool = True
  max_feature_num: int = 1000
  abs_thres: float = 0.0  # Least attention of a local feature.
  # Positions in `image_scales` of the global descriptors; None for no
  # descriptors. Empty without `image_scales`: all scales of the model.
  global_scales: tuple[int, ...] | None = None

  @property
  def use_global(self) -> bool:
    """Whether global descriptors are requested."""
    return self.global_scales is not None


def fetches(request: Request, outputs: Collection[str]) -> list[str]:
  """Return the names of the outputs that a request needs."""
  names = list(LOCAL_OUTPUTS) if request.use_local else []
  if request.use_global:
    names.append(next(name for name in GLOBAL_OUTPUTS if name in outputs))
  return names


def feeds(inputs: Collection[str], request: Request) -> dict[str, np.ndarray]:
  """Return the values of all inputs but the image.

  The inputs of a part that is not requested minimise its cost.
  """
  scales = list(request.image_scales)
  indices = sorted(set(request.global_scales or ()))
  threshold, most = request.abs_thres, request.max_feature_num
  if not request.use_local:
    scales = [scales[index] for index in indices]
    indices = list(range(len(scales)))
    threshold, most = float("inf"), 1
  values = {
    SCALES: np.array(scales, np.float32),
    THRESHOLD: np.array(threshold, np.float32),
    MAX_FEATURE_NUM: np.array(most, np.int32),
    # Models of both parts reject an empty list.
    INDICES: np.array(indices or [int(np.argmin(scales or [0]))], np.int32),
  }
  return {name: value for name, value in values.items() if name in inputs}


def check(
  request: Request,
  inputs: Iterable[str],
  outputs: Iterable[str],
  path: str | os.PathLike,
) -> None:
  """Raise InputError if a model lacks a tensor that a request needs."""
  needed = [*LOCAL_INPUTS, *LOCAL_OUTPUTS] if request.use_local else []
  names = {IMAGE if n == IMAGES else n for n in (*inputs, *outputs)}
  missing = {IMAGE, *needed} - names
  if request.use_global:
    needed.append(" or ".join(GLOBAL_OUTPUTS))
    missing |= set() if names & set(GLOBAL_OUTPUTS) else {needed[-1]}
  unknown = set(inputs) - {*INPUTS, IMAGES}
  if missing or unknown:
    needed = [IMAGE, *(name for name in needed if name != IMAGE)]
    raise errors.InputError(
      f"the extraction needs a model with the tensors {', '.join(needed)}, but"
      f" this model has {', '.join(sorted(names)) or 'none of them'}",
      path=path,
    )
  if SCALES in inputs and not request.image_scales:
    message = "set image_scales in the configuration: the model has none"
    raise errors.InputError(message, path=path)


def check_size(
  image: np.ndarray, inputs: Collection[str], request: Request
) -> None:
  """Raise InputError if an image [..., H, W, 3] vanishes at a scale."""
  if SCALES not in inputs:
    return
  scales = request.image_scales
  if not request.use_local:
    scales = tuple(scales[i] for i in request.global_scales or ())
  # The models round float32, half to even.
  smallest = np.float32(min(scales))
  if not np.round(np.float32(min(image.shape[-3:-1])) * smallest):
    raise errors.InputError(
      f"the image is too small: {image.shape[-3]} x {image.shape[-2]} (height x"
      f" width) has no pixel left at scale {smallest:g}"
    )


def check_shape(
  array: np.ndarray,
  shape: Sequence[int | None],
  name: str,
  path: str | os.PathLike,
) -> None:
  """Raise InputError if an array has another shape; None is any size."""
  pairs = zip(shape, array.shape, strict=False)
  if len(shape) != array.ndim or any(s not in (None, n) for s, n in pairs):
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    message = f"{name} must have shape [{sizes}], not {list(array.shape)}"
    raise errors.InputError(message, path=path)


def l2_normalized(values: np.ndarray) -> np.ndarray:
  """Return float32 values scaled to L2 norm 1 along the last axis.

  Squared norms under 1e-12 count as 1e-12, as in `tf.nn.l2_normalize`; zeros
  stay zeros.
  """
  squared = np.square(values).sum(axis=-1, keepdims=True, dtype=np.float32)
  return values / np.sqrt(np.maximum(squared, np.float32(1e-12)))


def tidy(
  arrays: dict[str, np.ndarray], inputs: Collection[str], request: Request
) -> dict[str, np.ndarray]:
  """Return one image's outputs in the form of `ExtractionModel.prepare`."""
  shaped = dict(arrays)
  if "scores" in shaped:
    shaped["scores"] = shaped["scores"].reshape(-1)
  per_scale, pooled = GLOBAL_OUTPUTS
  if per_scale in shaped:
    shaped[per_scale] = _requested_rows(shaped[per_scale], inputs, request)
  elif pooled in shaped:
    shaped[per_scale] = shaped.pop(pooled)[np.newaxis]
  return shaped


def _requested_rows(descriptors, inputs, request):
  """Returns the requested rows of descriptors [S, D], one per scale."""
  chosen = sorted(set(request.global_scales))
  number = len(request.image_scales)
  narrowed = SCALES in inputs and not request.use_local
  if INDICES in inputs or narrowed or chosen == list(range(number)):
    return descriptors
  if len(descriptors) != number:
    raise errors.InputError(
      f"image_scales_ind {chosen} refers to {number} image_scales, but the"
      f" model has {len(descriptors)} fixed scales"
    )
  return descriptors[chosen]


def image_error(error: Exception, path: str | os.PathLike) -> errors.InputError:
  """Return the error for an image on which a model failed."""
  # Messages of runtimes fill pages; their start names the cause.
  reason = " ".join(str(error).split())[:300]
  message = f"the model failed on the image: {reason}"
  return errors.InputError(message, path=path)
