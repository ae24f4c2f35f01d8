"""Rankings of images: top k, groups, fusion, re-ranking; named indexes."""

import collections
import dataclasses
import itertools
import numbers
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from delf.base import errors


@dataclasses.dataclass(frozen=True)
class Ranking:
  """The best images of each query, best first; ties by lower id."""

  ids: np.ndarray  # [Q, k] int32; -1 pads rows with fewer than k images.
  scores: np.ndarray  # [Q, k] float32, descending; -inf where the id is -1.

  def __len__(self) -> int:
    return len(self.ids)


@dataclasses.dataclass(frozen=True)
class GroupRanking(Ranking):
  """A ranking of groups by their best parts, such as images by regions."""

  parts: np.ndarray  # [Q, k] int32, ids of the best parts, or -1.

  def parts_of(self, ids: np.ndarray) -> np.ndarray:
    """Return [Q, n] best parts of groups [Q, n]; -1 for groups not ranked."""
    best = np.full(np.shape(ids), -1, np.int32)
    for row, (own, parts) in enumerate(zip(self.ids, self.parts, strict=True)):
      part_of = dict(zip(own.tolist(), parts.tolist(), strict=True))
      best[row] = [part_of.get(each, -1) for each in ids[row].tolist()]
    return best


def check_k(k: int) -> int:
  """Return k, the number of images per query; InputError unless over 0."""
  if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
    raise errors.InputError(f"the number of images must be over 0, not {k!r}")
  return int(k)


def top_k(scores: np.ndarray, k: int | None = None) -> Ranking:
  """Rank the k best images, None for all, by [Q, N] scores without NaN."""
  scores = np.asarray(scores, dtype=np.float32)
  k = max(scores.shape[1], 1) if k is None else check_k(k)
  ids = np.full([len(scores), k], -1, np.int32)
  best = np.full([len(scores), k], -np.inf, np.float32)
  for row, own in enumerate(scores):
    chosen = np.arange(len(own))
    if k < len(own):
      # Sorting all scores is slower; a partition alone keeps arbitrary ties.
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
  """Rank [Q, W] candidates by score, ties by lower id; -1 pads ids."""
  last = np.where(ids < 0, np.iinfo(np.int32).max, ids)
  order = np.lexsort((last, -scores), axis=1)[:, :k]
  return Ranking(
    np.take_along_axis(ids, order, axis=1).astype(np.int32, copy=False),
    np.take_along_axis(scores, order, axis=1),
  )


def recall(ranking: Ranking, exact: Ranking, k: int) -> float:
  """Return the share of the k best images that a ranking has (recall@k)."""
  one, two = ranking.ids[:, :k], exact.ids[:, :k]
  hits = (one[:, :, None] == two[:, None, :]) & (two[:, None, :] >= 0)
  return float(hits.any(axis=1).sum() / max(np.count_nonzero(two >= 0), 1))


def by_best(
  ranking: Ranking, group: np.ndarray, k: int, kept: np.ndarray | None = None
) -> GroupRanking:
  """Rank k groups by their best parts, from a ranking of parts of any depth.

  `group` is [P] int, the group id of each part; `kept` is [P] bool, whether a
  part counts.
  """
  ids = np.full([len(ranking), k], -1, np.int32)
  parts, scores = ids.copy(), np.full(ids.shape, -np.inf, np.float32)
  for row, own in enumerate(ranking.ids):
    counts = own >= 0
    if kept is not None:
      counts &= kept[own]  # An id of -1 reads the last, but is False already.
    columns = np.flatnonzero(counts)
    # The first of each group is its best part.
    _, first = np.unique(group[own[columns]], return_index=True)
    columns = columns[np.sort(first)][:k]
    some = slice(len(columns))
    parts[row, some], ids[row, some] = own[columns], group[own[columns]]
    scores[row, some] = ranking.scores[row, columns]
  return GroupRanking(ids, scores, parts)


_SIGN = np.uint32(1 << 31)
_LAST_ID = np.uint64((1 << 32) - 1)
_HALF = np.uint64(32)


class TopScores:
  """The k best scores of each query, over images that are added in pieces.

  A score and its id are packed into one integer that sorts as the pair does, so
  that a partition also breaks ties, by lower id.
  """

  def __init__(self, number: int, k: int) -> None:
    """Start with `number` queries and no images."""
    # No score has the key 0: it stands for an empty place.
    self._keys = np.zeros([number, k], np.uint64)
    self._least = np.full([number], -np.inf, np.float32)

  def add(self, scores: np.ndarray, first: int) -> None:
    """Add [Q, B] float32 scores of the images with ids from `first`.

    `first` is higher than all earlier ids. Scores must not be NaN; images with
    -inf are left out.
    """
    # A tie with a kept score loses, as the new id is higher.
    better = np.flatnonzero(scores > self._least[:, None])
    if not len(better):
      return
    rows, columns = np.divmod(better, scores.shape[1])
    counts = np.bincount(rows, minlength=len(scores))
    width, k = int(np.max(counts)), self._keys.shape[1]
    target = np.arange(len(rows)) - np.repeat(
      np.cumsum(counts) - counts, counts
    )
    # Adding 0 turns -0 into the equal 0.
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
    """Return the ranking of all images added so far."""
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
# "convex" weights of ASMK* and global descriptors of the embedded model: the
# best multiples of 0.1 on training photos, where its ASMK* alone is far better
# than its global descriptors (`benchmarks/retrieval_tuning.py`). Global
# descriptors trained on landmarks deserve a higher weight.
ASMK_AND_GLOBAL = (0.9, 0.1)


