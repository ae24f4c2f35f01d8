"""Which images of a collection are most like each query."""

import collections
import dataclasses
import numbers

import numpy as np

from delf.base import errors


@dataclasses.dataclass(frozen=True)
class Ranking:
  """The best images of each query, best first; ties by lower id.

  Attributes:
    ids: [Q, k] int32, indices into the names of the collection. Where there are
      fewer than k images, the last of a row are -1.
    scores: [Q, k] float32, descending; -inf where the id is -1.
  """

  ids: np.ndarray
  scores: np.ndarray

  def __len__(self):
    return len(self.ids)


def top_k(scores, k=None):
  """Finds the best images of each query.

  Args:
    scores: [Q, N] array of numbers without NaN, of N images for Q queries.
    k: Number of images a query, or None for all of them.

  Returns:
    Ranking.

  Raises:
    InputError: If k is not over 0.
  """
  scores = np.asarray(scores, dtype=np.float32)
  k = max(scores.shape[1], 1) if k is None else check_k(k)
  ids = np.full([len(scores), k], -1, np.int32)
  best = np.full([len(scores), k], -np.inf, np.float32)
  for row, found in enumerate(scores):
    first = _best(found, k)
    ids[row, : len(first)] = first
    best[row, : len(first)] = found[first]
  return Ranking(ids, best)


def recall(found, exact, k):
  """Returns the share of the k best images that a search found among its k.

  Args:
    found: Ranking of the search.
    exact: Ranking of an exact search for the same queries.
    k: Number of images a query; both have at least as many.

  Returns:
    float from 0 to 1, the mean over queries (recall@k).
  """
  one, two = found.ids[:, :k], exact.ids[:, :k]
  there = (one[:, :, None] == two[:, None, :]) & (two[:, None, :] >= 0)
  return float(there.any(axis=1).sum() / max(np.count_nonzero(two >= 0), 1))


def check_k(k):
  """Returns the number of images that is asked for; raises an InputError."""
  if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
    raise errors.InputError("a number of images over 0", repr(k))
  return int(k)


def _best(scores, k):
  """Returns the indices of the k best of [N] scores, best first."""
  if k < len(scores):
    # A sort of all takes longer, and a partition alone takes any of the ties.
    least = np.partition(scores, -k)[-k]
    above = np.flatnonzero(scores > least)
    ties = np.flatnonzero(scores == least)[: k - len(above)]
    found = np.concatenate([above, ties])
  else:
    found = np.arange(len(scores))
  return found[np.argsort(-scores[found], kind="stable")]


@dataclasses.dataclass(frozen=True)
class GroupRanking(Ranking):
  """A Ranking of groups that knows which part of each was the best.

  Attributes:
    parts: [Q, k] int32, the id of the best part; -1 where the id is -1.
  """

  parts: np.ndarray

  def parts_of(self, ids):
    """Returns the best part of each group in another order.

    Args:
      ids: [Q, n] int, ids of groups that are in the ranking, or -1.

    Returns:
      [Q, n] int32; -1 for those that are not.
    """
    found = np.full(np.shape(ids), -1, np.int32)
    for row, (own, parts) in enumerate(zip(self.ids, self.parts, strict=True)):
      place = dict(zip(own.tolist(), parts.tolist(), strict=True))
      found[row] = [place.get(each, -1) for each in ids[row].tolist()]
    return found


def by_best(found, group, k, kept=None):
  """Ranks groups by their best part.

  Args:
    found: ranking.Ranking of parts, of any depth.
    group: [P] int, id of the group of each part.
    k: Groups a query.
    kept: [P] bool, parts that count, or None for all.

  Returns:
    GroupRanking [Q, k]; scores are those of the best part.
  """
  shape = [len(found.ids), k]
  ids, parts = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
  scores = np.full(shape, -np.inf, np.float32)
  for row, (own, its_scores) in enumerate(
    zip(found.ids, found.scores, strict=True)
  ):
    counts = own >= 0
    if kept is not None:
      counts &= kept[own]  # Of -1 the last, which does not count anyway.
    places = np.flatnonzero(counts)
    # The first of each group is its best part.
    _, first = np.unique(group[own[places]], return_index=True)
    places = places[np.sort(first)][:k]
    number = len(places)
    parts[row, :number] = own[places]
    ids[row, :number] = group[own[places]]
    scores[row, :number] = its_scores[places]
  return GroupRanking(ids, scores, parts)


