"""Rankings of parts as rankings of what they are parts of, by the best part."""

import dataclasses

import numpy as np

from delf.python.retrieval import ranking


@dataclasses.dataclass(frozen=True)
class GroupRanking(ranking.Ranking):
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
