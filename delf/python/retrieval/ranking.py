"""Which images of a collection are most like each query."""

import dataclasses

import numpy as np

from delf.python import errors


@dataclasses.dataclass(frozen=True)
class Ranking:
  """The best images of each query, best first; ties by lower id.

  Attributes:
    ids: [Q, k] int32, indices into the names of the collection. Where there are
      fewer than k images, the last of a row are -1.
    scores: [Q, k] float32, descending; -inf where the id is -1.
  """

  ids: np.ndarray
  scores: np.ndarray

  def __len__(self):
    return len(self.ids)


def top_k(scores, k=None):
  """Finds the best images of each query.

  Args:
    scores: [Q, N] array of numbers without NaN, of N images for Q queries.
    k: Number of images a query, or None for all of them.

  Returns:
    Ranking.

  Raises:
    InputError: If k is not over 0.
  """
  scores = np.asarray(scores, dtype=np.float32)
  k = max(scores.shape[1], 1) if k is None else check_k(k)
  ids = np.full([len(scores), k], -1, np.int32)
  best = np.full([len(scores), k], -np.inf, np.float32)
  for row, found in enumerate(scores):
    first = _best(found, k)
    ids[row, : len(first)] = first
    best[row, : len(first)] = found[first]
  return Ranking(ids, best)


def recall(found, exact, k):
  """Returns the share of the k best images that a search found among its k.

  Args:
    found: Ranking of the search.
    exact: Ranking of an exact search for the same queries.
    k: Number of images a query; both have at least as many.

  Returns:
    float from 0 to 1, the mean over queries (recall@k).
  """
  one, two = found.ids[:, :k], exact.ids[:, :k]
  there = (one[:, :, None] == two[:, None, :]) & (two[:, None, :] >= 0)
  return float(there.any(axis=1).sum() / max(np.count_nonzero(two >= 0), 1))


def check_k(k):
  """Returns the number of images that is asked for; raises an InputError."""
  if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
    raise errors.InputError("a number of images over 0", repr(k))
  return int(k)


def _best(scores, k):
  """Returns the indices of the k best of [N] scores, best first."""
  if k < len(scores):
    # A sort of all takes longer, and a partition alone takes any of the ties.
    least = np.partition(scores, -k)[-k]
    above = np.flatnonzero(scores > least)
    ties = np.flatnonzero(scores == least)[: k - len(above)]
    found = np.concatenate([above, ties])
  else:
    found = np.arange(len(scores))
  return found[np.argsort(-scores[found], kind="stable")]
