"""Rankings of images: best of each query, by parts, fused, and verified."""

import collections
import dataclasses
import itertools
import numbers
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from delf.base import errors


@dataclasses.dataclass(frozen=True)
class Ranking:
  """The best images of each query, best first; ties by lower id."""

  # [Q, k] int32; -1 at the end of a row where there are fewer than k.
  ids: np.ndarray
  scores: np.ndarray  # [Q, k] float32, descending; -inf where the id is -1.

  def __len__(self):
    return len(self.ids)


@dataclasses.dataclass(frozen=True)
class GroupRanking(Ranking):
  """A ranking of groups by their best parts, such as images by regions."""

  parts: np.ndarray  # [Q, k] int32, ids of the best parts, or -1.

  def parts_of(self, ids: np.ndarray) -> np.ndarray:
    """Return [Q, n] best parts of groups [Q, n]; -1 for groups not ranked."""
    found = np.full(np.shape(ids), -1, np.int32)
    for row, (own, parts) in enumerate(zip(self.ids, self.parts, strict=True)):
      part_of = dict(zip(own.tolist(), parts.tolist(), strict=True))
      found[row] = [part_of.get(each, -1) for each in ids[row].tolist()]
    return found


def check_k(k: int) -> int:
  """Return a number of images per query; raise InputError unless over 0."""
  if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
    raise errors.InputError("a number of images over 0", repr(k))
  return int(k)


def top_k(scores: np.ndarray, k: int | None = None) -> Ranking:
  """Rank images by [Q, N] scores without NaN; None stands for all images."""
  scores = np.asarray(scores, dtype=np.float32)
  k = max(scores.shape[1], 1) if k is None else check_k(k)
  ids = np.full([len(scores), k], -1, np.int32)
  best = np.full([len(scores), k], -np.inf, np.float32)
  for row, own in enumerate(scores):
    chosen = np.arange(len(own))
    if k < len(own):
      # A sort of all takes longer, and a partition alone takes any of the ties.
      least = np.partition(own, -k)[-k]
      above = np.flatnonzero(own > least)
      ties = np.flatnonzero(own == least)[: k - len(above)]
      chosen = np.concatenate([above, ties])
    chosen = chosen[np.argsort(-own[chosen], kind="stable")]
    ids[row, : len(chosen)], best[row, : len(chosen)] = chosen, own[chosen]
  return Ranking(ids, best)


def sort_rows(
  ids: np.ndarray, scores: np.ndarray, k: int | None = None
) -> Ranking:
  """Rank [Q, W] candidates, -1 for none, by score, ties by lower id."""
  last = np.where(ids < 0, np.iinfo(np.int32).max, ids)
  order = np.lexsort((last, -scores), axis=1)[:, :k]
  return Ranking(
    np.take_along_axis(ids, order, axis=1).astype(np.int32, copy=False),
    np.take_along_axis(scores, order, axis=1),
  )


def recall(found: Ranking, exact: Ranking, k: int) -> float:
  """Share of the k best images that a search finds among its k (recall@k)."""
  one, two = found.ids[:, :k], exact.ids[:, :k]
  hits = (one[:, :, None] == two[:, None, :]) & (two[:, None, :] >= 0)
  return float(hits.any(axis=1).sum() / max(np.count_nonzero(two >= 0), 1))


def by_best(
  found: Ranking, group: np.ndarray, k: int, kept: np.ndarray | None = None
) -> GroupRanking:
  """Rank k groups by their best part, from a ranking of parts of any depth.

  `group` is [P] int, id of the group of each part; `kept` [P] bool, the parts
  that count.
  """
  shape = [len(found), k]
  ids, parts = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
  scores = np.full(shape, -np.inf, np.float32)
  for row, own in enumerate(found.ids):
    counts = own >= 0
    if kept is not None:
      counts &= kept[own]  # Of -1 the last, which does not count anyway.
    columns = np.flatnonzero(counts)
    # The first of each group is its best part.
    _, first = np.unique(group[own[columns]], return_index=True)
    columns = columns[np.sort(first)][:k]
    number = len(columns)
    parts[row, :number] = own[columns]
    ids[row, :number] = group[own[columns]]
    scores[row, :number] = found.scores[row, columns]
  return GroupRanking(ids, scores, parts)


