"""Visual words: which centres of a codebook are nearest to descriptors.

A score, x . c - |c|^2 / 2, is highest for the nearest centre, and for all
centres it is one matrix product. It is taken in blocks, of which only the best
score of each group of words stays. Words whose score may be the best, as far as
rounding lets one say, are then compared by their distance itself.
"""

import numpy as np

from delf.python import errors

# Words whose best score stands for all of them.
_GROUP = 16
# Scores held at once (16 MB of float32), and best scores of groups (32 MB).
_BLOCK = 4_000_000
_MAXIMA = 8_000_000
# Values of descriptors and centres that are compared exactly at once.
_EXACT_BLOCK = 1_000_000
# Words that are compared exactly for the descriptors of one step.
_CANDIDATES = 4_000_000
# Descriptors are shorter, so that squares of their distances are float32 still.
_LONGEST = 1e15
# A score lower than that of any word, for places of no word.
_NO_WORD = np.float32(-1e38)


class Words:
  """The words of a codebook, ready to be searched. Threads may share it."""

  def __init__(self, centers):
    """Prepares the search; takes as much memory as the codebook.

    Args:
      centers: [K, D] float32, finite; not copied.

    Raises:
      InputError: If it is of another shape, or has values that are not finite.
    """
    self.centers = check_descriptors(centers, "a codebook")
    if not self.centers.size:
      raise errors.InputError(
        "a codebook of shape [K, D]", f"{list(self.centers.shape)}"
      )
    # Distances do not change when the origin does, and rounding errors shrink.
    self._origin = self.centers.mean(axis=0, dtype=np.float64)
    self._origin = self._origin.astype(np.float32)
    self._rows = _with_squares(self.centers, self._origin)
    squares = -2 * self._rows[: len(self), -1].min()
    self._longest = float(np.sqrt(squares))  # Of the centred words.

  def __len__(self):
    return self.centers.shape[0]

  @property
  def dimension(self):
    """Dimension of the words."""
    return self.centers.shape[1]

  def nearest(self, descriptors, number=1):
    """Finds the nearest words of descriptors, by Euclidean distance.

    Args:
      descriptors: [N, D] float.
      number: Words for each, at least one, at most K.

    Returns:
      [N, number] int32, nearest first; of words at the same distance the one
      of the lower index first. Equal up to rounding in float64.

    Raises:
      InputError: If descriptors are of another dimension than the words or not
        finite, or the number cannot be.
    """
    descriptors = self.check(descriptors)
    if not 1 <= number <= len(self):
      raise errors.InputError(
        f"1 to {len(self)} words for each feature (num_assignments)", number
      )
    group = _GROUP if len(self) >= number * _GROUP**2 else 1
    found = np.empty([len(descriptors), number], dtype=np.int32)
    step = min(1024, max(1, _MAXIMA * group // len(self)))
    for start in range(0, len(descriptors), step):
      some = slice(start, start + step)
      found[some] = self._nearest(descriptors[some], number, group)
    return found

  def check(self, descriptors):
    """Returns descriptors as [N, D] float32, or raises an InputError."""
    descriptors = check_descriptors(descriptors, "features")
    if not len(descriptors):
      return np.zeros([0, self.dimension], dtype=np.float32)
    if descriptors.shape[1] != self.dimension:
      raise errors.InputError(
        f"features of dimension {self.dimension}, as the codebook has",
        f"dimension {descriptors.shape[1]}",
      )
    return descriptors

  def _nearest(self, descriptors, number, group):
    """Returns [N, number] int32 of few descriptors."""
    columns, slack = self._columns(descriptors), self._slack(descriptors)
    maxima = self._maxima(columns, group)
    least = _nth_highest(maxima, number) - slack
    groups, feature = np.nonzero(maxima >= least)
    if len(groups) * group > _CANDIDATES and len(descriptors) > 1:
      # As where many words are one: fewer at once, so that memory stays.
      halves = np.array_split(descriptors, 2)
      return np.concatenate(
        [self._nearest(half, number, group) for half in halves]
      )
    word, feature, score = self._scores(columns, groups, feature, group, least)
    order = np.lexsort([-score, feature])
    word, feature, score = word[order], feature[order], score[order]
    first = np.searchsorted(feature, np.arange(len(descriptors)))
    least = score[first + number - 1] - slack
    keep = score >= least[feature]
    word, feature = word[keep], feature[keep]
    if number > 1 or len(word) > len(descriptors):
      distance = self._distances(descriptors, word, feature)
      order = np.lexsort([word, distance, feature])
      word, feature = word[order], feature[order]
    first = np.searchsorted(feature, np.arange(len(descriptors)))
    return word[first[:, None] + np.arange(number)]

  def _columns(self, descriptors):
    """Returns [D + 1, N] float32: descriptors, centred, and ones below."""
    columns = np.empty([self.dimension + 1, len(descriptors)], np.float32)
    np.subtract(descriptors.T, self._origin[:, None], out=columns[:-1])
    columns[-1] = 1
    return columns

  def _slack(self, descriptors):
    """Returns [N] float32: twice the largest error of a score.

    A sum of D products in any order has an error under D u sum |x c|, where u
    is float32's unit of rounding (N. Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1); some more for the parts that are rounded
    before.
    """
    longest, unit = self._longest, np.finfo(np.float32).eps / 2
    length = np.linalg.norm(descriptors - self._origin, axis=1)
    error = (self.dimension + 8) * unit * (length + longest) * longest
    return (2 * error).astype(np.float32)

  def _maxima(self, columns, group):
    """Returns the best scores of groups of words, [groups, N] float32."""
    number = columns.shape[1]
    words = len(self._rows)
    maxima = np.empty([words // group, number], dtype=np.float32)
    step = max(2048, _BLOCK // number // _GROUP * _GROUP)
    table = np.empty([min(step, words), number], dtype=np.float32)
    for start in range(0, words, step):
      rows = self._rows[start : start + step]
      scores = np.matmul(rows, columns, out=table[: len(rows)])
      scores = scores.reshape(-1, group, number)
      some = slice(start // group, (start + step) // group)
      np.maximum.reduce(scores, axis=1, out=maxima[some])
    return maxima

  def _scores(self, columns, groups, feature, group, least):
    """Returns word, feature and score [P] of what has at least `least`."""
    parts = []
    step = max(1, _EXACT_BLOCK // (group * self.dimension))
    rows = self._rows.reshape(-1, group, self.dimension + 1)
    columns = np.ascontiguousarray(columns.T)
    for start in range(0, len(groups), step):
      some = slice(start, start + step)
      of = feature[some]
      scores = np.einsum("pgd,pd->pg", rows[groups[some]], columns[of])
      pair, place = np.nonzero(scores >= least[of][:, None])
      word = groups[some][pair] * group + place
      parts.append((word, of[pair], scores[pair, place]))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]

  def _distances(self, descriptors, word, feature):
    """Returns the squared distances of pairs, [P] float64."""
    distances = np.empty([len(word)])
    step = max(1, _EXACT_BLOCK // self.dimension)
    for start in range(0, len(word), step):
      some = slice(start, start + step)
      difference = descriptors[feature[some]].astype(np.float64)
      difference -= self.centers[word[some]]
      distances[some] = np.einsum("ij,ij->i", difference, difference)
    return distances


def check_descriptors(descriptors, name):
  """Returns descriptors as [N, D] float32.

  Args:
    descriptors: [N, D] array of numbers; any empty array stands for none.
    name: Words for them.

  Raises:
    InputError: If they are of another rank or type, or not finite.
  """
  array = np.asarray(descriptors)
  if array.size == 0:
    return np.zeros([0, array.shape[1] if array.ndim == 2 else 0], np.float32)
  if array.ndim != 2 or array.dtype.kind not in "fiu":
    raise errors.InputError(
      f"{name} as an array of numbers of shape [N, D]",
      f"{array.dtype} of shape {list(array.shape)}",
    )
  with np.errstate(over="ignore", invalid="ignore"):
    array = array.astype(np.float32, copy=False)
    squares = np.einsum("ij,ij->i", array, array)
  bad = np.flatnonzero(~(squares < _LONGEST**2))
  if bad.size:
    raise errors.InputError(
      f"{name} of finite values",
      f"NaN, infinity or over {_LONGEST:g} in {bad.size} of {len(array)} rows"
      f" (first: {bad[0]})",
    )
  return array


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


def _nth_highest(maxima, number):
  """Returns a bound, [N]: at least `number` scores reach it.

  Args:
    maxima: [groups, N] float32.
    number: At most as many as there are groups of groups.
  """
  while len(maxima) >= max(2, number) * _GROUP:
    whole = len(maxima) // _GROUP * _GROUP
    coarse = maxima[:whole].reshape(-1, _GROUP, maxima.shape[1])
    maxima = np.maximum.reduce(coarse, axis=1)
  return np.partition(maxima, len(maxima) - number, axis=0)[-number]