class NameList:
  """A list of names that knows where each is."""

  def __init__(self, names=(), path=None):
    """Starts with names; `path` is the file they are of, for errors."""
    self.names = []
    self._ids = {}
    self.add(names, path=path)

  def __len__(self):
    return len(self.names)

  def add(self, names, number=None, path=None):
    """Adds names at the end; all or none.

    Args:
      names: Sequence of str.
      number: How many there must be, or None.
      path: File that they are of, for errors.

    Raises:
      InputError: If one is not text, is there already, or comes twice, or if
        they are not as many as there must be.
    """
    names = self.check(names, number, path)
    self._ids |= {name: len(self) + i for i, name in enumerate(names)}
    self.names.extend(names)

  def check(self, names, number=None, path=None):
    """Raises what `add` would; returns the names as a list."""
    if isinstance(names, str):
      raise errors.InputError("a list of names", "one name", path)
    names = list(names)
    if number is not None and len(names) != number:
      raise errors.InputError(f"{number} names", f"{len(names)}", path)
    for name in names:
      if not isinstance(name, str):
        raise errors.InputError("names as text", repr(name), path)
    counts = collections.Counter(names)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
      raise errors.InputError("each name once", _few(twice, "twice"), path)
    known = [name for name in names if name in self._ids]
    if known:
      raise errors.InputError(
        "names that are not in the index yet", _few(known), path
      )
    return names

  def ids(self, names):
    """Returns the places of names, list of int.

    Raises:
      InputError: If a name is not there; it names it.
    """
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in self._ids]
    if unknown:
      raise errors.InputError("names in the index", _few(unknown))
    return [self._ids[name] for name in names]

  def kept(self, keep):
    """Returns a NameList of those names that are in [N] bool."""
    pairs = zip(self.names, keep, strict=True)
    return NameList(name for name, stays in pairs if stays)


def _few(names, words=""):
  """Returns some of the names, and how many there are."""
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return f"{', '.join(map(repr, names[:3]))}{more} {words}".rstrip()


_SIGN = np.uint32(1 << 31)
_LAST_ID = np.uint64((1 << 32) - 1)
_HALF = np.uint64(32)


class TopScores:
  """Keeps the k best scores of each query, ties by lower id.

  A score and its id are one integer that sorts as the pair does, so that a
  partition of these decides ties as well.
  """

  def __init__(self, number, k):
    """Starts without scores.

    Args:
      number: Number of queries, Q.
      k: Number of scores to keep a query.
    """
    # Zero, which no score has, stands for none.
    self._keys = np.zeros([number, k], np.uint64)
    self._least = np.full([number], -np.inf, np.float32)

  def add(self, scores, first):
    """Takes the scores of the images that follow.

    Args:
      scores: [Q, B] float32 without NaN. What is -inf is left out.
      first: Id of the first of these images; higher than all before.
    """
    # An equal score has a higher id than the one that is there, and loses.
    found = np.flatnonzero(scores > self._least[:, None])
    if not len(found):
      return
    rows, columns = np.divmod(found, scores.shape[1])
    counts = np.bincount(rows, minlength=len(scores))
    width, k = counts.max(), self._keys.shape[1]
    places = np.arange(len(rows)) - np.repeat(
      np.cumsum(counts) - counts, counts
    )
    keys = np.zeros([len(scores), k + width], np.uint64)
    keys[:, :k] = self._keys
    keys[rows, k + places] = _keys(scores.reshape(-1)[found], first + columns)
    keys.partition(width, axis=1)
    self._keys = keys[:, width:]
    self._least = _scores(self._keys[:, 0])

  def result(self):
    """Returns the ranking.Ranking of what was added."""
    keys = np.sort(self._keys, axis=1)[:, ::-1]
    ids = (_LAST_ID - (keys & _LAST_ID)).astype(np.int64)
    ids[keys == 0] = -1
    return Ranking(ids.astype(np.int32), _scores(keys))


def _keys(scores, ids):
  """Returns uint64 that sort as scores do, then as ids do the other way."""
  # Adding 0 makes -0, which is as much, 0.
  bits = (scores + np.float32(0)).view(np.uint32)
  ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
  return (ordered << _HALF) | (_LAST_ID - ids.astype(np.uint64))


