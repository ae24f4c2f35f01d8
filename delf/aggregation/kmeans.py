"""k-means clustering in single steps, for codebooks of any size.

Lloyd's iterations over all features, as in the original. A step depends only on
its arguments, so that resuming from a saved state gives the same result as an
uninterrupted run, bit for bit.

Exact nearest words come from a flat index of faiss. `faiss.Kmeans`, called step
by step, has the same error, but does not return the word of each feature, which
APPROXIMATE needs, and it moves words without features at random.
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

# AUTOMATIC is EXACT up to these numbers of distances per step, or of words: an
# exact step of 10^10 takes a minute on two cores (benchmarks/clustering.py).
_MOST_EXACT = 10**10
_MANY_WORDS = 4096
# Words are in _CELLS * sqrt(K) cells; the _PROBES nearest cells are searched:
# with 65536 words nearly 90 % of searches find the nearest word.
_CELLS = 4
_PROBES = 16
_CELL_ITERATIONS = 6
_CELL_SAMPLES = 64
# Features in memory at once: 8 MB at 128 dimensions. APPROXIMATE takes more, as
# it computes one product per cell: 128 MB.
_BLOCK = 16384
_APPROXIMATE_BLOCK = 1 << 18


@dataclasses.dataclass(frozen=True)
class State:
  """State of a clustering, complete for the next step."""

  centers: np.ndarray  # [K, D] float32, the words.
  # [N] int32, the word of each feature in the last step; None if exact.
  labels: np.ndarray | None = None
  # Mean squared distance in each step, before the words moved.
  objectives: tuple[float, ...] = ()
  moved: tuple[int, ...] = ()  # Number of empty words moved in each step.
  converged: bool = False  # Whether the last step moved no word.

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
    """Read a saved state; None if there is no file."""
    if not path.exists():
      return None
    try:
      with np.load(io.BytesIO(files.read_bytes(path))) as archive:
        fields = dict(archive)
      for name in ("objectives", "moved"):
        fields[name] = tuple(fields[name].tolist())
      return cls(**fields | {"converged": bool(fields["converged"])})
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
      message = "damaged state of a clustering; delete the file to restart"
      raise errors.InputError(message, path=path) from None


def choose_method(method: str, num_features: int, num_clusters: int) -> str:
  """Return EXACT or APPROXIMATE for one of METHODS."""
  if method not in METHODS:
    choices = ", ".join(METHODS)
    raise errors.InputError(f"method must be in {choices}, not {method!r}")
  if method != AUTOMATIC:
    return method
  large = num_features * num_clusters > _MOST_EXACT
  return APPROXIMATE if large and num_clusters > _MANY_WORDS else EXACT


def start(features: np.ndarray, num_clusters: int, seed: int = 0) -> State:
  """Return the initial state: K random features of [N, D]."""
  if num_clusters < 1:
    raise errors.InputError(f"num_clusters must be over 0, not {num_clusters}")
  number, shape = len(features), list(np.shape(features))
  if len(shape) != 2 or not np.size(features):
    raise errors.InputError(f"features must have shape [N, D], not {shape}")
  if number < num_clusters:
    message = f"{number} features are too few for {num_clusters} words"
    raise errors.InputError(message)
  generator = np.random.default_rng(seed)
  chosen = generator.choice(number, num_clusters, replace=False)
  return State(np.array(features[np.sort(chosen)], dtype=np.float32))


def step(features: np.ndarray, state: State, method: str = EXACT) -> State:
  """Move each word to the mean of its features: those nearest to it.

  Words without features move to distinct features that are farthest from their
  own words, which lowers the objective. APPROXIMATE compares a feature with the
  words of nearby cells and with its previous word.
  """
  exact = method == EXACT
  if exact:
    find, size = _find_exactly(state.centers), _BLOCK
  else:
    # Cells differ in each step, which may find a word that the last missed.
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
    present, columns, numbers = np.unique(
      labels[rows], return_inverse=True, return_counts=True
    )
    ones = (np.ones([len(block)]), (columns, np.arange(len(block))))
    table = scipy.sparse.csr_array(ones, shape=(len(present), len(block)))
    sums[present] += table @ block
    counts[present] += numbers
  centers = state.centers.copy()
  filled = counts > 0
  centers[filled] = sums[filled] / counts[filled, np.newaxis]
  empty, moved = np.flatnonzero(~filled), features[:0]
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

  It stops before `num_iterations` steps if no word moves.
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
  """Words [K, D] in cells; a feature is compared with words of nearby cells.

  The features near a cell are compared with its words by one matrix product.
  With many features this is faster than `faiss.IndexIVFFlat`, with the same
  results (100 000 features and 65536 words on one core: 4.3 s instead of
  6.8 s). The cells depend on the seed.
  """

  def __init__(self, centers: np.ndarray, seed: int = 0) -> None:
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
    """Return a near word of each feature, mostly the nearest: [N] int64."""
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
    missing = labels < 0  # All searched cells were empty.
    if missing.any():
      labels[missing] = _find_exactly(self._centers)(features[missing])
    return labels


def _split(keys, number):
  """List the indices of each key from 0 to `number` - 1."""
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
  """Return squared distances and words [N]; `before` wins if not farther."""
  labels = find(features)
  distances = squared_distances(features, centers, labels)
  if before is None:
    return distances, labels
  own = squared_distances(features, centers, before)
  labels = np.where(own <= distances, before, labels)
  return np.minimum(distances, own), labels
