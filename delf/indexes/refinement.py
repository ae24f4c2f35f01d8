"""Rankings refined by the descriptors of the images in them, by method name."""

import dataclasses
import difflib
import numbers
from collections.abc import Callable, Sequence

import numpy as np

from delf.base import arrays, errors
from delf.indexes import dense, ranking

# Values of the nearest images of a block of queries: 64 MB of float32.
_VALUES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Expansion:
  """Number and weights of the nearest images that expand a descriptor.

  Alpha query expansion (Radenovic, Tolias and Chum, "Fine-tuning CNN Image
  Retrieval with No Human Annotation", PAMI 2019): a query becomes the
  unit-length sum of itself and of its `number` nearest images, each times its
  similarity, at least 0, to the power `alpha`. With alpha 0 it is average query
  expansion (Chum et al., "Total Recall", ICCV 2007). The paper has alpha 3 and
  50 images for sets with many images of each place.
  """

  number: int = 3
  alpha: float = 3.0

  def __post_init__(self):
    if type(self.number) is not int or self.number < 1:
      raise errors.InputError("a number of images over 0", repr(self.number))
    if not isinstance(self.alpha, numbers.Real) or not 0 <= self.alpha < np.inf:
      raise errors.InputError("an alpha of at least 0", repr(self.alpha))

  def __call__(self, queries, found, descriptors, empty=()):
    """Search again, with expanded queries; see `refine`."""
    depth = found.ids.shape[1]
    if not depth:
      return found
    expanded = expand(queries, found.ids, descriptors, self)
    again = dense.search(expanded, [descriptors], depth, empty)
    # A query without a descriptor finds nothing, now as before.
    none = ~np.any(queries, axis=1)
    again.ids[none], again.scores[none] = found.ids[none], found.scores[none]
    return again


# Chosen on groups of 2 to 8 photos (`benchmarks/retrieval_tuning.py`), where
# many more images do harm; collections with many of each place want more.
QUERY = Expansion()
DATABASE = Expansion(number=5)