_SIGN = np.uint32(1 << 31)
_LAST_ID = np.uint64((1 << 32) - 1)
_HALF = np.uint64(32)


class TopScores:
  """The k best scores of each query among images that come in pieces.

  A score and its id are one integer that sorts as the pair does, so that a
  partition of these decides ties as well: by lower id.
  """

  def __init__(self, number: int, k: int):
    """Start without scores of `number` queries."""
    # Zero, which no score has, stands for none.
    self._keys = np.zeros([number, k], np.uint64)
    self._least = np.full([number], -np.inf, np.float32)

  def add(self, scores: np.ndarray, first: int) -> None:
    """Add the [Q, B] float32 scores of the images from id `first` on.

    `first` is higher than all ids before. Scores are no NaN; -inf is left out.
    """
    # An equal score has a higher id than the one that is kept, and loses.
    better = np.flatnonzero(scores > self._least[:, None])
    if not len(better):
      return
    rows, columns = np.divmod(better, scores.shape[1])
    counts = np.bincount(rows, minlength=len(scores))
    width, k = counts.max(), self._keys.shape[1]
    target = np.arange(len(rows)) - np.repeat(
      np.cumsum(counts) - counts, counts
    )
    # Adding 0 makes -0, which is as much, 0.
    bits = (scores.reshape(-1)[better] + np.float32(0)).view(np.uint32)
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
    ids = (first + columns).astype(np.uint64)
    keys = np.zeros([len(scores), k + width], np.uint64)
    keys[:, :k] = self._keys
    keys[rows, k + target] = (ordered << _HALF) | (_LAST_ID - ids)
    keys.partition(width, axis=1)
    self._keys = keys[:, width:]
    self._least = _scores_of_keys(self._keys[:, 0])

  def result(self) -> Ranking:
    """Return the ranking of all images that were added."""
    keys = np.sort(self._keys, axis=1)[:, ::-1]
    ids = (_LAST_ID - (keys & _LAST_ID)).astype(np.int64)
    ids[keys == 0] = -1
    return Ranking(ids.astype(np.int32), _scores_of_keys(keys))


def _scores_of_keys(keys):
  ordered = (keys >> _HALF).astype(np.uint32)
  bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered)
  return np.where(keys == 0, np.float32(-np.inf), bits.view(np.float32))


CONVEX, RANKS = "convex", "ranks"
METHODS = (CONVEX, RANKS)
# Weights of ASMK* and of global descriptors, "convex", of the embedded model:
# the best of tenths on training photos, where its ASMK* alone is far better
# than its global descriptors (`benchmarks/retrieval_tuning.py`). Global
# descriptors that were trained on landmarks deserve more.
ASMK_AND_GLOBAL = (0.9, 0.1)


def fuse(
  rankings: Sequence[Ranking],
  weights: Sequence[float] | None = None,
  k: int | None = None,
  method: str = CONVEX,
  constant: float = 60.0,
) -> Ranking:
  """Fuse rankings of one collection for the same queries.

  An image that is missing in a ranking, or has -inf there, adds nothing: it
  counts as the last one. So every ranking should reach deep. Weights are at
  least 0, None for equal ones; k is None for the depth of the deepest.

  "convex" is the weighted sum of scores that are scaled to [0, 1] per query, by
  their least and largest (CombSUM of Fox and Shaw, TREC-2 1994, on the scores
  of J. H. Lee, SIGIR 1997). "ranks" is that of 1 / (constant + rank), rank from
  1 (reciprocal rank fusion, Cormack et al., SIGIR 2009, with 60), which does
  not depend on the scale of scores.
  """
  if method not in METHODS:
    raise errors.InputError(f"one of {', '.join(METHODS)}", repr(method))
  if not _is_weight(constant):
    raise errors.InputError("a constant of at least 0", repr(constant))
  rankings = list(rankings)
  if not rankings:
    raise errors.InputError("rankings to fuse", "none")
  lengths = sorted({len(each) for each in rankings})
  if len(lengths) > 1:
    raise errors.InputError(
      "rankings of the same queries", f"{lengths} queries"
    )
  weights = [1.0] * len(rankings) if weights is None else list(weights)
  if len(weights) != len(rankings) or not all(map(_is_weight, weights)):
    raise errors.InputError(
      f"{len(rankings)} weights of at least 0", repr(weights)
    )
  if not sum(weights) > 0:
    raise errors.InputError("a weight over 0", "all 0")
  shares = np.array(weights, np.float64) / sum(weights)
  deepest = max(each.ids.shape[1] for each in rankings)
  k = deepest if k is None else check_k(k)
  ids = np.concatenate([each.ids for each in rankings], axis=1)
  values = [
    share * _fusion_values(each, method, constant)
    for share, each in zip(shares, rankings, strict=True)
  ]
  ids, values = _sum_by_id(ids, np.concatenate(values, axis=1))
  padding = [(0, 0), (0, max(k - ids.shape[1], 0))]
  ids = np.pad(ids, padding, constant_values=-1)
  scores = np.where(ids >= 0, np.pad(values, padding), -np.inf)
  return sort_rows(ids, scores.astype(np.float32), k)


