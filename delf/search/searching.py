"""Searching a collection: what is compared, and in which order it comes."""

import dataclasses
import functools
import os

import numpy as np

from delf.base import errors
from delf.extraction import engine, feature_files
from delf.indexes import ranking, refinement
from delf.matching import matcher, verify_files
from delf.matching import verify_files as verification
from delf.pictures import results_page, thumbnails
from delf.search import collection_regions, index_parts, queries


def read(queries, parts):
  """Reads what is compared of each query.

  Args:
    queries: list of queries.Query.
    parts: dict of name to index_parts.Part: those that are searched.

  Returns:
    list of Query that can be searched with, list of dict of part name to what
    its index takes, and list of extract_report.Failure.
  """
  good, entries, failed = [], [], []
  for query in queries:
    try:
      entries.append(_read(query, parts))
      good.append(query)
    except (errors.InputError, OSError) as error:
      line = errors.one_line(error)
      failed.append(engine.Failure(query.photo or query.name, line))
  return good, entries, failed


def _read(query, parts):
  entry = {}
  if index_parts.GLOBAL in parts:
    part = parts[index_parts.GLOBAL]
    found = part.whitened(query.global_descriptor())
    if not found.size:
      raise errors.InputError(
        "a photo large enough for a global descriptor", "one that is not"
      )
    entry[index_parts.GLOBAL] = found
  if index_parts.WORDS in parts:
    part = parts[index_parts.WORDS]
    path = query.local_path(part.extension)
    local = feature_files.read_local(path)
    if not len(local):
      raise errors.InputError("local features", "none")
    entry[index_parts.WORDS] = part.aggregate(local.descriptors)
  return entry


# The parts of the index that each method needs, the first of them for names.
NEEDED = {
  "global": (index_parts.GLOBAL,),
  "words": (index_parts.WORDS,),
  "fusion": (index_parts.GLOBAL, index_parts.WORDS),
}


def choose(options, kinds, folder):
  """Returns the method, after checking that a collection is for it.

  Args:
    options: search.SearchOptions.
    kinds: Names of the parts that the collection has.
    folder: Of the collection, for errors.

  Raises:
    InputError: If a part is missing, or the method has no such refinement.
  """
  method = options.method
  if method is None:
    method = "global" if index_parts.GLOBAL in kinds else "words"
  for name in NEEDED[method]:
    if name not in kinds:
      raise errors.InputError(
        f"an index of {name} for --method {method}"
        + (" (delf index --codebook)" if name == "words" else ""),
        f"one of {', '.join(kinds) or 'nothing'}",
        folder,
      )
  if method == "words" and (options.expand or options.refine):
    raise errors.InputError(
      "--method global or fusion with --expand or --refine", method
    )
  return method