def expand(
  queries: np.ndarray,
  ids: np.ndarray,
  descriptors: np.ndarray,
  options: Expansion = QUERY,
) -> np.ndarray:
  """Expand queries [Q, D] by the first images of their rankings.

  Ids are [Q, k] int, best first; -1 pads. Descriptors are [N, D] of unit
  length, as queries are, zeros for an image without one.
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
    # No power of 0 for missing images: 0 to the power of 0 is 1.
    weights[(ids[rows] < 0) | (similarity <= 0)] = 0
    expanded[rows] += np.einsum(
      "qk,qkd->qd", weights.astype(np.float32), images
    )
  return unit_length(expanded)


def augment(
  descriptors: np.ndarray, options: Expansion = DATABASE
) -> np.ndarray:
  """Replace each descriptor of a collection as `expand` does a query.

  Database-side augmentation (Turcot and Lowe, ICCV workshops 2009; of global
  descriptors: Gordo et al., IJCV 2017), done once for an index, with the
  weights of alpha query expansion. Time grows with N squared.
  """
  augmented = np.zeros(descriptors.shape, np.float32)
  step = max(1, _VALUES // max(1, options.number * descriptors.shape[1]))
  for start in range(0, len(descriptors), step):
    own = descriptors[start : start + step].astype(np.float32)
    ids = dense.search(own, [descriptors], options.number + 1).ids
    is_own = ids == np.arange(start, start + len(own))[:, None]
    # Copies of an image have its similarity, and may have pushed it out.
    is_own[~is_own.any(axis=1), -1] = True
    others = ids[~is_own].reshape(len(ids), -1)
    augmented[start : start + step] = expand(own, others, descriptors, options)
  return augmented


def unit_length(vectors: np.ndarray) -> np.ndarray:
  """Return [N, D] float32 vectors at length 1; zeros stay zeros."""
  vectors = np.asarray(vectors, dtype=np.float32)
  lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors / np.where(lengths > 0, lengths, 1)


@dataclasses.dataclass(frozen=True)
class _Rescoring:
  """Base of methods that give the first images other scores."""

  depth: int = 400
  neighbours: int = 9

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and (type(value) is not int or value < 1):
        raise errors.InputError(f"{field.name} over 0", repr(value))

  def __call__(self, queries, found, descriptors, empty=()):
    """Rank the first images again; see `refine`."""
    depth = self.depth
    scores = np.full(found.ids[:, :depth].shape, -np.inf, np.float32)
    for row, query in enumerate(queries):
      head, before = found.ids[row, :depth], found.scores[row, :depth]
      some = np.flatnonzero((head >= 0) & np.isfinite(before))
      if len(some):
        images = descriptors[head[some]].astype(np.float32, copy=False)
        scores[row, some] = self._scores(query, images)
    order = np.argsort(-scores, axis=1, kind="stable")
    ids, all_scores = found.ids.copy(), found.scores.copy()
    ids[:, :depth] = np.take_along_axis(ids[:, :depth], order, axis=1)
    all_scores[:, :depth] = np.take_along_axis(scores, order, axis=1)
    if depth < all_scores.shape[1]:
      # The scores that follow are lowered, so that all descend.
      last, tail = all_scores[:, depth - 1, None], all_scores[:, depth:]
      with np.errstate(invalid="ignore"):
        gap = np.nan_to_num(tail[:, :1] - last, nan=0.0, neginf=0.0)
      # At most the last's: the difference is rounded.
      all_scores[:, depth:] = np.minimum(tail - np.maximum(gap, 0), last)
    return ranking.Ranking(ids, all_scores)


@dataclasses.dataclass(frozen=True)
class SuperGlobal(_Rescoring):
  """Refinement of descriptors among the first images.

  Shao et al., "Global Features are All You Need for Image Retrieval and
  Reranking", ICCV 2023, on re-ranking: each of the first M images becomes the
  weighted mean of itself (weight 1) and its K nearest among them (beta times
  the similarity); the query is expanded by the largest value, in each
  dimension, of it and of its K nearest. The score is the mean of two: of the
  query with the refined image, and of the expanded query with the image.

  The paper's K supposes that a place has many images. `least` is ours: with 0,
  which is the paper's way, groups of 2 to 8 photos came to a mean average
  precision of 72.4 % in place of 84.0 % without, with 0.9 to 85.2 %
  (`benchmarks/retrieval_tuning.py`). `depth` is M, `neighbours` K.
  """

  beta: float = 0.15  # Weight of neighbours.
  # Images expand the query where their score is at least this share of the best
  # one's.
  least: float = 0.9

  def __post_init__(self):
    super().__post_init__()
    if not (self.beta >= 0 and 0 <= self.least <= 1):
      raise errors.InputError(
        "a beta of at least 0 and a least share from 0 to 1",
        f"{self.beta!r} and {self.least!r}",
      )

  def _scores(self, query, images):
    """Return [M] scores of images [M, D] for a query [D]."""
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
  """Similarity that spreads along chains of near images.

  Iscen et al., "Efficient Diffusion on Region Manifolds", CVPR 2017, of global
  descriptors: images are joined where each is among the nearest of the other,
  with the similarity to the power gamma; scores f solve
  (I - alpha S) f = y, S being these weights normalised by the degrees on both
  sides, and y the similarity of the query with its nearest to the same power.
  The graph is of each query's first `depth` images (the paper's truncation),
  small enough to be solved at once in place of by conjugate gradients.

  The paper's values are 50 neighbours, 10 of the query, gamma 3 and alpha 0.99.
  The defaults were chosen for groups of 2 to 8 photos: a mean average precision
  of 87.7 %, with the paper's 69.0 %, without 84.0 %
  (`benchmarks/retrieval_tuning.py`).
  """

  neighbours: int = 20
  query_neighbours: int = 10
  gamma: float = 6.0
  alpha: float = 0.8

  def __post_init__(self):
    super().__post_init__()
    # With an alpha of 1 the system has no solution.
    if not (self.gamma > 0 and 0 <= self.alpha < 1):
      raise errors.InputError(
        "a gamma over 0 and an alpha from 0 to below 1",
        f"{self.gamma!r} and {self.alpha!r}",
      )

  def _scores(self, query, images):
    """Return [M] scores of images [M, D] for a query [D]."""
    from scipy import linalg

    table = np.maximum(images @ images.T, 0)
    np.fill_diagonal(table, 0)
    kept = _largest(table, min(self.neighbours, len(images) - 1))
    # Both have one value where both are near each other, else one has 0.
    joined = np.minimum(kept, kept.T).astype(np.float64) ** self.gamma
    degrees = joined.sum(axis=1)
    scale = 1 / np.sqrt(np.where(degrees > 0, degrees, 1))
    system = np.eye(len(images)) - self.alpha * scale[:, None] * joined * scale
    start = np.maximum(images @ query, 0)
    start = _largest(start[None], self.query_neighbours)[0] ** self.gamma
    return linalg.solve(system, start, assume_a="pos")


def _largest(table, number):
  """Return [M, N] with all but the `number` largest of each row at 0."""
  if number < 1:
    return np.zeros_like(table)
  if number < table.shape[1]:
    least = np.partition(table, -number, axis=1)[:, -number, None]
    table = np.where(table >= least, table, 0)
  return np.maximum(table, 0)


ALPHA, AVERAGE = "alpha-qe", "average-qe"
SUPERGLOBAL, DIFFUSION = "superglobal", "diffusion"
METHODS: dict[str, Callable] = {
  ALPHA: Expansion,
  AVERAGE: lambda number=2: Expansion(number, 0.0),
  SUPERGLOBAL: SuperGlobal,
  DIFFUSION: Diffusion,
}


def refine(
  name: str,
  queries: np.ndarray,
  found: ranking.Ranking,
  descriptors: np.ndarray,
  empty: Sequence[int] = (),
) -> ranking.Ranking:
  """Refine rankings by a method of METHODS, with its default options.

  Where only the first images are ranked again, ties keep their order, and those
  after them keep theirs, with lowered scores. With other options a method is
  called itself: `SuperGlobal(depth=100)(queries, found, descriptors)`.

  Queries [Q, D] and descriptors [N, D], which may be mapped from a file, have
  unit length, or are zeros where there is none. `empty` are the sorted ids of
  images without a descriptor: they stay last.
  """
  if name not in METHODS:
    near = difflib.get_close_matches(str(name), METHODS, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise errors.InputError(f"one of {', '.join(METHODS)}{hint}", repr(name))
  queries = np.asarray(queries, np.float32)
  if queries.shape != (len(found), descriptors.shape[1]):
    raise errors.InputError(
      f"queries of shape {[len(found), descriptors.shape[1]]}",
      f"shape {list(queries.shape)}",
    )
  arrays.check_finite(queries, "queries")
  if found.ids.max(initial=-1) >= len(descriptors):
    raise errors.InputError(
      f"a ranking of {len(descriptors)} images", f"id {found.ids.max()}"
    )
  return METHODS[name]()(queries, found, descriptors, empty)
