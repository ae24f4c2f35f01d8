"""Batches of views with known boxes, drawn at random."""

import dataclasses

import numpy as np

from delf.python.training.detector import network, trainer, views

# Boxes of a photo; of more, the largest are kept.
MOST_BOXES = 8
# How far a pasted view is believed: its box is exact.
_PASTED_WEIGHT = 1.0
# A box is a part of another one that covers this share of it.
_PART_INSIDE = 0.9


@dataclasses.dataclass(frozen=True)
class Options:
  """How views are drawn.

  Attributes:
    number: Views of a batch.
    pasted: Share of views that are pasted.
    side: Of a view, in pixels.
    seed: int; views of a step are always the same.
  """

  number: int = 8
  pasted: float = 0.5
  side: int = network.SIDE
  seed: int = 0


def batch(known, options, step):
  """Draws the batch of a step.

  Args:
    known: list of known_boxes.Known, at least one.
    options: Options.
    step: int, number of the step.

  Returns:
    trainer.Batch.
  """
  rng = np.random.default_rng((options.seed, step))
  images, boxes, weights, pools = [], [], [], []
  for _ in range(options.number):
    one = known[rng.integers(len(known))]
    if len(one.boxes) and rng.random() < options.pasted:
      view, found, weight = _pasted(rng, one, known, options.side)
    else:
      view, found = views.window(rng, one.image, one.boxes, options.side)
      weight = one.weight
    images.append(view)
    boxes.append(padded(found))
    weights.append(weight)
    pools.append(one.pool)
  return trainer.Batch(
    np.stack(images), np.stack(boxes), np.float32(weights), pools
  )


def padded(boxes):
  """Returns boxes as float32 [MOST_BOXES, 4], the largest if there are more."""
  areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
  kept = boxes[np.sort(np.argsort(-areas, kind="stable")[:MOST_BOXES])]
  filled = np.zeros([MOST_BOXES, 4], np.float32)
  filled[: len(kept)] = kept
  return filled


def _pasted(rng, one, known, side):
  things = [_thing(rng, one)]
  other = known[rng.integers(len(known))]
  if len(other.boxes) and rng.random() < 0.25:
    things.append(_thing(rng, other))
  behind = known[rng.integers(len(known))].image
  view, boxes = views.pasted(rng, things, behind, side)
  return view, boxes, _PASTED_WEIGHT


def _thing(rng, one):
  """Returns what lies in one of the boxes of a photo, and its parts.

  Parts are the other boxes in it, float32 [N, 4], in parts of what is returned.
  """
  chosen = rng.integers(len(one.boxes))
  box = one.boxes[chosen]
  parts = views.inside(np.delete(one.boxes, chosen, 0), box, _PART_INSIDE)
  pixels = np.tile(one.image.shape[:2], 2)
  top, left, bottom, right = np.round(box * pixels).astype(int)
  cut = one.image[top : max(bottom, top + 8), left : max(right, left + 8)]
  return cut, parts


class Source:
  """The batches from a step on, one after the other; for `ahead.batches`."""

  def __init__(self, known, options, step):
    """Takes what `batch` takes; `step` is the first one."""
    self._known, self._options, self._step = known, options, step

  def batch(self):
    """Returns the batch of the next step."""
    self._step += 1
    return batch(self._known, self._options, self._step - 1)