@dataclasses.dataclass(frozen=True)
class Hit:
  """One result of a query.

  Attributes:
    name: Name of the image in the collection.
    score: What the first stage compares; larger is better.
    inliers: Points that agree with the query, or None where it was not matched.
    box: (x1, y1, x2, y2) in pixels of the photo: the region that is most like
      the query; None for the whole image.
  """

  name: str
  score: float
  inliers: int | None = None
  box: tuple[float, float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class SearchResult:
  """The results of all queries.

  Attributes:
    queries: queries.Query of each row.
    names: Names of the images in the collection.
    ranking: ranking.Ranking, [Q, k], over `names`; after verification in the
      order of inliers, the scores those of the first stage.
    inliers: [Q, k] int32, -1 where an image was not matched; None where none
      was.
    method: What was compared: "global", "words" or "fusion".
    verify: verification.VerifyOptions that images were matched with.
    failed: Each query or image that could not be used.
    boxes: Of each query, and of each of its k images, the box of Hit; None of a
      collection without regions.
  """

  queries: tuple[queries.Query, ...]
  names: tuple[str, ...]
  ranking: ranking.Ranking
  inliers: np.ndarray | None
  method: str
  verify: matcher.VerifyOptions
  failed: tuple[engine.Failure, ...] = ()
  boxes: list | None = None

  def hits(self):
    """Yields each Query with the list of its Hit, best first."""
    for row, query in enumerate(self.queries):
      yield query, self.hits_of(row)

  def hits_of(self, row):
    """Returns the list of Hit of a query, best first."""
    ids, scores = self.ranking.ids[row], self.ranking.scores[row]
    found = []
    for column in np.flatnonzero(ids >= 0):
      inliers = None if self.inliers is None else int(self.inliers[row, column])
      found.append(
        Hit(
          self.names[ids[column]],
          float(scores[column]),
          None if inliers is None or inliers < 0 else inliers,
          None if self.boxes is None else self.boxes[row][column],
        )
      )
    return found

  def document(self):
    """Returns a dict for JSON."""
    return {
      "method": self.method,
      "queries": [
        {
          "query": query.name,
          "photo": query.photo,
          "results": [dataclasses.asdict(hit) for hit in hits],
        }
        for query, hits in self.hits()
      ],
      "failed": [dataclasses.asdict(failure) for failure in self.failed],
    }


def verify(found, names, queries, pairs, options):
  """Matches queries with images of a collection, point by point.

  Args:
    found: collection.Collection; what is matched is recorded in it, where it
      can be written.
    names: Names of its images.
    queries: list of queries.Query.
    pairs: [P, 2] int, (row of the query, index in `names`).
    options: search.SearchOptions.

  Returns:
    verify.VerifyReport.

  Raises:
    InputError: If the collection has no local features.
  """
  extension = found.settings.local_extension
  if not extension:
    raise errors.InputError(
      "local features, which matching needs", "none", found.folder
    )
  of_queries = verify_files.FeatureFiles(
    tuple(query.features for query in queries),
    tuple(query.local_path(extension) for query in queries),
  )
  # Those of the pairs alone: a collection may have a million.
  images, places = np.unique(pairs[:, 1], return_inverse=True)
  some = tuple(names[image] for image in images)
  whole = collection_regions.whole(found, some)
  paths = (os.fspath(found.feature_path(name, extension)) for name in whole)
  report = verification.verify_pairs(
    np.stack([pairs[:, 0], places.reshape(-1)], axis=1),
    of_queries,
    verify_files.FeatureFiles(some, tuple(paths)),
    options.verify,
    found.writable_folder(),
    options.workers,
  )
  known = report.pairs.copy()
  known[:, 1] = images[known[:, 1]]  # In order, as both are.
  return dataclasses.replace(report, pairs=known)


def reranked(found, report, most):
  """Sorts rankings by inliers, then by score.

  Args:
    found: ranking.Ranking [Q, k] of the search.
    report: verify.VerifyReport of its first images.
    most: Number of images of each query that were matched.

  Returns:
    ranking.Ranking [Q, k], and [Q, k] int32 inliers, -1 where an image was not
    matched.
  """
  chosen = ranking.shortlist(found.ids, most=most)
  new = ranking.rerank(found.ids, found.scores, report.look_up, most=most)
  inliers = new.inliers.copy()
  # Which ones were matched, in the new order.
  for row in range(len(found.ids)):
    matched = found.ids[row][chosen[row]]
    inliers[row, ~np.isin(new.ids[row], matched)] = -1
  return ranking.Ranking(new.ids, new.scores), inliers


METHODS = tuple(NEEDED)

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
  verify: matcher.VerifyOptions = matcher.VerifyOptions(
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
    self.method = choose(self.options, kinds, found.folder)
    self._parts = {name: kinds[name](found) for name in NEEDED[self.method]}
    first, *_ = self._parts.values()
    self._entries = list(first.index.names)
    only_whole = self.options.only_whole
    self._regions = collection_regions.make(found, self._entries, only_whole)
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
    return read(queries, self._parts)

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
    return ranking.fuse(found, ranking.ASMK_AND_GLOBAL[::-1], k)

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
      found, inliers = reranked(found, report, self.options.rerank)
      inliers = inliers[:, :top]
    return SearchResult(
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
    return ranking.shortlist(found.ids, junk, self.options.rerank)

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
    return verify(
      self.collection,
      self.names,
      queries,
      ranking.pairs(found.ids, *chosen),
      self.options,
    )


def check_path(path):
  """Raises an InputError, before any work, if a page cannot have that name."""
  results_page.check_path(path)


def write(
  path, found, result, labels=None, notes=None, evaluation=None, title=None
):
  """Writes a page of the results of a search.

  Args:
    path: Path of the page, `.html`.
    found: collection.Collection that was searched.
    result: search_result.SearchResult.
    labels: Function from the row of a query and the name of an image to
      content.TRUE, JUNK, FALSE or None; or None without ground truth.
    notes: Words for each query, or None.
    evaluation: content.Evaluation to show before the queries, or None.
    title: Words for the head of the page; None: the name of the collection.

  Returns:
    results_page.Report.

  Raises:
    InputError: If the name is none for a page.
    OSError: If it cannot be written.
  """
  photos = found.photos()
  rows = (
    _query(found, photos, result, row, labels, notes[row] if notes else "")
    for row in range(len(result.queries))
  )
  if title is None:
    name = os.path.basename(os.path.abspath(found.folder))
    title = f"{name}: search in {len(result.names)} images"
  options = thumbnails.Options(apply_rotation=found.settings.apply_rotation)
  return results_page.write(path, title, rows, evaluation, options)


def _query(found, photos, result, row, labels, note):
  query, hits = result.queries[row], result.hits_of(row)
  matcher = _Matcher(found, query, result.verify)
  shown = tuple(
    results_page.Result(
      name=hit.name,
      path=photos.get(hit.name),
      score=hit.score,
      inliers=hit.inliers,
      label=labels(row, hit.name) if labels else None,
      lines=matcher.lines(hit) if hit.inliers else None,
      box=hit.box,
    )
    for hit in hits
  )
  return results_page.Query(query.name, query.photo, shown, query.box, note)


class _Matcher:
  """Draws again what verification has counted."""

  def __init__(self, found, query, options):
    self._found = found
    self._extension = found.settings.local_extension
    self._query = query
    self._options = options
    self._side = None

  def lines(self, hit):
    """Returns the lines of a hit, as `content.match_lines` does, or None."""
    if self._side is None:
      self._side = _side(self._query.local_path(self._extension))
    (name,) = collection_regions.whole(self._found, [hit.name])
    other = _side(self._found.feature_path(name, self._extension))
    verified = matcher.verify(self._side, other, self._options)
    if verified.estimate is None:
      return None
    index, query = matcher.pair_points(self._side, other, verified.putatives)
    # Weakest first: of many lines the page draws the strongest.
    residuals = verified.estimate.residuals
    inliers = np.flatnonzero(verified.estimate.inliers)
    inliers = inliers[np.argsort(-residuals[inliers], kind="stable")]
    corner = np.asarray((self._query.box or (0, 0))[:2])
    lines = [query[inliers] + corner, index[inliers]]
    return np.concatenate(lines, axis=1, dtype=np.float32)


def _side(path):
  found = feature_files.read_local(path)
  return matcher.prepare(found.locations, found.descriptors, os.fspath(path))
