"""The k best of scores that come block by block."""

import numpy as np

from delf.python.retrieval import ranking

_SIGN = np.uint32(1 << 31)
_LAST_ID = np.uint64((1 << 32) - 1)
_HALF = np.uint64(32)


class TopScores:
  """Keeps the k best scores of each query, ties by lower id.

  A score and its id are one integer that sorts as the pair does, so that a
  partition of these decides ties as well.
  """

  def __init__(self, number, k):
    """Starts without scores.

    Args:
      number: Number of queries, Q.
      k: Number of scores to keep a query.
    """
    # Zero, which no score has, stands for none.
    self._keys = np.zeros([number, k], np.uint64)
    self._least = np.full([number], -np.inf, np.float32)

  def add(self, scores, first):
    """Takes the scores of the images that follow.

    Args:
      scores: [Q, B] float32 without NaN. What is -inf is left out.
      first: Id of the first of these images; higher than all before.
    """
    # An equal score has a higher id than the one that is there, and loses.
    found = np.flatnonzero(scores > self._least[:, None])
    if not len(found):
      return
    rows, columns = np.divmod(found, scores.shape[1])
    counts = np.bincount(rows, minlength=len(scores))
    width, k = counts.max(), self._keys.shape[1]
    places = np.arange(len(rows)) - np.repeat(
      np.cumsum(counts) - counts, counts
    )
    keys = np.zeros([len(scores), k + width], np.uint64)
    keys[:, :k] = self._keys
    keys[rows, k + places] = _keys(scores.reshape(-1)[found], first + columns)
    keys.partition(width, axis=1)
    self._keys = keys[:, width:]
    self._least = _scores(self._keys[:, 0])

  def result(self):
    """Returns the ranking.Ranking of what was added."""
    keys = np.sort(self._keys, axis=1)[:, ::-1]
    ids = (_LAST_ID - (keys & _LAST_ID)).astype(np.int64)
    ids[keys == 0] = -1
    return ranking.Ranking(ids.astype(np.int32), _scores(keys))


def _keys(scores, ids):
  """Returns uint64 that sort as scores do, then as ids do the other way."""
  # Adding 0 makes -0, which is as much, 0.
  bits = (scores + np.float32(0)).view(np.uint32)
  ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
  return (ordered << _HALF) | (_LAST_ID - ids.astype(np.uint64))


def _scores(keys):
  """Returns the float32 scores of keys, -inf for none."""
  ordered = (keys >> _HALF).astype(np.uint32)
  bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered)
  return np.where(keys == 0, np.float32(-np.inf), bits.view(np.float32))