def fuse(
  rankings: Sequence[Ranking],
  weights: Sequence[float] | None = None,
  k: int | None = None,
  method: str = CONVEX,
  constant: float = 60.0,
) -> Ranking:
  """Fuse rankings of the same images for the same queries.

  An image that is missing from a ranking, or has -inf in it, gets nothing from
  it, like the last one; so every ranking should be deep. Weights are at least
  0, None for equal ones; k is None for the depth of the deepest ranking.

  "convex" is the weighted sum of scores, scaled to [0, 1] per query by their
  minimum and maximum (CombSUM, Fox and Shaw, TREC-2 1994, with the scaling of
  J. H. Lee, SIGIR 1997). "ranks" is the weighted sum of 1 / (constant + rank),
  rank from 1, which does not depend on the scale of scores (reciprocal rank
  fusion, Cormack et al., SIGIR 2009, where the constant is 60).
  """
  if method not in METHODS:
    choices = ", ".join(METHODS)
    raise errors.InputError(f"method must be one of {choices}, not {method!r}")
  if not _is_weight(constant):
    raise errors.InputError(f"constant must be at least 0, not {constant!r}")
  rankings = list(rankings)
  if not rankings:
    raise errors.InputError("there are no rankings to fuse")
  lengths = sorted({len(each) for each in rankings})
  if len(lengths) > 1:
    message = f"rankings must be of the same queries, not {lengths} queries"
    raise errors.InputError(message)
  weights = [1.0] * len(rankings) if weights is None else list(weights)
  if len(weights) != len(rankings) or not all(map(_is_weight, weights)):
    message = f"{len(rankings)} weights of at least 0, not {weights!r}"
    raise errors.InputError(f"rankings need {message}")
  if not sum(weights) > 0:
    raise errors.InputError("one weight must be over 0, but all are 0")
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
  """Return [Q, k] float64, the unweighted part of each image in its sum."""
  known = (ranking.ids >= 0) & np.isfinite(ranking.scores)
  if method == RANKS:
    return known / (constant + np.arange(1, ranking.ids.shape[1] + 1))
  scores = ranking.scores.astype(np.float64)
  most = np.where(known, scores, -np.inf).max(1, initial=-np.inf)[:, None]
  least = np.where(known, scores, np.inf).min(1, initial=np.inf)[:, None]
  with np.errstate(invalid="ignore"):
    span = np.where(most > least, most - least, 1)
    # If all scores are equal, each image counts as the best.
    shares = np.where(most > least, (scores - least) / span, 1.0)
  return np.where(known, shares, 0.0)


def _sum_by_id(ids, values):
  """Sum values of equal ids within a row; repeated ids become -1."""
  order = np.argsort(ids, axis=1, kind="stable")
  ids = np.take_along_axis(ids, order, axis=1)
  values = np.take_along_axis(values, order, axis=1)
  starts = np.ones(ids.shape, bool)
  starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
  # Each row starts a new group, so that one sum over all rows is enough.
  group = np.cumsum(starts.ravel()) - 1
  sums = np.bincount(group, weights=values.ravel()) if group.size else values
  return np.where(starts, ids, -1), sums[group].reshape(ids.shape)


def _is_weight(value):
  return isinstance(value, numbers.Real) and 0 <= float(value) < np.inf


# Number of images to verify per query, junk not counted (DELG, section 4.3;
# Detect-to-Retrieve, section 5.2).
VERIFIED = 100


@dataclasses.dataclass(frozen=True)
class Reranked:
  """Rankings [Q, k] by inliers, then by the score of the search."""

  ids: np.ndarray  # Int; -1 pads rows with fewer images.
  inliers: np.ndarray  # int32; 0 for images that were not verified.
  scores: np.ndarray  # Scores of the search.


