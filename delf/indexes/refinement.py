"""Refinement of rankings by the global descriptors of their images."""

import dataclasses
import difflib
import numbers
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from delf.base import arrays, errors
from delf.indexes import dense
from delf.indexes.ranking import Ranking

# Descriptor values of nearest images in memory at once: 64 MB of float32.
_VALUES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Expansion:
  """Query expansion by the nearest images.

  Alpha query expansion (Radenovic, Tolias and Chum, "Fine-tuning CNN Image
  Retrieval with No Human Annotation", PAMI 2019): a query is replaced by the
  sum, at unit length, of itself and its `number` nearest images, each weighted
  by max(similarity, 0) to the power `alpha`. With alpha 0 it is average query
  expansion (Chum et al., "Total Recall", ICCV 2007). The paper uses alpha 3 and
  50 images, for sets with many images of each place.
  """

  number: int = 3
  alpha: float = 3.0

  def __post_init__(self) -> None:
    if type(self.number) is not int or self.number < 1:
      raise errors.InputError(f"number must be over 0, not {self.number!r}")
    if not isinstance(self.alpha, numbers.Real) or not 0 <= self.alpha < np.inf:
      raise errors.InputError(f"alpha must be at least 0, not {self.alpha!r}")

  def __call__(
    self,
    queries: np.ndarray,
    ranking: Ranking,
    descriptors: np.ndarray,
    empty: Sequence[int] | np.ndarray = (),
  ) -> Ranking:
    """Search again with expanded queries; see `refine`."""
    depth = ranking.ids.shape[1]
    if not depth:
      return ranking
    expanded = expand(queries, ranking.ids, descriptors, self)
    refined = dense.search(expanded, [descriptors], depth, empty)
    none = ~np.any(queries, axis=1)  # A query without a descriptor.
    refined.ids[none] = ranking.ids[none]
    refined.scores[none] = ranking.scores[none]
    return refined


# Tuned on groups of 2 to 8 photos (`benchmarks/retrieval_tuning.py`); use more
# images if each place has many.
QUERY = Expansion()
DATABASE = Expansion(number=5)


