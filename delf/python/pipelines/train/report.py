"""What became of a training on one's own photos."""

import dataclasses

from delf.python.pipelines.train import card

# Names of what is measured.
BEFORE, ALONE, AFTER = "before", "labels alone", "after"

_SAID = {
  BEFORE: "no gain on held-out photos, so that the model that it began with "
  "was kept",
  ALONE: "the first model with a global head of the classes; training the rest "
  "brought no gain on held-out photos",
  AFTER: "the trained model",
}


@dataclasses.dataclass(frozen=True)
class TrainReport:
  """What became of a training.

  Attributes:
    out: Folder of the model.
    steps: Steps made.
    photos: Photos that were trained on.
    held_out: Photos that were measured with.
    classes: Number of classes, 0 without.
    pairs: Pairs of two photos that were trained on.
    scores: dict by BEFORE, ALONE (with classes) and AFTER of measuring.Scores.
    seconds: dict by phase.
    failed: extract_report.Failure of each photo that was left out.
  """

  out: str
  steps: int
  photos: int
  held_out: int
  classes: int
  pairs: int
  scores: dict
  seconds: dict
  failed: tuple = ()

  @property
  def kept(self):
    """Name of the best in `scores`, the first of equal ones."""
    return max(self.scores, key=lambda name: self.scores[name].overall())

  @property
  def exit_status(self):
    """Exit status of a program that did this."""
    return 1 if self.failed else 0

  def lines(self):
    """Returns lines for people."""
    classes = f" in {self.classes} classes" if self.classes else ""
    total = sum(self.seconds.values())
    yield (
      f"{self.steps} steps on {self.photos} photos{classes} in {total:.0f} s; "
      f"{self.held_out} photos held out"
    )
    found = card.rows(self.scores)
    width = max(len(row[0]) for row in found)
    for name, *values in found:
      yield f"  {name:<{width}}" + "".join(f"{v:>14}" for v in values)
    yield f"{self.out}: {_SAID[self.kept]}; MODEL_CARD.md says all of it"
