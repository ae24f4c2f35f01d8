"""Which words may be the nearest to descriptors, by blocked matrix products.

A score, x . c - |c|^2 / 2, is highest for the nearest word, and for all words
it is one matrix product. What is returned are the words whose score may be the
best as far as rounding lets one say. Of few words all scores are held; of many
words the best of each group, and those of the best groups are computed anew.
"""

import numpy as np

from delf.python import orders

# Words whose best score stands for all of them.
_GROUP = 16
# Words of which all scores are held; from there on groups are faster (measured
# from 256 to 65536 words of 128 values).
_FEW = 4096
# Scores held at once: of few words 2 MB of float32, which stay in a processor's
# cache, and of many 16 MB; best scores of groups, 32 MB.
_TABLE = 1 << 19
_BLOCK = 4_000_000
_MAXIMA = 8_000_000
# Most descriptors of a step.
_STEP = 1024
# Values of descriptors and words that are multiplied again at once.
_AGAIN = 1_000_000
# Words that are returned at once for more than one descriptor.
_CANDIDATES = 4_000_000
# A score lower than that of any word, for places of no word.
_NO_WORD = np.float32(-1e38)


class Scores:
  """Finds candidates among words. Threads may share it."""

  def __init__(self, centers):
    """Prepares the words; takes as much memory as they do.

    Args:
      centers: [K, D] float32, finite, K and D over 0.
    """
    self._words = len(centers)
    # Distances do not change when the origin does, and rounding errors shrink.
    origin = centers.mean(axis=0, dtype=np.float64)
    self._origin = origin.astype(np.float32)
    self._rows = _with_squares(centers, self._origin)
    squares = -2 * self._rows[: self._words, -1].min()
    self._longest = float(np.sqrt(squares))  # Of the centred words.

  def candidates(self, descriptors, number):
    """Finds the words that may be among the nearest.

    Args:
      descriptors: [N, D] float32, finite.
      number: Nearest words that are looked for, from 1 to K.

    Yields:
      Slice of the descriptors, one after the other; [P] int words, at least
      `number` for each of these, and all that may be among the nearest; and [P]
      int, which of these descriptors each is for, ascending, as are the words
      of each.
    """
    few = self._words < max(_FEW, number * _GROUP**2)
    held = _TABLE if few else _MAXIMA * _GROUP
    step = min(_STEP, max(1, held // len(self._rows)))
    find = self._of_few if few else self._of_many
    for first in range(0, len(descriptors), step):
      rows = slice(first, min(first + step, len(descriptors)))
      yield from find(rows, *self._prepared(descriptors[rows]), number)

  def _prepared(self, descriptors):
    """Returns centred descriptors with ones behind, and twice the error.

    A sum of D products in any order has an error under D u sum |x c|, where u
    is float32's unit of rounding (N. Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1); some more for the parts that are rounded
    before.

    Returns:
      [N, D + 1] float32; [N] float32, twice the largest error of a score.
    """
    dimension = descriptors.shape[1]
    centred = np.ones([len(descriptors), dimension + 1], np.float32)
    np.subtract(descriptors, self._origin, out=centred[:, :-1])
    lengths = np.sqrt(np.einsum("ij,ij->i", centred, centred))  # Over |x|.
    longest, unit = self._longest, np.finfo(np.float32).eps / 2
    error = (dimension + 8) * unit * (lengths + longest) * longest
    return centred, (2 * error).astype(np.float32)

  def _of_few(self, rows, centred, slack, number):
    """Yields what `candidates` does, from a table of all scores."""
    scores = centred @ self._rows.T
    least = _nth_highest(scores, number) - slack
    found = np.flatnonzero(scores >= least[:, np.newaxis])
    feature, word = np.divmod(found, scores.shape[1])
    yield rows, word, feature

  def _of_many(self, rows, centred, slack, number):
    """Yields what `candidates` does, from the best scores of groups."""
    maxima = self._maxima(centred)
    least = _nth_highest_of_many(maxima, number) - slack
    group, feature = np.nonzero(maxima >= least)
    if len(group) * _GROUP > _CANDIDATES and len(centred) > 1:
      # As where many words are one: fewer at once, so that memory stays.
      middle = len(centred) // 2
      for half in (slice(0, middle), slice(middle, len(centred))):
        of = slice(rows.start + half.start, rows.start + half.stop)
        yield from self._of_many(of, centred[half], slack[half], number)
      return
    found = self._again(centred, group, feature, least)
    order = orders.stable(found[1])
    word, feature, score = (each[order] for each in found)
    best = score[np.lexsort([-score, feature])]
    first = np.searchsorted(feature, np.arange(len(centred)))
    least = best[first + number - 1] - slack
    keep = score >= least[feature]
    yield rows, word[keep], feature[keep]

  def _maxima(self, centred):
    """Returns the best scores of groups of words, [groups, N] float32."""
    number, words = len(centred), len(self._rows)
    maxima = np.empty([words // _GROUP, number], dtype=np.float32)
    step = max(2048, _BLOCK // number // _GROUP * _GROUP)
    table = np.empty([min(step, words), number], dtype=np.float32)
    for start in range(0, words, step):
      rows = self._rows[start : start + step]
      scores = np.matmul(rows, centred.T, out=table[: len(rows)])
      scores = scores.reshape(-1, _GROUP, number)
      some = slice(start // _GROUP, (start + step) // _GROUP)
      np.maximum.reduce(scores, axis=1, out=maxima[some])
    return maxima

  def _again(self, centred, group, feature, least):
    """Returns word, feature and score [P] of what has at least `least`."""
    parts = []
    step = max(1, _AGAIN // (_GROUP * centred.shape[1]))
    rows = self._rows.reshape(-1, _GROUP, centred.shape[1])
    for start in range(0, len(group), step):
      some = slice(start, start + step)
      of = feature[some]
      scores = np.einsum("pgd,pd->pg", rows[group[some]], centred[of])
      pair, place = np.nonzero(scores >= least[of][:, np.newaxis])
      word = group[some][pair] * _GROUP + place
      parts.append((word, of[pair], scores[pair, place]))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _with_squares(centers, origin):
  """Returns centred rows, each with -|c|^2 / 2 behind it, in whole groups."""
  number, dimension = centers.shape
  padded = -(-number // _GROUP) * _GROUP
  rows = np.zeros([padded, dimension + 1], dtype=np.float32)
  centred = rows[:number, :-1]
  np.subtract(centers, origin, out=centred)
  squares = np.einsum("ij,ij->i", centred, centred)
  rows[:number, -1] = squares / -2
  rows[number:, -1] = _NO_WORD
  return rows


def _nth_highest(scores, number):
  """Returns a bound, [N], that at least `number` of [N, K] scores reach."""
  if number == 1:
    return scores.max(axis=1)
  groups = scores.shape[1] // _GROUP
  if groups >= 2 * number:  # So many of the best are in different ones.
    scores = scores.reshape(len(scores), _GROUP, groups).max(axis=1)
  return np.partition(scores, -number, axis=1)[:, -number]


def _nth_highest_of_many(maxima, number):
  """Returns a bound, [N], that at least `number` of [groups, N] maxima reach.

  Args:
    maxima: [groups, N] float32.
    number: At most as many as there are groups of groups.
  """
  while len(maxima) >= max(2, number) * _GROUP:
    whole = len(maxima) // _GROUP * _GROUP
    coarse = maxima[:whole].reshape(-1, _GROUP, maxima.shape[1])
    maxima = np.maximum.reduce(coarse, axis=1)
  return np.partition(maxima, len(maxima) - number, axis=0)[-number]