def _fusion_values(ranking, method, constant):
  """Return [Q, k] float64, what each image of a ranking adds."""
  known = (ranking.ids >= 0) & np.isfinite(ranking.scores)
  if method == RANKS:
    return known / (constant + np.arange(1, ranking.ids.shape[1] + 1))
  scores = ranking.scores.astype(np.float64)
  bounds = {"axis": 1, "keepdims": True}
  most = np.where(known, scores, -np.inf).max(initial=-np.inf, **bounds)
  least = np.where(known, scores, np.inf).min(initial=np.inf, **bounds)
  with np.errstate(invalid="ignore"):
    span = most - least
    # All of one score count as best.
    shares = np.where(
      span > 0, (scores - least) / np.where(span > 0, span, 1), 1.0
    )
  return np.where(known, shares, 0.0)


def _sum_by_id(ids, values):
  """Add values of equal ids of a row; all but one of these become -1."""
  order = np.argsort(ids, axis=1, kind="stable")
  ids = np.take_along_axis(ids, order, axis=1)
  values = np.take_along_axis(values, order, axis=1)
  starts = np.ones(ids.shape, bool)
  starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
  # Each row starts a new id, so that one sum over all rows serves.
  group = np.cumsum(starts.ravel()) - 1
  sums = np.bincount(group, weights=values.ravel()) if group.size else values
  return np.where(starts, ids, -1), sums[group].reshape(ids.shape)


def _is_weight(value):
  return isinstance(value, numbers.Real) and 0 <= value < np.inf


# Images of a ranking that are verified, junk not counted (DELG, section 4.3;
# Detect-to-Retrieve, section 5.2).
VERIFIED = 100


@dataclasses.dataclass(frozen=True)
class Reranked:
  """Rankings [Q, k] by inliers, then by the score of the search."""

  ids: np.ndarray  # Indices of images; -1 at the end of a row with fewer.
  inliers: np.ndarray  # int32; 0 for images that were not verified.
  scores: np.ndarray  # Of the search.


def shortlist(
  ids: np.ndarray,
  junk: Sequence[np.ndarray] | None = None,
  most: int = VERIFIED,
) -> np.ndarray:
  """Choose the images to verify: [Q, k] bool, the first `most` but for junk.

  Of ids [Q, k], best first, -1 for none; junk are Q int arrays, images that a
  protocol ignores, or None.
  """
  ids = np.asarray(ids)
  if ids.ndim != 2:
    raise errors.InputError("ids of shape [Q, k]", f"shape {list(ids.shape)}")
  if isinstance(most, bool) or not isinstance(most, int) or most < 0:
    raise errors.InputError("a number of images of at least 0", repr(most))
  good = ids >= 0
  if junk is not None:
    if len(junk) != len(ids):
      raise errors.InputError(f"junk of {len(ids)} queries", f"{len(junk)}")
    for row, ignored in enumerate(junk):
      good[row] &= ~np.isin(ids[row], np.asarray(ignored, dtype=np.int64))
  return good & (np.cumsum(good, axis=1) <= most)


