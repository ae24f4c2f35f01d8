"""What a training on one's own photos is told."""

import dataclasses

from delf.python import errors

# Of the embedded model's network, and of a model without any training.
SCRATCH = "scratch"

# Fewer are no material: a tenth of them is kept to measure with.
FEWEST_PHOTOS = 10

# What `self_supervised.data` asks for, said before photos are read.
_LEAST_SIDE, _STRIDE = 64, 8

# Values of `labels` that are no file.
AUTO, FOLDERS, NO_LABELS = "auto", "folders", "none"


@dataclasses.dataclass(frozen=True)
class TrainOptions:
  """What a training is told.

  Attributes:
    start: Model to begin with: name of the embedded one, "scratch", folder of
      an exported model, or a checkpoint (.npz) of training.
    labels: "folders", "none", "auto" (folders, where photos lie in sub-folders
      alone), or path of a CSV file of photos and classes.
    minutes: Time to learn; None where `steps` says how much.
    steps: Steps to learn, or None.
    rate: Highest learning rate; None for 3e-4, or 1.5e-3 from scratch.
    batch: Pairs of views in a step; None for 8, or as many as there can be.
    view: Pixels of a view's side.
    size: Pixels that the longer side of photos is scaled down to.
    seed: Of all that is random.
    rotate: Whether photos are turned as their EXIF orientation says.
  """

  start: str = "delf-compact"
  labels: str = AUTO
  minutes: float | None = None
  steps: int | None = None
  rate: float | None = None
  batch: int | None = None
  view: int = 192
  size: int = 400
  seed: int = 0
  rotate: bool = False

  def __post_init__(self):
    if (self.minutes is None) == (self.steps is None):
      raise errors.InputError("a number of minutes or of steps", "both or none")
    for name, value in (("view", self.view), ("size", self.size)):
      if value < _LEAST_SIDE or (name == "view" and value % _STRIDE):
        raise errors.InputError(
          f"a {name} of {_LEAST_SIDE} pixels or more, a view a multiple of "
          f"{_STRIDE}",
          value,
        )

  @property
  def highest_rate(self):
    """The learning rate that is used."""
    if self.rate is not None:
      return self.rate
    return 1.5e-3 if self.start == SCRATCH else 3e-4

  def budget(self):
    """Returns the minutes or steps as words."""
    if self.steps is not None:
      return f"{self.steps} steps"
    return f"{self.minutes:g} minutes"
