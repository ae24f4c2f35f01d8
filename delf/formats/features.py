"""Features of an image: local features and a global descriptor."""

import dataclasses
from typing import Any

import numpy as np

from delf.base import arrays, errors


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LocalFeatures(arrays.Record):
  """Local features of one image; raises InputError if shapes do not fit."""

  locations: np.ndarray  # [N, 2] float, (y, x) of centres in pixels.
  scales: np.ndarray  # [N] float, inverse of the image scale.
  descriptors: np.ndarray  # [N, D] float.
  attention: np.ndarray  # [N] float, scores.
  # [N] float, radians; zeros if the model computes none.
  orientations: np.ndarray = None  # type: ignore[assignment]

  def __post_init__(self) -> None:
    number = len(self.locations)
    if self.orientations is None:
      zeros = np.zeros([number], dtype=np.float32)
      object.__setattr__(self, "orientations", zeros)
    for name in ("locations", "scales", "attention", "orientations"):
      actual = list(np.shape(getattr(self, name)))
      shape = [number, 2] if name == "locations" else [number]
      if actual != shape:
        raise errors.InputError(f"{name} must have shape {shape}, not {actual}")
    actual = list(np.shape(self.descriptors))
    if len(actual) != 2 or actual[0] != number:
      problem = f"must have shape [{number}, D], not {actual}"
      raise errors.InputError(f"descriptors {problem}")

  def __len__(self) -> int:
    return len(self.locations)

  @classmethod
  def empty(cls, dimension: int = 0) -> "LocalFeatures":
    """Return features of an image without any; descriptors are [0, D]."""
    none = np.zeros([0], dtype=np.float32)
    locations = np.zeros([0, 2], dtype=np.float32)
    descriptors = np.zeros([0, dimension], dtype=np.float32)
    return cls(locations, none, descriptors, none)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageFeatures(arrays.Record):
  """Features of one image; those not requested are None."""

  local: LocalFeatures | None = None
  # [D] float32; None also if the image is too small for it.
  global_descriptor: np.ndarray | None = None
  path: str | None = None  # Path of the image, if known.
  # The image where it has no path: bytes of a file, Pillow image or pixels.
  image: Any = dataclasses.field(default=None, compare=False, repr=False)
  # Whether the EXIF orientation was applied.
  is_rotated: bool = dataclasses.field(default=False, repr=False)
