"""A quick measure of held-out photos while a model learns."""

import numpy as np

_BATCHES, _PAIRS = 2, 4


def make(learner, side, view, seed):
  """Returns a function that measures a model as it is.

  Args:
    learner: self_supervised.trainer.Trainer.
    side: collecting.Side of held-out photos.
    view: Pixels of a view's side.
    seed: Of the views.

  Returns:
    Function of no arguments: the share of points of fixed pairs of views that
    are each other's nearest.
  """
  from delf.python.training.self_supervised import data, trainer

  number = min(_PAIRS, side.batch())
  batches = [
    data.Source(
      side.photos,
      side.pairs,
      data.Options(pairs=number, side=view, seed=(seed, 2, i)),
    ).batch()
    for i in range(_BATCHES)
  ]
  place = trainer.TERMS.index("found")

  def check():
    found = [learner.evaluate(batch)[place] for batch in batches]
    return float(np.mean(found))

  return check