def _scores(keys):
  """Returns the float32 scores of keys, -inf for none."""
  ordered = (keys >> _HALF).astype(np.uint32)
  bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered)
  return np.where(keys == 0, np.float32(-np.inf), bits.view(np.float32))


CONVEX, RANKS = "convex", "ranks"
METHODS = (CONVEX, RANKS)
# Weights of ASMK* and of global descriptors, "convex", of the model that comes
# with the package: the best of tenths on training photos, where its ASMK* alone
# is far better than its global descriptors (`benchmarks/retrieval_tuning.py`).
# Global descriptors that were trained on landmarks deserve more.
ASMK_AND_GLOBAL = (0.9, 0.1)


@dataclasses.dataclass(frozen=True)
class FusionOptions:
  """How rankings become one.

  Attributes:
    method: "convex": the weighted sum of scores that are brought to [0, 1] a
      query, by their least and largest (CombSUM of Fox and Shaw, TREC-2 1994,
      on the scores of J. H. Lee, SIGIR 1997). "ranks": the weighted sum of
      1 / (constant + rank), rank from 1 (reciprocal rank fusion, Cormack et
      al., SIGIR 2009), which asks nothing of the scores.
    constant: Of "ranks"; the paper's is 60.
  """

  method: str = CONVEX
  constant: float = 60.0

  def __post_init__(self):
    if self.method not in METHODS:
      raise errors.InputError(f"one of {', '.join(METHODS)}", repr(self.method))
    if not _is_number(self.constant) or self.constant < 0:
      raise errors.InputError("a constant of at least 0", repr(self.constant))


def fuse(rankings, weights=None, k=None, options=None):
  """Joins rankings of one collection for the same queries.

  An image that is missing in a ranking, or has -inf there, counts as no better
  than the last in it: it adds nothing. So every ranking should reach deep.

  Args:
    rankings: Sequence of ranking.Ranking, each [Q, k_i].
    weights: Sequence of float, at least 0, one a ranking; None: all the same.
    k: Number of images a query, or None for as many as the longest.
    options: FusionOptions, or None for the default.

  Returns:
    ranking.Ranking, with -1 where all rankings together have too few images.

  Raises:
    InputError: If there is no ranking, their numbers of queries differ, the
      weights do not fit, or k is not over 0.
  """
  options = options or FusionOptions()
  rankings = _checked(rankings)
  shares = _shares(weights, len(rankings))
  longest = max(each.ids.shape[1] for each in rankings)
  k = longest if k is None else check_k(k)
  ids = np.concatenate([each.ids for each in rankings], axis=1)
  values = np.concatenate(
    [
      share * _values(each, options)
      for share, each in zip(shares, rankings, strict=True)
    ],
    axis=1,
  )
  return _top(*_summed(ids, values), k)


def normalised(scores):
  """Returns [Q, k] scores brought to [0, 1] a row; -inf becomes 0.

  All are 1 in a row where they are the same.
  """
  there = np.isfinite(scores)
  most = np.where(there, scores, -np.inf).max(
    axis=1, keepdims=True, initial=-np.inf
  )
  least = np.where(there, scores, np.inf).min(
    axis=1, keepdims=True, initial=np.inf
  )
  with np.errstate(invalid="ignore"):
    span = most - least
    shares = np.where(
      span > 0, (scores - least) / np.where(span > 0, span, 1), 1.0
    )
  return np.where(there, shares, 0.0)


def _values(found, options):
  """Returns [Q, k] float64, what each image of a ranking adds."""
  there = (found.ids >= 0) & np.isfinite(found.scores)
  if options.method == CONVEX:
    scores = np.where(there, found.scores.astype(np.float64), -np.inf)
    return normalised(scores)
  ranks = np.arange(1, found.ids.shape[1] + 1)
  return there / (options.constant + ranks)


def _summed(ids, values):
  """Adds the values of equal ids of a row.

  Returns:
    [Q, W] ids with -1 in all but one place of each id, and float64 sums.
  """
  order = np.argsort(ids, axis=1, kind="stable")
  ids = np.take_along_axis(ids, order, axis=1)
  values = np.take_along_axis(values, order, axis=1)
  starts = np.ones(ids.shape, bool)
  starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
  # Each row starts a new id, so that one sum over all rows serves.
  group = np.cumsum(starts.ravel()) - 1
  sums = np.bincount(group, weights=values.ravel()) if group.size else values
  return np.where(starts, ids, -1), sums[group].reshape(ids.shape)