def expand(
  queries: np.ndarray,
  ids: np.ndarray,
  descriptors: np.ndarray,
  options: Expansion = QUERY,
) -> np.ndarray:
  """Expand queries [Q, D] by the first images of their rankings.

  Ids are [Q, k] int, best first, padded by -1. Queries and descriptors [N, D]
  have unit length, or are zeros if missing.
  """
  ids = np.asarray(ids)[:, : options.number]
  expanded = np.array(queries, dtype=np.float32)
  step = max(1, _VALUES // max(1, ids.shape[1] * expanded.shape[1]))
  for start in range(0, len(expanded) if len(descriptors) else 0, step):
    rows = slice(start, start + step)
    images = descriptors[np.maximum(ids[rows], 0)]
    images = images.astype(np.float32, copy=False)
    similarity = np.einsum("qkd,qd->qk", images, expanded[rows])
    weights = np.maximum(similarity, 0) ** options.alpha
    # Missing images need this, since 0 to the power of 0 is 1.
    weights[(ids[rows] < 0) | (similarity <= 0)] = 0
    expanded[rows] += np.einsum(
      "qk,qkd->qd", weights.astype(np.float32), images
    )
  return unit_length(expanded)


def augment(
  descriptors: np.ndarray, options: Expansion = DATABASE
) -> np.ndarray:
  """Expand each descriptor of an index by its nearest images.

  Database-side augmentation (Turcot and Lowe, ICCV workshops 2009; for global
  descriptors Gordo et al., IJCV 2017), with the weights of alpha query
  expansion. An index needs it once; the time grows with N squared.
  """
  augmented = np.zeros(descriptors.shape, np.float32)
  step = max(1, _VALUES // max(1, options.number * descriptors.shape[1]))
  for start in range(0, len(descriptors), step):
    own = descriptors[start : start + step].astype(np.float32)
    ids = dense.search(own, [descriptors], options.number + 1).ids
    is_own = ids == np.arange(start, start + len(own))[:, None]
    # Duplicates of an image tie with it and may have displaced it.
    is_own[~is_own.any(axis=1), -1] = True
    others = ids[~is_own].reshape(len(ids), -1)
    augmented[start : start + step] = expand(own, others, descriptors, options)
  return augmented


def unit_length(vectors: np.ndarray) -> np.ndarray:
  """Return vectors [N, D] float32 scaled to length 1; zeros stay zeros."""
  vectors = np.asarray(vectors, dtype=np.float32)
  lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors / np.where(lengths > 0, lengths, 1)


@dataclasses.dataclass(frozen=True)
class _Rescoring:
  """Base of methods that rescore the first images of each ranking."""

  _scores: ClassVar[Callable]  # New scores [M] of images [M, D] for query [D].
  depth: int = 400
  neighbours: int = 9

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and (type(value) is not int or value < 1):
        raise errors.InputError(f"{field.name} must be over 0, not {value!r}")

  def __call__(
    self,
    queries: np.ndarray,
    ranking: Ranking,
    descriptors: np.ndarray,
    empty: Sequence[int] | np.ndarray = (),
  ) -> Ranking:
    """Re-rank the first images; see `refine`."""
    depth = self.depth
    scores = np.full(ranking.ids[:, :depth].shape, -np.inf, np.float32)
    for row, query in enumerate(queries):
      head, before = ranking.ids[row, :depth], ranking.scores[row, :depth]
      some = np.flatnonzero((head >= 0) & np.isfinite(before))
      if len(some):
        images = descriptors[head[some]].astype(np.float32, copy=False)
        scores[row, some] = self._scores(query, images)
    order = np.argsort(-scores, axis=1, kind="stable")
    ids, all_scores = ranking.ids.copy(), ranking.scores.copy()
    ids[:, :depth] = np.take_along_axis(ids[:, :depth], order, axis=1)
    all_scores[:, :depth] = np.take_along_axis(scores, order, axis=1)
    if depth < all_scores.shape[1]:
      # The scores that follow are lowered, so that all scores descend.
      last, tail = all_scores[:, depth - 1, None], all_scores[:, depth:]
      with np.errstate(invalid="ignore"):
        gap = np.nan_to_num(tail[:, :1] - last, nan=0.0, neginf=0.0)
      # The minimum is needed since the difference is rounded.
      all_scores[:, depth:] = np.minimum(tail - np.maximum(gap, 0), last)
    return Ranking(ids, all_scores)


@dataclasses.dataclass(frozen=True)
class SuperGlobal(_Rescoring):
  """Re-ranking by descriptors that are refined among the first images.

  Shao et al., "Global Features are All You Need for Image Retrieval and
  Reranking", ICCV 2023: each of the first M = `depth` images is replaced by the
  weighted mean of itself (weight 1) and its K = `neighbours` nearest among them
  (beta times the similarity). The query is expanded to the maximum, in each
  dimension, of itself and its K nearest. The score is the mean similarity of
  query and refined image, and of expanded query and original image.

  The paper's K assumes many images of each place, and `least` 0. On groups of 2
  to 8 photos mean average precision is 84.0 % without re-ranking, 72.4 % with
  `least` 0 and 85.2 % with 0.9 (`benchmarks/retrieval_tuning.py`).
  """

  beta: float = 0.15  # Weight of neighbours.
  least: float = 0.9  # Images below this share of the best score do not expand.

  def __post_init__(self) -> None:
    super().__post_init__()
    if not self.beta >= 0:
      raise errors.InputError(f"beta must be at least 0, not {self.beta!r}")
    if not 0 <= self.least <= 1:
      raise errors.InputError(f"least must be 0 to 1, not {self.least!r}")

  def _scores(self, query, images):
    table = images @ images.T
    np.fill_diagonal(table, -np.inf)
    weights = self.beta * _largest(table, min(self.neighbours, len(images) - 1))
    refined = images + weights @ images
    refined /= 1 + weights.sum(axis=1, keepdims=True)
    first = refined @ query
    nearest = np.argsort(-first, kind="stable")[: self.neighbours]
    nearest = nearest[first[nearest] >= self.least * first.max()]
    expanded = np.vstack([query, refined[nearest]]).max(axis=0)
    return (first + images @ expanded) / 2


@dataclasses.dataclass(frozen=True)
class Diffusion(_Rescoring):
  """Similarity that spreads along chains of similar images.

  Iscen et al., "Efficient Diffusion on Region Manifolds", CVPR 2017, with
  global descriptors: mutual nearest neighbours are joined, with the weight
  similarity to the power gamma. Scores f solve (I - alpha S) f = y, where S are
  the weights normalised by the degrees on both sides, and y the similarities of
  the query with its nearest images to the same power. The graph has the first
  `depth` images of a query (the paper's truncation), few enough for a direct
  solution instead of conjugate gradients.

  The paper has 50 neighbours, 10 of the query, gamma 3 and alpha 0.99. The
  defaults were tuned on groups of 2 to 8 photos: mean average precision is
  84.0 % without diffusion, 69.0 % with the paper's values and 87.7 % with the
  defaults (`benchmarks/retrieval_tuning.py`).
  """

  neighbours: int = 20
  query_neighbours: int = 10
  gamma: float = 6.0
  alpha: float = 0.8

  def __post_init__(self) -> None:
    super().__post_init__()
    if not self.gamma > 0:
      raise errors.InputError(f"gamma must be over 0, not {self.gamma!r}")
    if not 0 <= self.alpha < 1:  # With 1 the system has no solution.
      raise errors.InputError(f"alpha must be in [0, 1), not {self.alpha!r}")

  def _scores(self, query, images):
    from scipy import linalg

    table = np.maximum(images @ images.T, 0)
    np.fill_diagonal(table, 0)
    kept = _largest(table, min(self.neighbours, len(images) - 1))
    # Both values are equal for mutual neighbours; otherwise one is 0.
    joined = np.minimum(kept, kept.T).astype(np.float64) ** self.gamma
    degrees = joined.sum(axis=1)
    scale = 1 / np.sqrt(np.where(degrees > 0, degrees, 1))
    system = np.eye(len(images)) - self.alpha * scale[:, None] * joined * scale
    start = np.maximum(images @ query, 0)
    start = _largest(start[None], self.query_neighbours)[0] ** self.gamma
    return linalg.solve(system, start, assume_a="pos")


def _largest(table, number):
  """Keep the `number` largest values of each row [M, N]; others become 0."""
  if number < 1:
    return np.zeros_like(table)
  if number < table.shape[1]:
    least = np.partition(table, -number, axis=1)[:, -number, None]
    table = np.where(table >= least, table, 0)
  return np.maximum(table, 0)


ALPHA, AVERAGE = "alpha-qe", "average-qe"
SUPERGLOBAL, DIFFUSION = "superglobal", "diffusion"
METHODS: dict[str, Callable[..., Expansion | _Rescoring]] = {
  ALPHA: Expansion,
  AVERAGE: lambda number=2: Expansion(number, 0.0),
  SUPERGLOBAL: SuperGlobal,
  DIFFUSION: Diffusion,
}


def refine(
  name: str,
  queries: np.ndarray,
  ranking: Ranking,
  descriptors: np.ndarray,
  empty: Sequence[int] | np.ndarray = (),
) -> Ranking:
  """Refine rankings by a method of METHODS, with its default options.

  For other options call a method directly:
  `SuperGlobal(depth=100)(queries, ranking, descriptors)`. Methods that re-rank
  the first images keep the order of ties and of later images, with lower
  scores.

  Queries [Q, D] and descriptors [N, D], which may be mapped from a file, have
  unit length, or are zeros if missing. `empty` are the sorted ids of images
  without a descriptor; they stay last.
  """
  if name not in METHODS:
    near = difflib.get_close_matches(str(name), METHODS, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    choices = f"one of {', '.join(METHODS)}, not {name!r}{hint}"
    raise errors.InputError(f"the refinement must be {choices}")
  queries = np.asarray(queries, np.float32)
  shape, actual = [len(ranking), descriptors.shape[1]], list(queries.shape)
  if actual != shape:
    raise errors.InputError(f"queries must have shape {shape}, not {actual}")
  arrays.check_finite(queries, "queries")
  if (most := ranking.ids.max(initial=-1)) >= len(descriptors):
    raise errors.InputError(
      f"the ranking has id {most}, but there are {len(descriptors)} images"
    )
  return METHODS[name]()(queries, ranking, descriptors, empty)
