"""Precision-recall curves of rankings, for a picture."""

import numpy as np

from delf.python import errors
from delf.python.datasets.revisited_op import metrics


def mean_curve(rankings, positives, junk=None, levels=101):
  """Returns the mean precision at levels of recall.

  Of each query it is the interpolated precision: the highest at that recall or
  a higher one, and 0 at recalls that its ranking does not reach (Manning et
  al., Introduction to Information Retrieval, 2008, section 8.4). The area under
  it is near mAP, not equal to it.

  Args:
    rankings: [k] int arrays, one for each query: ids of the images, best
      first. A negative id stands for none.
    positives: int arrays, one for each query: ids that are right.
    junk: int arrays, one for each query: ids that count as not there; or None.
    levels: Number of recalls, from 0 to 1.

  Returns:
    (recalls [levels] float64, precisions [levels] float64), in [0, 1]; mean of
    the queries that have a positive, NaN where none has.

  Raises:
    InputError: If the lists differ in length or an image is ranked twice.
  """
  junk = [()] * len(rankings) if junk is None else junk
  if not len(rankings) == len(positives) == len(junk):
    raise errors.InputError(
      f"positives and junk of {len(rankings)} queries",
      f"{len(positives)} and {len(junk)}",
    )
  recalls = np.linspace(0, 1, levels)
  rows = [
    _interpolated(np.asarray(ids), right, left_out, recalls)
    for ids, right, left_out in zip(rankings, positives, junk, strict=True)
    if len(right)
  ]
  if not rows:
    return recalls, np.full([levels], np.nan)
  return recalls, np.mean(rows, axis=0)


def _interpolated(ids, positives, junk, recalls):
  """Returns the interpolated precision of one query at `recalls`."""
  positives = np.unique(np.asarray(positives, np.int64))
  ids, junk = ids.astype(np.int64), np.asarray(junk, np.int64)
  ranks = metrics.positive_ranks(ids, positives, junk)
  precisions = np.arange(1, len(ranks) + 1) / (ranks + 1)
  # From each positive on the highest precision; 0 past the last one.
  best = np.append(np.maximum.accumulate(precisions[::-1])[::-1], 0.0)
  needed = np.maximum(np.ceil(recalls * len(positives) - 1e-9), 1)
  return best[np.minimum(needed.astype(int) - 1, len(ranks))]
