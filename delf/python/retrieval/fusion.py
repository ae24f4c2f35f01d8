"""One ranking from several, such as of ASMK and of global descriptors."""

import dataclasses
import numbers

import numpy as np

from delf.python import errors
from delf.python.retrieval import ranking

CONVEX, RANKS = "convex", "ranks"
METHODS = (CONVEX, RANKS)
# Weights of ASMK* and of global descriptors, "convex", of the model that comes
# with the package: the best of tenths on training photos, where its ASMK* alone
# is far better than its global descriptors (`benchmarks/retrieval_tuning.py`).
# Global descriptors that were trained on landmarks deserve more.
ASMK_AND_GLOBAL = (0.9, 0.1)


@dataclasses.dataclass(frozen=True)
class FusionOptions:
  """How rankings become one.

  Attributes:
    method: "convex": the weighted sum of scores that are brought to [0, 1] a
      query, by their least and largest (CombSUM of Fox and Shaw, TREC-2 1994,
      on the scores of J. H. Lee, SIGIR 1997). "ranks": the weighted sum of
      1 / (constant + rank), rank from 1 (reciprocal rank fusion, Cormack et
      al., SIGIR 2009), which asks nothing of the scores.
    constant: Of "ranks"; the paper's is 60.
  """

  method: str = CONVEX
  constant: float = 60.0

  def __post_init__(self):
    if self.method not in METHODS:
      raise errors.InputError(f"one of {', '.join(METHODS)}", repr(self.method))
    if not _is_number(self.constant) or self.constant < 0:
      raise errors.InputError("a constant of at least 0", repr(self.constant))


def fuse(rankings, weights=None, k=None, options=None):
  """Joins rankings of one collection for the same queries.

  An image that is missing in a ranking, or has -inf there, counts as no better
  than the last in it: it adds nothing. So every ranking should reach deep.

  Args:
    rankings: Sequence of ranking.Ranking, each [Q, k_i].
    weights: Sequence of float, at least 0, one a ranking; None: all the same.
    k: Number of images a query, or None for as many as the longest.
    options: FusionOptions, or None for the default.

  Returns:
    ranking.Ranking, with -1 where all rankings together have too few images.

  Raises:
    InputError: If there is no ranking, their numbers of queries differ, the
      weights do not fit, or k is not over 0.
  """
  options = options or FusionOptions()
  rankings = _checked(rankings)
  shares = _shares(weights, len(rankings))
  longest = max(each.ids.shape[1] for each in rankings)
  k = longest if k is None else ranking.check_k(k)
  ids = np.concatenate([each.ids for each in rankings], axis=1)
  values = np.concatenate(
    [
      share * _values(each, options)
      for share, each in zip(shares, rankings, strict=True)
    ],
    axis=1,
  )
  return _top(*_summed(ids, values), k)


def normalised(scores):
  """Returns [Q, k] scores brought to [0, 1] a row; -inf becomes 0.

  All are 1 in a row where they are the same.
  """
  there = np.isfinite(scores)
  most = np.where(there, scores, -np.inf).max(
    axis=1, keepdims=True, initial=-np.inf
  )
  least = np.where(there, scores, np.inf).min(
    axis=1, keepdims=True, initial=np.inf
  )
  with np.errstate(invalid="ignore"):
    span = most - least
    shares = np.where(
      span > 0, (scores - least) / np.where(span > 0, span, 1), 1.0
    )
  return np.where(there, shares, 0.0)


def _values(found, options):
  """Returns [Q, k] float64, what each image of a ranking adds."""
  there = (found.ids >= 0) & np.isfinite(found.scores)
  if options.method == CONVEX:
    scores = np.where(there, found.scores.astype(np.float64), -np.inf)
    return normalised(scores)
  ranks = np.arange(1, found.ids.shape[1] + 1)
  return there / (options.constant + ranks)


def _summed(ids, values):
  """Adds the values of equal ids of a row.

  Returns:
    [Q, W] ids with -1 in all but one place of each id, and float64 sums.
  """
  order = np.argsort(ids, axis=1, kind="stable")
  ids = np.take_along_axis(ids, order, axis=1)
  values = np.take_along_axis(values, order, axis=1)
  starts = np.ones(ids.shape, bool)
  starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
  # Each row starts a new id, so that one sum over all rows serves.
  group = np.cumsum(starts.ravel()) - 1
  sums = np.bincount(group, weights=values.ravel()) if group.size else values
  return np.where(starts, ids, -1), sums[group].reshape(ids.shape)


def _top(ids, values, k):
  """Returns the Ranking of the k largest values, ties by lower id."""
  width = max(k - ids.shape[1], 0)
  ids = np.pad(ids, [(0, 0), (0, width)], constant_values=-1)
  values = np.pad(values, [(0, 0), (0, width)])
  scores = np.where(ids >= 0, values, -np.inf).astype(np.float32)
  order = np.lexsort((ids, -scores), axis=1)[:, :k]
  return ranking.Ranking(
    np.take_along_axis(ids, order, axis=1).astype(np.int32),
    np.take_along_axis(scores, order, axis=1),
  )


def _checked(rankings):
  rankings = list(rankings)
  if not rankings:
    raise errors.InputError("rankings to fuse", "none")
  lengths = sorted({len(each) for each in rankings})
  if len(lengths) > 1:
    raise errors.InputError(
      "rankings of the same queries", f"{lengths} queries"
    )
  return rankings


def _shares(weights, number):
  """Returns the weights as float64 that sum to 1."""
  weights = [1.0] * number if weights is None else list(weights)
  if len(weights) != number or not all(map(_is_weight, weights)):
    raise errors.InputError(f"{number} weights of at least 0", repr(weights))
  if not sum(weights) > 0:
    raise errors.InputError("a weight over 0", "all 0")
  return np.array(weights, np.float64) / sum(weights)


def _is_weight(weight):
  return _is_number(weight) and weight >= 0


def _is_number(value):
  return isinstance(value, numbers.Real) and bool(np.isfinite(value))