def _top(ids, values, k):
  """Returns the Ranking of the k largest values, ties by lower id."""
  width = max(k - ids.shape[1], 0)
  ids = np.pad(ids, [(0, 0), (0, width)], constant_values=-1)
  values = np.pad(values, [(0, 0), (0, width)])
  scores = np.where(ids >= 0, values, -np.inf).astype(np.float32)
  order = np.lexsort((ids, -scores), axis=1)[:, :k]
  return Ranking(
    np.take_along_axis(ids, order, axis=1).astype(np.int32),
    np.take_along_axis(scores, order, axis=1),
  )


def _checked(rankings):
  rankings = list(rankings)
  if not rankings:
    raise errors.InputError("rankings to fuse", "none")
  lengths = sorted({len(each) for each in rankings})
  if len(lengths) > 1:
    raise errors.InputError(
      "rankings of the same queries", f"{lengths} queries"
    )
  return rankings


def _shares(weights, number):
  """Returns the weights as float64 that sum to 1."""
  weights = [1.0] * number if weights is None else list(weights)
  if len(weights) != number or not all(map(_is_weight, weights)):
    raise errors.InputError(f"{number} weights of at least 0", repr(weights))
  if not sum(weights) > 0:
    raise errors.InputError("a weight over 0", "all 0")
  return np.array(weights, np.float64) / sum(weights)


def _is_weight(weight):
  return _is_number(weight) and weight >= 0


def _is_number(value):
  return isinstance(value, numbers.Real) and bool(np.isfinite(value))


# Images of a ranking that are verified, junk not counted (DELG, section 4.3;
# Detect-to-Retrieve, section 5.2).
VERIFIED = 100


@dataclasses.dataclass(frozen=True)
class Reranked:
  """Rankings by inliers, then by the score of the search.

  Attributes:
    ids: [Q, k] int32, indices of images, best first; -1 at the end of a row
      that has fewer.
    inliers: [Q, k] int32; 0 for images that were not verified.
    scores: [Q, k] float, scores of the search, of the type they came in.
  """

  ids: np.ndarray
  inliers: np.ndarray
  scores: np.ndarray


def shortlist(ids, junk=None, most=VERIFIED):
  """Finds the images of each ranking that are worth verifying.

  Args:
    ids: [Q, k] int, indices of images, best first; -1 for none.
    junk: Sequence of Q int arrays, images that a protocol leaves out, or None.
    most: Number of images a query.

  Returns:
    [Q, k] bool: which are the first `most` that are not junk.

  Raises:
    InputError: If the shapes do not fit or `most` is negative.
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
    for row, left_out in enumerate(junk):
      good[row] &= ~np.isin(ids[row], np.asarray(left_out, dtype=np.int64))
  return good & (np.cumsum(good, axis=1) <= most)


def pairs(ids, *chosen):
  """Lists what is to be verified, each pair once.

  Args:
    ids: [Q, k] int, indices of images.
    *chosen: [Q, k] bool each, as from `shortlist`: one for each protocol.

  Returns:
    [P, 2] int64, (query, image), sorted.
  """
  ids = np.asarray(ids)
  rows, columns = np.nonzero(np.logical_or.reduce(chosen))
  found = np.stack([rows, ids[rows, columns]], axis=1).astype(np.int64)
  return found[np.lexsort(found.T[::-1])]


def rerank(ids, scores, verify, junk=None, most=VERIFIED):
  """Sorts rankings by (inliers, score), descending.

  The first `most` images of each that are not junk are verified. All others,
  junk too, keep 0 inliers and stand among the verified ones of 0 by their
  score. Ties go to the lower index.

  Args:
    ids: [Q, k] int, indices of images, best first; -1 for none.
    scores: [Q, k] float, their scores.
    verify: Function from queries [P] and images [P], int, to the inliers of
      each pair, [P] int.
    junk: Sequence of Q int arrays, images that a protocol leaves out, or None.
    most: Number of images to verify.

  Returns:
    Reranked.

  Raises:
    InputError: If the shapes do not fit or a score is NaN.
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
