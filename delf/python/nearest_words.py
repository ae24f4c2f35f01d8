"""Visual words: which of a codebook are nearest to descriptors, exactly."""

import numpy as np

from delf.python import errors, orders, word_scores

# Values of descriptors and words whose differences are held at once.
_BLOCK = 1_000_000
# Descriptors are shorter, so that squares of their distances are float32 still.
_LONGEST = 1e15


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
    self._scores = word_scores.Scores(self.centers)

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
    found = np.empty([len(descriptors), number], dtype=np.int32)
    for rows, word, of in self._scores.candidates(descriptors, number):
      some = descriptors[rows]
      if number > 1 or len(word) > len(some):
        # Words at the same distance stay ascending, as they come.
        order = np.argsort(self._distances(some, word, of), kind="stable")
        order = order[orders.stable(of[order])]
        word, of = word[order], of[order]
      first = np.searchsorted(of, np.arange(len(some)))
      found[rows] = word[first[:, np.newaxis] + np.arange(number)]
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

  def _distances(self, descriptors, word, feature):
    """Returns the squared distances of pairs, [P] float64."""
    distances = np.empty([len(word)])
    step = max(1, _BLOCK // self.dimension)
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
