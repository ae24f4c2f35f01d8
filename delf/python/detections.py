"""What a detector found in one image, checked."""

import dataclasses

import numpy as np

from delf.python import boxes, errors


@dataclasses.dataclass(frozen=True)
class Detections:
  """What a detector found in one image, in the detector's order.

  Attributes:
    boxes: [N, 4] float32 (ymin, xmin, ymax, xmax) in [0, 1], each of some area.
    scores: [N] float32.
    classes: [N] int32.
  """

  boxes: np.ndarray
  scores: np.ndarray
  classes: np.ndarray

  def __len__(self):
    """Returns the number of boxes."""
    return len(self.scores)

  def take(self, indices):
    """Returns the Detections of some indices, or of a mask."""
    return Detections(
      self.boxes[indices], self.scores[indices], self.classes[indices]
    )

  def at_least(self, threshold):
    """Returns those with at least a score, in order.

    Args:
      threshold: float; compared in float32, as scores are stored.
    """
    return self.take(self.scores >= np.float32(threshold))

  def apart(self, most_overlap):
    """Returns those left when each box has dropped weaker ones that it covers.

    Args:
      most_overlap: As in `boxes.suppress`; boxes of two classes may overlap.
    """
    kept = boxes.suppress(
      self.boxes, self.scores, most_overlap, classes=self.classes
    )
    return self.take(np.sort(kept))


def of_model(found, scores, classes, path=None):
  """Returns what a detector gave for one image, with what can be no box gone.

  What reaches out of the image is cut off. Boxes of no area, which is what many
  detectors fill up with, and boxes beside the image are dropped.

  Args:
    found: [N, 4] boxes.
    scores: [N].
    classes: [N], integers or floats that hold them.
    path: Of the detector, for errors.

  Returns:
    Detections, in the order given.

  Raises:
    InputError: If shapes do not fit together, or there are boxes that are no
      numbers or in pixels, scores that are no numbers, or classes that are no
      integers.
  """
  found = boxes.check_unit(found, path)
  scores, classes = np.asarray(scores, np.float32), np.asarray(classes)
  if not scores.shape == classes.shape == found.shape[:1]:
    raise errors.InputError(
      f"a score and a class of each of {len(found)} boxes",
      f"shapes {list(scores.shape)} and {list(classes.shape)}",
      path,
    )
  boxes.refuse(~np.isfinite(scores), scores, "scores that are numbers", path)
  with np.errstate(invalid="ignore"):  # NaN, which is refused next.
    numbers = np.rint(classes).astype(np.int32)
  boxes.refuse(numbers != classes, classes, "whole numbers as classes", path)
  inside = boxes.clip(found)
  return Detections(inside, scores, numbers).take(boxes.areas(inside) > 0)