def shortlist(
  ids: np.ndarray,
  junk: Sequence[np.ndarray] | None = None,
  most: int = VERIFIED,
) -> np.ndarray:
  """Choose the images to verify: the first `most` that are not junk.

  `ids` are [Q, k], best first, padded by -1; `junk`, if any, is an int array
  per query, the images that a protocol ignores. Returns [Q, k] bool.
  """
  ids = np.asarray(ids)
  if ids.ndim != 2:
    raise errors.InputError(f"ids must be [Q, k], not {list(ids.shape)}")
  if isinstance(most, bool) or not isinstance(most, int) or most < 0:
    text = f"the number of images to verify is {most!r}, not at least 0"
    raise errors.InputError(text)
  good = ids >= 0
  if junk is not None:
    if len(junk) != len(ids):
      raise errors.InputError(f"junk has {len(junk)} queries, not {len(ids)}")
    for row, ignored in enumerate(junk):
      good[row] &= ~np.isin(ids[row], np.asarray(ignored, dtype=np.int64))
  return good & (np.cumsum(good, axis=1) <= most)


def pairs(ids: np.ndarray, *chosen: np.ndarray) -> np.ndarray:
  """List the distinct (query, image) pairs of shortlists: [P, 2], sorted."""
  ids = np.asarray(ids)
  rows, columns = np.nonzero(np.any(chosen, axis=0))
  listed = np.stack([rows, ids[rows, columns]], axis=1).astype(np.int64)
  return listed[np.lexsort(listed.T[::-1])]


def rerank(
  ids: np.ndarray,
  scores: np.ndarray,
  verify: Callable[[np.ndarray, np.ndarray], np.ndarray],
  junk: Sequence[np.ndarray] | None = None,
  most: int = VERIFIED,
) -> Reranked:
  """Sort rankings by (inliers, score), descending; ties by lower id.

  `verify` takes queries [P] and images [P] of the `shortlist` and returns
  inliers [P]. All other images, including junk, have 0 inliers: the score
  places them among verified images with 0.
  """
  ids, scores = np.asarray(ids), np.asarray(scores)
  chosen = shortlist(ids, junk, most)
  if scores.shape != ids.shape:
    shapes = f"{list(ids.shape)}, not {list(scores.shape)}"
    raise errors.InputError(f"scores must have the shape of ids, {shapes}")
  if np.isnan(scores).any():
    raise errors.InputError(f"{np.isnan(scores).sum()} scores are NaN")
  inliers = np.zeros(ids.shape, np.int32)
  rows, columns = np.nonzero(chosen)
  inliers[rows, columns] = verify(rows, ids[rows, columns])
  order = np.lexsort((ids, -scores, -inliers, ids < 0))
  return Reranked(
    *(np.take_along_axis(each, order, 1) for each in (ids, inliers, scores))
  )


# [N, D], or N arrays [D]; None or [0] for an image without a descriptor.
Descriptors = np.ndarray | Sequence[np.ndarray | None]


class NamedIndex:
  """Base of the indexes: images with unique names, and ids from 0.

  `names`, by id, must not be changed. Removing images renumbers later ones, so
  that ids have no gaps.
  """

  names: list[str]

  def __init__(self) -> None:
    self._set_names([])

  def __len__(self) -> int:
    return len(self.names)

  def _set_names(self, names, path=None) -> None:
    """Replace all names, for instance by those of a file."""
    self.names, self._ids = [], dict[str, int]()
    self._add_names(self._check_names(names, path=path))

  def _add_names(self, names: Sequence[str]) -> None:
    """Append names that `_check_names` has returned."""
    self._ids |= {name: len(self) + i for i, name in enumerate(names)}
    self.names.extend(names)

  def _check_names(self, names, number=None, path=None) -> list[str]:
    """Return new names as a list; InputError if they cannot be added.

    `number` is the number of images; `path` is the file that has the names.
    """
    listed, problem = list(names), None
    if isinstance(names, str):
      problem = f"names must be a list, not the text {names!r}"
    elif number not in (None, len(listed)):
      problem = f"{number} names are needed, not {len(listed)}"
    elif other := [name for name in listed if not isinstance(name, str)]:
      problem = f"names must be text, not {other[0]!r}"
    elif twice := [n for n, i in collections.Counter(listed).items() if i > 1]:
      problem = f"names must be unique; repeated: {_few(twice)}"
    elif known := [name for name in listed if name in self._ids]:
      problem = f"already in the index: {_few(known)}"
    if problem:
      raise errors.InputError(problem, path=path)
    return listed

  def _without(self, names: str | Iterable[str]) -> np.ndarray:
    """Remove names, all or none; return [N] bool, whether each id is kept."""
    names = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in names if name not in self._ids]:
      raise errors.InputError(f"not in the index: {_few(unknown)}")
    keep = np.ones([len(self)], bool)
    keep[[self._ids[name] for name in names]] = False
    self._set_names(itertools.compress(self.names, keep))
    return keep


def _few(names):
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return f"{', '.join(map(repr, names[:3]))}{more}"


class DescriptorIndex(NamedIndex):
  """Base of the indexes of global descriptors of one dimension.

  `dimension` is D, None while the index has no descriptor; `empty` is [N] bool,
  whether an image has no descriptor.
  """

  def __init__(self) -> None:
    super().__init__()
    self.empty = np.zeros([0], bool)
    self.dimension: int | None = None
