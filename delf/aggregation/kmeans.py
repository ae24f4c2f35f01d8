"""k-means of local features, a step at a time, for codebooks of any size.

Lloyd's iterations over all features, as the original's. A step depends on
nothing but its arguments, so that one can go on from a saved state and get what
an uninterrupted run gets, bit for bit.

A step finds exact words by a flat index of faiss. `faiss.Kmeans`, one step at a
time, finds codebooks of the same error, but does not say which word a feature
has, so that a step could not keep it, and it moves words without features at
random.
"""

import dataclasses
import io
import math
import pathlib
import zipfile

import numpy as np
import scipy.sparse

from delf.base import arrays, errors, files

EXACT = "exact"
APPROXIMATE = "approximate"
AUTOMATIC = "auto"
METHODS = (AUTOMATIC, EXACT, APPROXIMATE)

# Distances in a step, and words, over which the automatic choice is the
# approximate one: an exact step of 10^10 takes about a minute on two cores
# (benchmarks/clustering.py).
_MOST_EXACT = 10**10
_MANY_WORDS = 4096
# Words are looked up in the nearest of _CELLS * sqrt(K) cells of words. At 16
# of 1024 cells, for 65536 words, nearly nine of ten lookups find the nearest.
_CELLS = 4
_PROBES = 16
_CELL_ITERATIONS = 6
_CELL_SAMPLES = 64
# Features that are held at once: 8 MB at 128-D.
_BLOCK = 16384
# Many, for which each cell of words is one product: 128 MB.
_APPROXIMATE_BLOCK = 1 << 18


@dataclasses.dataclass(frozen=True)
class State:
  """State of a clustering: all that the next step needs."""

  centers: np.ndarray  # [K, D] float32, the words.
  # [N] int32, the word of each feature in the last step, or None where the next
  # step does not need them.
  labels: np.ndarray | None = None
  # Mean squared distance in each step, before the words moved.
  objectives: tuple[float, ...] = ()
  # In each step, the words without features that were put elsewhere.
  moved: tuple[int, ...] = ()
  converged: bool = False  # The last step moved no word, so that none will.

  @property
  def iteration(self) -> int:
    """Number of finished steps."""
    return len(self.objectives)

  def write(self, path: files.Path) -> None:
    """Write the state, whole or not at all."""
    fields = {k: v for k, v in vars(self).items() if v is not None}
    with files.atomic_path(path) as temporary:
      np.savez(temporary, **fields)

  @classmethod
  def read(cls, path: pathlib.Path) -> "State | None":
    """Read what `write` wrote; None if there is no file."""
    if not path.exists():
      return None
    try:
      with np.load(io.BytesIO(files.read_bytes(path))) as archive:
        fields = dict(archive)
      for name in ("objectives", "moved"):
        fields[name] = tuple(fields[name].tolist())
      return cls(**fields | {"converged": bool(fields["converged"])})
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
      raise errors.InputError(
        "the state of a clustering (without the file it begins anew)",
        "a damaged one",
        path,
      ) from None


def choose_method(method: str, num_features: int, num_clusters: int) -> str:
  """Return EXACT or APPROXIMATE for one of METHODS."""
  if method not in METHODS:
    raise errors.InputError(f"a method of {', '.join(METHODS)}", f"{method!r}")
  if method != AUTOMATIC:
    return method
  large = num_features * num_clusters > _MOST_EXACT
  return APPROXIMATE if large and num_clusters > _MANY_WORDS else EXACT


def start(features: np.ndarray, num_clusters: int, seed: int = 0) -> State:
  """Return the first state: K of [N, D] features, chosen at random."""
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
  generator = np.random.default_rng(seed)
  chosen = generator.choice(number, num_clusters, replace=False)
  return State(np.array(features[np.sort(chosen)], dtype=np.float32))


def step(features: np.ndarray, state: State, method: str = EXACT) -> State:
  """Move each word to the mean of the features that are nearest to it.

  A word that is nearest to none goes to the feature that is farthest from its
  own word, which lowers the objective; several go to as many features, as far
  as these differ. APPROXIMATE compares each feature with the words of the cells
  near it, and with the word that it had.
  """
  exact = method == EXACT
  if exact:
    find, size = _find_exactly(state.centers), _BLOCK
  else:
    # Other cells in each step: what one misses, the next may find.
    find, size = Cells(state.centers, state.iteration).find, _APPROXIMATE_BLOCK
  sums = np.zeros(state.centers.shape, dtype=np.float64)
  counts = np.zeros([len(sums)], dtype=np.int64)
  distances = np.empty([len(features)], dtype=np.float32)
  labels = np.empty([len(features)], dtype=np.int32)
  for first in range(0, len(features), size):
    rows = slice(first, min(first + size, len(features)))
    block = np.ascontiguousarray(features[rows], dtype=np.float32)
    before = None if state.labels is None else state.labels[rows]
    distances[rows], labels[rows] = _nearest(find, state.centers, block, before)
    _add(block, labels[rows], sums, counts)
  centers = state.centers.copy()
  filled = counts > 0
  centers[filled] = sums[filled] / counts[filled, np.newaxis]
  empty, moved = np.flatnonzero(~filled), ()
  if len(empty):
    farthest = np.argsort(-distances, kind="stable")[: len(empty)]
    moved = np.unique(features[np.sort(farthest)], axis=0)
    centers[empty[: len(moved)]] = moved
  return State(
    centers=centers,
    labels=None if exact else labels,
    objectives=(*state.objectives, float(distances.mean(dtype=np.float64))),
    moved=(*state.moved, len(moved)),
    converged=exact and np.array_equal(centers, state.centers),
  )