def pairs(ids: np.ndarray, *chosen: np.ndarray) -> np.ndarray:
  """List (query, image) pairs of shortlists, each once: [P, 2], sorted."""
  ids = np.asarray(ids)
  rows, columns = np.nonzero(np.logical_or.reduce(chosen))
  listed = np.stack([rows, ids[rows, columns]], axis=1).astype(np.int64)
  return listed[np.lexsort(listed.T[::-1])]


def rerank(
  ids: np.ndarray,
  scores: np.ndarray,
  verify: Callable[[np.ndarray, np.ndarray], np.ndarray],
  junk: Sequence[np.ndarray] | None = None,
  most: int = VERIFIED,
) -> Reranked:
  """Sort rankings by (inliers, score), descending; ties by lower index.

  The `shortlist` is verified by a function from queries [P] and images [P] to
  inliers [P]. All others, junk too, keep 0 inliers and stand among the verified
  ones of 0 by their score.
  """
  ids, scores = np.asarray(ids), np.asarray(scores)
  chosen = shortlist(ids, junk, most)
  if scores.shape != ids.shape:
    raise errors.InputError(
      f"scores of shape {list(ids.shape)}", f"shape {list(scores.shape)}"
    )
  if np.isnan(scores).any():
    raise errors.InputError("scores", f"NaN in {np.isnan(scores).sum()}")
  inliers = np.zeros(ids.shape, np.int32)
  rows, columns = np.nonzero(chosen)
  inliers[rows, columns] = verify(rows, ids[rows, columns])
  order = np.lexsort((ids, -scores, -inliers, ids < 0))
  return Reranked(
    *(np.take_along_axis(each, order, 1) for each in (ids, inliers, scores))
  )


Path = str | os.PathLike
# [N, D], or N arrays [D], of which some may be None or [0].
Descriptors = np.ndarray | Sequence[np.ndarray | None]


class NamedIndex:
  """Base of the indexes: images with unique names, and ids from 0.

  `names`, by id, are not to be changed. Ids close up when images are removed.
  """

  def __init__(self):
    self._set_names([])

  def __len__(self):
    return len(self.names)

  def _set_names(self, names: Iterable[str], path: Path | None = None) -> None:
    """Take names over, such as those of a file."""
    self.names, self._ids = [], {}
    self._add_names(self._check_names(names, path=path))

  def _add_names(self, names: Sequence[str]) -> None:
    """Append names that `_check_names` has returned."""
    self._ids |= {name: len(self) + i for i, name in enumerate(names)}
    self.names.extend(names)

  def _check_names(
    self,
    names: Iterable[str],
    number: int | None = None,
    path: Path | None = None,
  ) -> list[str]:
    """Return names that can be added; raise InputError for others.

    `number` is the required one; `path` that of the file that has them.
    """
    if isinstance(names, str):
      raise errors.InputError("a list of names", "one name", path)
    names = list(names)
    if number is not None and len(names) != number:
      raise errors.InputError(f"{number} names", f"{len(names)}", path)
    for name in names:
      if not isinstance(name, str):
        raise errors.InputError("names as text", repr(name), path)
    counts = collections.Counter(names)
    if twice := [name for name, count in counts.items() if count > 1]:
      raise errors.InputError("each name once", f"{_few(twice)} twice", path)
    if known := [name for name in names if name in self._ids]:
      raise errors.InputError(
        "names that are not in the index yet", _few(known), path
      )
    return names

  def _without(self, names: str | Iterable[str]) -> np.ndarray:
    """Remove names, all or none; return [N] bool, the ids that are kept."""
    names = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in names if name not in self._ids]:
      raise errors.InputError("names in the index", _few(unknown))
    keep = np.ones([len(self)], bool)
    keep[[self._ids[name] for name in names]] = False
    self._set_names(itertools.compress(self.names, keep))
    return keep


def _few(names):
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return f"{', '.join(map(repr, names[:3]))}{more}"


class DescriptorIndex(NamedIndex):
  """Base of the indexes of global descriptors of one dimension.

  `dimension` is D, or None while there is no descriptor; `empty` [N] bool says
  which images have none.
  """

  def __init__(self):
    super().__init__()
    self.empty, self.dimension = np.zeros([0], bool), None
