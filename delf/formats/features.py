"""Features of an image: local features and a global descriptor."""

import dataclasses
from typing import Any

import numpy as np

from delf.base import arrays, errors


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LocalFeatures(arrays.Record):
  """The local features of one image; shapes are checked once, here."""

  locations: np.ndarray  # [N, 2] float, (y, x) of centres in pixels.
  scales: np.ndarray  # [N] float, inverse of the image scale.
  descriptors: np.ndarray  # [N, D] float.
  attention: np.ndarray  # [N] float, scores.
  # [N] float, radians; zeros where the model has none.
  orientations: np.ndarray = None  # type: ignore[assignment]

  def __post_init__(self):
    number = len(self.locations)
    if self.orientations is None:
      zeros = np.zeros([number], dtype=np.float32)
      object.__setattr__(self, "orientations", zeros)
    for name in ("locations", "scales", "attention", "orientations"):
      received = np.shape(getattr(self, name))
      shape = (number, 2) if name == "locations" else (number,)
      if received != shape:
        raise errors.InputError(
          f"{name} of shape {list(shape)}", f"shape {list(received)}"
        )
    if np.ndim(self.descriptors) != 2 or len(self.descriptors) != number:
      raise errors.InputError(
        f"descriptors of shape [{number}, D]",
        f"shape {list(np.shape(self.descriptors))}",
      )

  def __len__(self) -> int:
    return len(self.locations)

  @classmethod
  def empty(cls, dimension: int = 0) -> "LocalFeatures":
    """Return no features, of descriptors with `dimension` values."""
    none = np.zeros([0], dtype=np.float32)
    locations = np.zeros([0, 2], dtype=np.float32)
    descriptors = np.zeros([0, dimension], dtype=np.float32)
    return cls(locations, none, descriptors, none)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageFeatures(arrays.Record):
  """Features of one image; each is None where it was not requested.

  `global_descriptor`, [D] float32, is also None for an image too small for one.
  """

  local: LocalFeatures | None = None
  global_descriptor: np.ndarray | None = None
  path: str | None = None  # Of the image, where it is known.
  # The image where it has no path: bytes of a file, Pillow image or pixels.
  image: Any = dataclasses.field(default=None, compare=False, repr=False)
  # Whether the EXIF orientation was applied.
  is_rotated: bool = dataclasses.field(default=False, repr=False)
