"""Names of the tensors of models, and what a request for features feeds."""

import dataclasses
import os
from collections.abc import Collection, Iterable

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
  """What to extract from an image."""

  image_scales: tuple[float, ...]  # Empty for a model with scales of its own.
  use_local: bool = True
  max_feature_num: int = 1000
  abs_thres: float = 0.0  # Least attention of a local feature.
  # Positions in `image_scales` of the global descriptors; None for no
  # descriptors, empty without `image_scales` for all of the model.
  global_scales: tuple[int, ...] | None = None

  @property
  def use_global(self) -> bool:
    """Whether global descriptors are requested."""
    return self.global_scales is not None


def wanted(request: Request, outputs: Collection[str]) -> list[str]:
  """Return the names of the outputs that a request needs."""
  names = list(LOCAL_OUTPUTS) if request.use_local else []
  if request.use_global:
    names.append(next(name for name in GLOBAL_OUTPUTS if name in outputs))
  return names


def feeds(inputs: Collection[str], request: Request) -> dict[str, np.ndarray]:
  """Return the values of all inputs but the image.

  A part that is not requested gets what makes it cheapest.
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


def check(
  request: Request,
  inputs: Iterable[str],
  outputs: Iterable[str],
  path: str | os.PathLike,
) -> None:
  """Raise InputError if a model (at a path) lacks what a request needs."""
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


def check_size(
  image: np.ndarray, inputs: Collection[str], request: Request
) -> None:
  """Raise InputError if [..., H, W, 3] has no pixel left at a scale."""
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


def l2_normalized(values: np.ndarray) -> np.ndarray:
  """Return float32 values at L2 norm 1 along the last axis; zeros stay.

  As `tf.nn.l2_normalize`: squared norms under 1e-12 count as 1e-12.
  """
  squared = np.square(values).sum(axis=-1, keepdims=True, dtype=np.float32)
  return values / np.sqrt(np.maximum(squared, np.float32(1e-12)))


def tidy(
  arrays: dict[str, np.ndarray], inputs: Collection[str], request: Request
) -> dict[str, np.ndarray]:
  """Return one image's outputs as `ExtractionModel.prepare` describes them."""
  shaped = dict(arrays)
  if "scores" in shaped:
    shaped["scores"] = shaped["scores"].reshape(-1)
  of_scales, pooled = GLOBAL_OUTPUTS
  if of_scales in shaped:
    shaped[of_scales] = _chosen_rows(shaped[of_scales], inputs, request)
  elif pooled in shaped:
    shaped[of_scales] = shaped.pop(pooled)[np.newaxis]
  return shaped


def _chosen_rows(descriptors, inputs, request):
  """Returns the requested rows of descriptors [S, D], one per scale."""
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


def refused(error: Exception, path: str | os.PathLike) -> errors.InputError:
  """Return the error for an image that a runtime does not take."""
  # Errors of runtimes go on for pages; the first words say what happened.
  reason = " ".join(str(error).split())[:300]
  return errors.InputError(
    "an image that the model takes", f"another ({reason})", path
  )
