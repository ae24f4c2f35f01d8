"""What a training of a detector is told."""

import dataclasses

from delf.python import errors

SCRATCH = "scratch"


@dataclasses.dataclass(frozen=True)
class DetectorOptions:
  """Settings of a training; runs of other settings do not go on.

  Attributes:
    start: Folder or name of the detector to begin with; or "scratch", for a
      head of random weights on the backbone of the embedded one.
    minutes: Time to learn, or None.
    steps: Steps to learn, or None; one of the two is given.
    rate: Highest learning rate.
    batch: Views of a step.
    pasted: Share of views in which what is in a box is pasted elsewhere.
    size: Longer side that photos are scaled down to, in pixels.
    seed: Of everything that is drawn.
    rotate: Whether the EXIF orientation is applied.

  Raises:
    InputError: If a number cannot be.
  """

  start: str = "delf-boxes"
  minutes: float | None = 15.0
  steps: int | None = None
  rate: float = 5e-4
  batch: int = 8
  pasted: float = 0.3
  size: int = 400
  seed: int = 0
  rotate: bool = False

  def __post_init__(self):
    if (self.minutes is None) == (self.steps is None):
      raise errors.InputError("a number of minutes or of steps", "both or none")
    if self.size < 64:
      raise errors.InputError("a size of 64 pixels or more", self.size)
    if not 0 <= self.pasted <= 1:
      raise errors.InputError("a share in [0, 1] as pasted", self.pasted)
