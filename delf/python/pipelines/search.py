"""Searching a collection: what is compared, and in which order it comes."""

import dataclasses
import functools

import numpy as np

from delf.python.pipelines import (
  index_parts,
  search_entries,
  search_method,
  search_regions,
  search_result,
  verify_search,
)
from delf.python.retrieval import (
  fusion,
  ranking,
  refinement,
  reranking,
  verification,
)

METHODS = tuple(search_method.NEEDED)

# Scores that are held at once, and images that a refinement looks at.
_SCORES = 1 << 24
_REFINED = 1000


@dataclasses.dataclass(frozen=True)
class SearchOptions:
  """How a collection is searched.

  Attributes:
    method: "global" (descriptors), "words" (ASMK of local features), "fusion"
      of both, or None: global where there are global descriptors.
    rerank: How many of the first images are matched point by point; 0: none.
    expand: Images that each query is averaged with (alpha query expansion).
    refine: Name in refinement.METHODS, or None.
    only_whole: Whether regions are left out, of a collection that has them.
    workers: Processes that match, or None: one per core.
    verify: How images are matched; the default is DELG's (section 5.1).
  """

  method: str | None = None
  rerank: int = 0
  expand: int = 0
  refine: str | None = None
  only_whole: bool = False
  workers: int | None = None
  verify: verification.VerifyOptions = verification.VerifyOptions(
    descriptor_threshold=1.0, residual_threshold=20.0
  )


class Searcher:
  """One collection, opened to be searched in one way."""

  def __init__(self, found, options=None):
    """Opens the indexes that the method needs.

    Args:
      found: collection.Collection.
      options: SearchOptions, or None for the defaults.

    Raises:
      InputError: If the collection lacks what the method compares.
    """
    self.collection = found
    self.options = options or SearchOptions()
    kinds = index_parts.kinds(found)
    self.method = search_method.choose(self.options, kinds, found.folder)
    self._parts = {
      name: kinds[name](found) for name in search_method.NEEDED[self.method]
    }
    first, *_ = self._parts.values()
    self._entries = list(first.index.names)
    only_whole = self.options.only_whole
    self._regions = search_regions.make(found, self._entries, only_whole)
    self.names = self._regions.images if self._regions else self._entries

  @property
  def has_regions(self):
    """Whether the collection is indexed by region."""
    return self._regions is not None

  @property
  def _uses_global(self):
    return self.method in ("global", "fusion")

  def read(self, queries):
    """Reads what is compared of each query.

    Args:
      queries: list of queries.Query.

    Returns:
      list of Query that can be searched with, list of dict of part name to what
      its index takes, and list of extract_report.Failure.
    """
    return search_entries.read(queries, self._parts)

  def rank(self, entries, k=None):
    """Ranks the images of the collection for each query, without matching.

    Args:
      entries: What `read` returned.
      k: Images a query, or None for all.

    Returns:
      ranking.Ranking over `names`.
    """
    k = max(len(self.names), 1) if k is None else k
    depth = self._regions.depth(k) if self._regions else k
    step = max(1, _SCORES // max(1, len(self._entries)))
    blocks = [
      self._rank(entries[start : start + step], depth)
      for start in range(0, len(entries), step)
    ] or [ranking.top_k(np.zeros([0, len(self._entries)]), depth)]
    found = ranking.Ranking(
      np.concatenate([block.ids[:, :depth] for block in blocks]),
      np.concatenate([block.scores[:, :depth] for block in blocks]),
    )
    return self._regions.rank(found, k) if self._regions else found

  def boxes(self, found, ids):
    """Returns the regions that matched; see `search_regions.Regions.boxes`.

    Args:
      found: What `rank` returned.
      ids: [Q, n] int, places in `names`, or -1.

    Returns:
      None of a collection without regions.
    """
    return self._regions.boxes(found, ids) if self._regions else None

  def _rank(self, entries, k):
    """Ranks for some of the queries; the Ranking may have more than k."""
    depth = len(self._entries) if self.method == "fusion" else k
    found = []
    if self._uses_global:
      descriptors = np.stack([entry["global"] for entry in entries])
      found.append(self._rank_global(descriptors, depth))
    if self.method in ("words", "fusion"):
      words = [entry["words"] for entry in entries]
      found.append(self._rank_words(words, depth))
    if len(found) == 1:
      return found[0]
    return fusion.fuse(found, fusion.ASMK_AND_GLOBAL[::-1], k)

  def _rank_global(self, descriptors, k):
    index = self._parts["global"].index
    if self.options.expand or self.options.refine:
      k = max(k, self.options.expand, _REFINED)
    found = index.search(descriptors, min(k, max(len(index), 1)))
    empty = np.flatnonzero(index.empty)
    if self.options.expand:
      expand = refinement.QueryExpansion(self.options.expand)
      found = expand(descriptors, found, index.descriptors, empty)
    if self.options.refine:
      found = refinement.refine(
        self.options.refine, descriptors, found, index.descriptors, empty
      )
    return found

  def _rank_words(self, aggregates, k):
    found = self._parts["words"].index.search(aggregates, k)
    if self._word_ids is None:
      return found
    ids = np.where(found.ids < 0, -1, self._word_ids[found.ids])
    return ranking.Ranking(ids.astype(np.int32), found.scores)

  @functools.cached_property
  def _word_ids(self):
    """Entry of each image of the words' index; None: they are the same."""
    others = list(self._parts["words"].index.names)
    if others == self._entries:
      return None
    place = {name: i for i, name in enumerate(self._entries)}
    return np.array([place.get(name, -1) for name in others], np.int32)

  def search(self, queries, top):
    """Searches with queries, and matches the first images if that is asked.

    Args:
      queries: list of queries.Query.
      top: Results a query.

    Returns:
      search_result.SearchResult.
    """
    queries, entries, failed = self.read(queries)
    found = self.rank(entries, max(top, self.options.rerank))
    first, inliers = found, None
    if self.options.rerank:
      report = self.verify(queries, found, self.shortlist(found))
      failed += report.failed
      found, inliers = verify_search.reranked(
        found, report, self.options.rerank
      )
      inliers = inliers[:, :top]
    return search_result.SearchResult(
      queries=tuple(queries),
      names=tuple(self.names),
      ranking=ranking.Ranking(found.ids[:, :top], found.scores[:, :top]),
      inliers=inliers,
      method=self.method,
      verify=self.options.verify,
      failed=tuple(failed),
      boxes=self.boxes(first, found.ids[:, :top]),
    )

  def shortlist(self, found, junk=None):
    """Returns [Q, k] bool: which images of rankings are to be matched."""
    return reranking.shortlist(found.ids, junk, self.options.rerank)

  def verify(self, queries, found, *chosen):
    """Matches images point by point; what is known from before is not redone.

    Args:
      queries: list of queries.Query.
      found: ranking.Ranking of them, over `names`.
      *chosen: [Q, k] bool each, as from `shortlist`.

    Returns:
      verify.VerifyReport, whose pairs are (row of the query, index in `names`).

    Raises:
      InputError: If the collection has no local features.
    """
    return verify_search.verify(
      self.collection,
      self.names,
      queries,
      reranking.pairs(found.ids, *chosen),
      self.options,
    )
