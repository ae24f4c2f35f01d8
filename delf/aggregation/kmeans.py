"""k-means of local features, a step at a time, for codebooks of any size.

Lloyd's iterations over all features, as the original's. A step depends on
nothing but its arguments, so that one can go on from a saved state and get what
an uninterrupted run gets, bit for bit.
"""

import dataclasses
import math

import numpy as np
import scipy.sparse

from delf.aggregation import visual_words
from delf.base import errors

# Words are looked up in the nearest of _CELLS * sqrt(K) cells of words. At 16
# of 1024 cells, for 65536 words, nearly nine of ten lookups find the nearest.
_CELLS = 4
_PROBES = 16
_CELL_ITERATIONS = 6
_CELL_SAMPLES = 64


def squared_distances(features, centers, labels):
  """Returns squared distances of features to their words, [N] float32.

  Args:
    features: [N, D] float32.
    centers: [K, D] float32, the words.
    labels: [N] int, the word of each feature.
  """
  differences = centers.take(labels, axis=0)
  np.subtract(features, differences, out=differences)
  return np.einsum("nd,nd->n", differences, differences)


class Cells:
  """Words in cells: a feature is compared with those of the cells near it.

  For each cell, the features that look into it are compared with its words by
  one matrix product, so that many features at once are much the faster.
  """

  def __init__(self, centers, seed=0):
    """Puts words into cells.

    Args:
      centers: [K, D] float32, the words.
      seed: int from 0 on; another one gives other cells.
    """
    import faiss

    number, size = centers.shape
    cells = max(1, min(number, int(_CELLS * math.sqrt(number))))
    coarse = faiss.Kmeans(
      size,
      cells,
      niter=_CELL_ITERATIONS,
      seed=seed + 1,
      min_points_per_centroid=1,
      max_points_per_centroid=_CELL_SAMPLES,
    )
    coarse.train(centers)
    self._coarse = coarse  # The index does not hold on to it.
    cell = coarse.index.search(centers, 1)[1][:, 0]
    order = np.argsort(cell, kind="stable")
    edges = np.searchsorted(cell[order], np.arange(cells + 1))
    self._words = np.split(order, edges[1:-1])
    half_squares = np.einsum("kd,kd->k", centers, centers) / 2
    self._products = [
      (np.ascontiguousarray(centers[words].T), half_squares[words])
      for words in self._words
    ]
    self._centers = centers

  def nearest(self, features, before=None):
    """Finds a near word of each feature, most often the nearest.

    Args:
      features: [N, D] float32.
      before: [N] int, words that are compared too, or None.

    Returns:
      [N] float32 squared distances, and [N] int64 words.
    """
    labels = self._look_up(features)
    nowhere = labels < 0  # All cells that were looked into are empty.
    if nowhere.any():
      words = visual_words.Words(self._centers)
      labels[nowhere] = words.nearest(features[nowhere])[:, 0]
    distances = squared_distances(features, self._centers, labels)
    if before is None:
      return distances, labels
    own = squared_distances(features, self._centers, before)
    kept = np.where(own <= distances, before, labels)
    return np.minimum(distances, own), kept

  def _look_up(self, features):
    """Returns [N] int64, the best word of the cells near each; -1 for none."""
    labels = np.full([len(features)], -1, np.int64)
    best = np.full([len(features)], -np.inf, np.float32)
    probes = min(_PROBES, len(self._words))
    cells = self._coarse.index.search(features, probes)[1].ravel()
    # Sorted by their bytes where there are 16 bits of them, in linear time.
    order = np.argsort(cells.astype(np.uint16), kind="stable")
    edges = np.searchsorted(cells[order], np.arange(len(self._words) + 1))
    for cell, rows in enumerate(np.split(order // probes, edges[1:-1])):
      table, half_squares = self._products[cell]
      if not len(rows) or not len(half_squares):
        continue
      scores = features[rows] @ table
      scores -= half_squares
      place = scores.argmax(axis=1)
      score = scores[np.arange(len(rows)), place]
      better = score > best[rows]
      best[rows[better]] = score[better]
      labels[rows[better]] = self._words[cell][place[better]]
    return labels


EXACT = "exact"
APPROXIMATE = "approximate"
AUTOMATIC = "auto"
METHODS = (AUTOMATIC, EXACT, APPROXIMATE)

# Distances in a step, and words, over which the automatic choice is the
# approximate one: an exact step of 10^10 takes about a minute on two cores
# (benchmarks/clustering.py).
_MOST_EXACT = 10**10
_MANY_WORDS = 4096

# Features that are compared with the words at once: 8 MB at 128-D.
_BLOCK = 16384
# Many, for which each cell of words is one product: 128 MB.
_APPROXIMATE_BLOCK = 1 << 18


@dataclasses.dataclass(frozen=True)
class State:
  """Where a clustering stands: all that the next step needs.

  Attributes:
    centers: [K, D] float32, the words.
    labels: [N] int32, the word of each feature in the last step, or None where
      the next step does not ask for them.
    objectives: Mean squared distance of features to their words in each step,
      before the words moved.
    moved: In each step, the words without features that were put elsewhere.
    converged: Whether the last step moved no word, so that none will.
  """

  centers: np.ndarray
  labels: np.ndarray | None = None
  objectives: tuple[float, ...] = ()
  moved: tuple[int, ...] = ()
  converged: bool = False

  @property
  def iteration(self):
    """Number of steps that were done."""
    return len(self.objectives)


def choose_method(method, num_features, num_clusters):
  """Returns EXACT or APPROXIMATE for one of METHODS."""
  if method not in METHODS:
    raise errors.InputError(f"a method of {', '.join(METHODS)}", f"{method!r}")
  if method != AUTOMATIC:
    return method
  large = num_features * num_clusters > _MOST_EXACT
  return APPROXIMATE if large and num_clusters > _MANY_WORDS else EXACT


def start(features, num_clusters, seed=0):
  """Returns the first state: words that are features, chosen by chance.

  Args:
    features: [N, D] float32 array, which may be a memory map.
    num_clusters: Number of words, K.
    seed: int; the same seed gives the same words.

  Returns:
    State.

  Raises:
    InputError: If there are fewer features than words, or one is not finite.
  """
  if num_clusters < 1:
    raise errors.InputError("at least one word", f"{num_clusters}")
  number = len(features)
  if np.ndim(features) != 2 or not np.size(features):
    raise errors.InputError(
      "features [N, D]", f"shape {list(np.shape(features))}"
    )
  if number < num_clusters:
    raise errors.InputError(
      f"at least as many features as words, {num_clusters}", f"{number}"
    )
  for rows in _blocks(number, EXACT):
    visual_words.check_descriptors(features[rows], "features")
  generator = np.random.default_rng(seed)
  chosen = generator.choice(number, num_clusters, replace=False)
  return State(np.array(features[np.sort(chosen)], dtype=np.float32))


def step(features, state, method=EXACT):
  """Moves each word to the mean of the features that are nearest to it.

  A word that is nearest to none goes to the feature that is farthest from its
  own word, which lowers the objective; several go to as many features.

  Args:
    features: [N, D] float32 array, which may be a memory map.
    state: State.
    method: EXACT; or APPROXIMATE, which compares each feature with the words of
      the cells near it, and with the word that it had.

  Returns:
    State.
  """
  find = _assignment(state, method)
  sums = np.zeros(state.centers.shape, dtype=np.float64)
  counts = np.zeros([len(sums)], dtype=np.int64)
  distances = np.empty([len(features)], dtype=np.float32)
  labels = np.empty([len(features)], dtype=np.int32)
  for rows in _blocks(len(features), method):
    block = np.ascontiguousarray(features[rows], dtype=np.float32)
    before = None if state.labels is None else state.labels[rows]
    distances[rows], labels[rows] = find(block, before)
    _add(block, labels[rows], sums, counts)
  centers = state.centers.copy()
  filled = counts > 0
  means = sums[filled] / counts[filled, np.newaxis]
  centers[filled] = means.astype(np.float32)
  moved = _move_empty(features, distances, np.flatnonzero(~filled), centers)
  exact = method == EXACT
  return State(
    centers=centers,
    labels=None if exact else labels,
    objectives=(*state.objectives, float(distances.mean(dtype=np.float64))),
    moved=(*state.moved, moved),
    converged=exact and np.array_equal(centers, state.centers),
  )


def train(features, num_clusters, num_iterations=50, seed=0, method=AUTOMATIC):
  """Clusters features that are in memory.

  Args:
    features: [N, D] float32.
    num_clusters: Number of words, K.
    num_iterations: Most steps; fewer where the words do not move any more.
    seed: int.
    method: One of METHODS.

  Returns:
    State; its `centers` are the codebook.

  Raises:
    InputError: As `start`.
  """
  features = np.asarray(features, dtype=np.float32)
  method = choose_method(method, len(features), num_clusters)
  state = start(features, num_clusters, seed)
  while state.iteration < num_iterations and not state.converged:
    state = step(features, state, method)
  return state


def _blocks(number, method):
  """Yields slices that cover `number` rows."""
  block = _BLOCK if method == EXACT else _APPROXIMATE_BLOCK
  for first in range(0, number, block):
    yield slice(first, min(first + block, number))


def _assignment(state, method):
  """Returns a function (block, words before) -> distances, words."""
  if method == APPROXIMATE:
    # Other cells in each step: what one misses, the next may find.
    return Cells(state.centers, seed=state.iteration).nearest
  words = visual_words.Words(state.centers)

  def nearest(block, _):
    labels = words.nearest(block)[:, 0]
    distances = squared_distances(block, state.centers, labels)
    return distances, labels

  return nearest


def _add(block, labels, sums, counts):
  """Adds features to the sums [K, D] and counts [K] of their words."""
  present, places, numbers = np.unique(
    labels, return_inverse=True, return_counts=True
  )
  one = (np.ones([len(block)]), (places, np.arange(len(block))))
  table = scipy.sparse.csr_array(one, shape=(len(present), len(block)))
  sums[present] += table @ block
  counts[present] += numbers


def _move_empty(features, distances, empty, centers):
  """Puts words without features where features are far from their words.

  Returns:
    Number of words that were moved; others, where fewer features differ, stay.
  """
  if not empty.size:
    return 0
  farthest = np.argsort(-distances, kind="stable")[: len(empty)]
  rows = np.unique(features[np.sort(farthest)], axis=0)
  centers[empty[: len(rows)]] = rows
  return len(rows)