def train(
  features: np.ndarray,
  num_clusters: int,
  num_iterations: int = 50,
  seed: int = 0,
  method: str = AUTOMATIC,
) -> State:
  """Cluster features [N, D] in memory; `centers` of the result are the words.

  There are fewer steps than `num_iterations` where no word moves any more.
  """
  features = np.asarray(features, dtype=np.float32)
  method = choose_method(method, len(features), num_clusters)
  state = start(features, num_clusters, seed)
  arrays.check_descriptors(features, name="features")
  while state.iteration < num_iterations and not state.converged:
    state = step(features, state, method)
  return state


def squared_distances(
  features: np.ndarray, centers: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Return squared distances of features to their words, [N] float32."""
  differences = centers.take(labels, axis=0)
  np.subtract(features, differences, out=differences)
  return np.einsum("nd,nd->n", differences, differences)


class Cells:
  """Words [K, D] in cells: a feature is compared with those of near cells.

  For each cell, the features near it are compared with its words by one matrix
  product: with many features at once faster than `faiss.IndexIVFFlat`, which
  finds the same words (100 000 features among 65536 words, one core: 4.3 s and
  6.8 s). Another seed gives other cells.
  """

  def __init__(self, centers: np.ndarray, seed: int = 0):
    import faiss

    number, size = centers.shape
    cells = max(1, min(number, int(_CELLS * math.sqrt(number))))
    self._coarse = faiss.Kmeans(
      size,
      cells,
      niter=_CELL_ITERATIONS,
      seed=seed + 1,
      min_points_per_centroid=1,
      max_points_per_centroid=_CELL_SAMPLES,
    )
    self._coarse.train(centers)
    cell = self._coarse.index.search(centers, 1)[1][:, 0]
    self._words = _split(cell, cells)
    half_squares = np.einsum("kd,kd->k", centers, centers) / 2
    self._products = [
      (np.ascontiguousarray(centers[words].T), half_squares[words])
      for words in self._words
    ]
    self._centers = centers

  def find(self, features: np.ndarray) -> np.ndarray:
    """Return [N] int64, a near word of each feature, mostly the nearest."""
    labels = np.full([len(features)], -1, np.int64)
    best = np.full([len(features)], -np.inf, np.float32)
    probes = min(_PROBES, len(self._words))
    near = self._coarse.index.search(features, probes)[1].ravel()
    for cell, hits in enumerate(_split(near, len(self._words))):
      table, half_squares = self._products[cell]
      if not len(hits) or not len(half_squares):
        continue
      rows = hits // probes
      scores = features[rows] @ table
      scores -= half_squares
      column = scores.argmax(axis=1)
      score = scores[np.arange(len(rows)), column]
      better = score > best[rows]
      best[rows[better]] = score[better]
      labels[rows[better]] = self._words[cell][column[better]]
    missing = labels < 0  # All cells that were looked into are empty.
    if missing.any():
      labels[missing] = _find_exactly(self._centers)(features[missing])
    return labels


def _split(keys, number):
  """Return the indices of each key from 0 to `number`, a list of arrays."""
  order = arrays.stable_argsort(keys)
  edges = np.searchsorted(keys[order], np.arange(number + 1))
  return np.split(order, edges[1:-1])


def _find_exactly(centers):
  """Return a function that finds the nearest words [N] of features."""
  import faiss

  index = faiss.IndexFlatL2(centers.shape[1])
  index.add(centers)
  return lambda features: index.search(features, 1)[1][:, 0]


def _nearest(find, centers, features, before=None):
  """Return squared distances and words [N]; those `before` if not farther."""
  labels = find(features)
  distances = squared_distances(features, centers, labels)
  if before is None:
    return distances, labels
  own = squared_distances(features, centers, before)
  labels = np.where(own <= distances, before, labels)
  return np.minimum(distances, own), labels


def _add(block, labels, sums, counts):
  """Add features to the sums [K, D] and counts [K] of their words."""
  present, columns, numbers = np.unique(
    labels, return_inverse=True, return_counts=True
  )
  ones = (np.ones([len(block)]), (columns, np.arange(len(block))))
  table = scipy.sparse.csr_array(ones, shape=(len(present), len(block)))
  sums[present] += table @ block
  counts[present] += numbers
