"""Searching a collection: features of the queries, rankings, and a page."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from delf.base import errors, files
from delf.extraction import engine, extract
from delf.formats import wire
from delf.formats.features import ImageFeatures, LocalFeatures
from delf.indexes import ranking
from delf.matching import matcher, verification
from delf.protos import delf_config_pb2
from delf.search import collection

if TYPE_CHECKING:
  from delf.pictures import results_page

# Parts of the index that each method needs; names are those of the first.
METHODS = {
  "global": (collection.GLOBAL,),
  "words": (collection.WORDS,),
  "fusion": (collection.GLOBAL, collection.WORDS),
}

# Scores in memory at once, and images that are refined.
_SCORES = 1 << 24
_REFINED = 1000


# (x1, y1, x2, y2) in pixels of a photo.
Box = tuple[float, float, float, float]

# Photos of one run whose features stay in memory: 53 MB where each has 1000 of
# 128 values.
_KEPT = 100


@dataclasses.dataclass(frozen=True)
class Query:
  """A query photo, or a part of one."""

  name: str  # For people.
  photo: str | None  # Path; None where only features are known.
  # Path of the feature files, without extension; "" before extraction.
  features: str
  box: Box | None = None  # Part of the photo to search for; None for all.
  # Content of the feature files, where it is in memory.
  extracted: ImageFeatures | None = dataclasses.field(
    default=None, repr=False, compare=False
  )

  def path(self, extension: str) -> str:
    """Return the path of a feature file."""
    return self.features + extension

  def read(self, extension: str) -> Any:
    """Return the content of a feature file: LocalFeatures, or [D] float32."""
    if self.extracted is None:
      return collection.read_features(self.path(extension))
    if extension == files.DELG_GLOBAL:
      descriptor = self.extracted.global_descriptor
      return np.zeros([0], np.float32) if descriptor is None else descriptor
    return self.extracted.local or LocalFeatures.empty()


def find_photos(sources: Sequence[str], box: Box | None = None) -> list[Query]:
  """Find photos, as `engine.find` does; a box is a part of a single photo."""
  queries = [
    Query(name, path, "", box)
    for path, name in zip(*engine.find(sources), strict=True)
  ]
  if box is not None and len(queries) > 1:
    raise errors.InputError(
      f"a box is a part of one photo, and there are {len(queries)}"
    )
  return queries


def query_config(opened: collection.Collection) -> delf_config_pb2.DelfConfig:
  """Return the configuration that queries are extracted with."""
  settings, config = opened.settings, opened.delf_config()
  if config is None:
    raise errors.InputError(
      "this index of feature files does not say which model made them: search"
      " with feature files, or index them again with --model or --config",
      path=opened.folder,
    )
  config.use_global_features = settings.has_global
  config.use_local_features = bool(settings.local_extension)
  return config


def extract_queries(
  opened: collection.Collection,
  photos: Sequence[Query],
  say: Callable[[str], object],
  device: str | None = None,
  extractor: Any = None,
) -> tuple[list[Query], engine.ImageReport]:
  """Extract the features of query photos with the settings of the collection.

  They are kept in the collection's folder, so that the next search for a photo,
  and a search that was interrupted, need not extract it again; those of the
  first photos stay in memory too. Parts of photos are extracted at the scale of
  the whole photo (DELG). Photos that fail have no query; `say` is called with a
  line for each.
  """
  settings, config = opened.settings, query_config(opened)
  keys = [_key(query.photo, query.box) for query in photos]
  extracted: dict[str, ImageFeatures] = {}

  def keep(key, new):
    if len(extracted) < _KEPT:
      extracted[key] = as_stored(new)

  folder = opened.make_queries()
  # Two runs may search for one photo.
  with files.lock_folder(folder, wait=True):
    extraction = extract.extract_to_files(
      [query.photo or "" for query in photos],
      config,
      folder,
      say=say,
      names=keys,
      crops=[q.box and engine.Crop(q.box, scale_limits=True) for q in photos],
      device=device,
      extractor=extractor,
      apply_rotation=settings.apply_rotation,
      local_extension=settings.local_extension or files.DELF,
      on_written=keep,
    )
  if extraction.interrupted:
    raise KeyboardInterrupt
  failed = {failure.path for failure in extraction.failed}
  return [
    dataclasses.replace(
      query, features=os.fspath(folder / key), extracted=extracted.get(key)
    )
    for query, key in zip(photos, keys, strict=True)
    if query.photo not in failed
  ], extraction


def as_stored(extracted: ImageFeatures) -> ImageFeatures:
  """Return features as they would be read from their files, to the bit."""
  local, descriptor = extracted.local, extracted.global_descriptor
  if local is not None and not len(local):
    local = LocalFeatures.empty()
  elif local is not None:
    arrays = dataclasses.asdict(local)
    local = LocalFeatures(
      **{name: wire.to_float32(array) for name, array in arrays.items()}
    )
  return ImageFeatures(
    local, wire.to_float32([] if descriptor is None else descriptor)
  )


def find_features(
  folder: str | os.PathLike, names: Sequence[str] | None = None
) -> list[Query]:
  """Return queries of feature files with these names, or of all in a folder."""
  if names is None:
    existing = extract.find_features([folder])
    names = sorted(existing[0]) if existing else ()
  if not names:
    raise errors.InputError("there are no feature files", path=folder)
  folder = pathlib.Path(folder)
  return [Query(name, None, os.fspath(folder / name)) for name in names]


def _key(path, box):
  """Return the name of the feature files of a query photo."""
  stem = os.path.splitext(os.path.basename(path))[0]
  full = path if files.is_remote(path) else os.path.realpath(path)
  part = full if box is None else f"{full} {[float(edge) for edge in box]}"
  return f"{stem}-{hashlib.sha256(os.fsencode(part)).hexdigest()[:12]}"


@dataclasses.dataclass(frozen=True)
class SearchOptions:
  """Options of a search."""

  # "global" (descriptors), "words" (ASMK of local features), "fusion" of both,
  # or None: global where there are global descriptors.
  method: str | None = None
  verify: bool = False  # Whether the first images are verified.
  verify_top: int = 100  # Number of images to verify.
  expand: int = 0  # Images of alpha query expansion.
  refine: str | None = None  # Name in refinement.METHODS.
  regions: bool = True  # Whether regions count, in an index that has them.
  workers: int | None = None  # Processes that verify; None: one per core.
  record: bool = True  # Whether verified pairs are kept with the index.
  matching: matcher.MatchOptions = matcher.DELG  # Of the verification.


@dataclasses.dataclass(frozen=True)
class Hit:
  """One image that a search returned.

  Example:
    >>> import delf
    >>> hit = delf.Hit("church", 0.91, inliers=60, is_match=True)
    >>> hit.name, hit.inliers
    ('church', 60)
  """

  name: str  # In the index.
  score: float  # Similarity, before verification; larger is better.
  inliers: int | None = None  # None where it was not verified.
  # Region of the image that is most like the query; None for all of it.
  box: Box | None = None
  path: str | None = None  # Of the photo; None where it is not known.
  # Whether there are more inliers than by chance; None if not verified.
  is_match: bool | None = None

  def to_dict(self) -> dict[str, Any]:
    """Return the fields by name."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class SearchResult:
  """The results of Q queries."""

  queries: tuple[Query, ...]
  names: tuple[str, ...]  # Of the images in the index.
  # [Q, k] over `names`; after verification in the order of inliers, with the
  # scores of the first stage.
  ranking: ranking.Ranking
  inliers: np.ndarray | None  # [Q, k] int32; -1 where not verified.
  method: str  # "global", "words" or "fusion".
  matching: matcher.MatchOptions
  failed: tuple[engine.Failure, ...] = ()  # Queries and images.
  # Of each Hit, of an index with regions.
  boxes: list[list[Box | None]] | None = None
  # Paths of photos by name, where they are known.
  photos: dict[str, str] = dataclasses.field(default_factory=dict)
  is_match: np.ndarray | None = None  # [Q, k] bool; False where not verified.
  problems: tuple[str, ...] = ()  # Photos that the page of results lacks.

  def hits(self) -> Iterator[tuple[Query, list[Hit]]]:
    """Yield each query with its hits, best first."""
    for row, query in enumerate(self.queries):
      hits = []
      for column in np.flatnonzero(self.ranking.ids[row] >= 0):
        place = row, column
        inliers = -1 if self.inliers is None else int(self.inliers[place])
        name = self.names[self.ranking.ids[place]]
        hits.append(
          Hit(
            name,
            float(self.ranking.scores[place]),
            None if inliers < 0 else inliers,
            None if self.boxes is None else self.boxes[row][column],
            self.photos.get(name),
            None
            if inliers < 0 or self.is_match is None
            else bool(self.is_match[place]),
          )
        )
      yield query, hits

  def document(self) -> dict:
    """Return the results for JSON."""
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


def rerank(
  first: ranking.Ranking,
  junk: Iterable[Sequence[np.ndarray] | None],
  query_files: verification.FeatureFiles,
  image_files: verification.FeatureFiles,
  options: matcher.MatchOptions,
  most: int = ranking.VERIFIED,
  folder: str | os.PathLike | None = None,
  workers: int | None = None,
) -> tuple[list[ranking.Reranked], verification.VerifyReport]:
  """Verify the first `most` images of rankings, and sort them by inliers.

  `junk` has an item for each order to return, such as one per protocol: Q
  arrays of ids that are not verified, or None. A pair of several orders is
  verified once, and recorded in the folder if there is one.
  """
  junk = list(junk)
  chosen = [ranking.shortlist(first.ids, each, most) for each in junk]
  report = verification.verify_pairs(
    ranking.pairs(first.ids, *chosen),
    query_files,
    image_files,
    options,
    folder,
    workers,
  )
  orders = [
    ranking.rerank(first.ids, first.scores, report.look_up, each, most)
    for each in junk
  ]
  return orders, report


class Searcher:
  """An opened collection with the options of its searches."""

  def __init__(
    self, opened: collection.Collection, options: SearchOptions | None = None
  ):
    """Open the indexes of the method; InputError if one is missing."""
    self.collection = opened
    self.options = options or SearchOptions()
    kinds = collection.kinds(opened)
    self.method = _method(self.options, kinds, opened.folder)
    self._parts = {name: kinds[name](opened) for name in METHODS[self.method]}
    first, *_ = self._parts.values()
    self._entries = self.names = list(first.index.names)
    self._image: np.ndarray | None = (
      None  # Position in `names` of each entry that is a region.
    )
    if opened.regions() is not None:
      images = [collection.image_of(entry) for entry in self._entries]
      places = {name: i for i, name in enumerate(dict.fromkeys(images))}
      self._image = np.array([places[name] for name in images], np.int64)
      self.names = list(places)

  @functools.cached_property
  def photos(self) -> dict[str, str]:
    """Paths of photos by name, where they are known."""
    return self.collection.photos()

  @property
  def has_regions(self) -> bool:
    """Whether the collection is indexed by region."""
    return self._image is not None

  def read(
    self, queries: Iterable[Query]
  ) -> tuple[list[Query], list[dict], list[engine.Failure]]:
    """Return the usable queries, their entries for `rank`, and failures."""
    good, entries, failed = [], [], []
    for query in queries:
      try:
        entries.append(
          {name: part.read_query(query) for name, part in self._parts.items()}
        )
        good.append(query)
      except (errors.InputError, OSError) as error:
        line = errors.one_line(error)
        failed.append(engine.Failure(query.photo or query.name, line))
    return good, entries, failed

  def rank(self, entries: list[dict], k: int | None = None) -> ranking.Ranking:
    """Rank the first k images, or all, for entries of `read`."""
    k = max(len(self.names), 1) if k is None else k
    depth, kept, number = k, None, len(self._entries)
    if self._image is not None and not self.options.regions:
      kept = np.array([collection.is_whole(e) for e in self._entries], bool)
      depth = max(1, number)
    elif self._image is not None:
      # Enough regions for k images, whichever they are.
      most = int(np.max(np.bincount(self._image), initial=1))
      depth = max(1, min(k * most, number))
    step = max(1, _SCORES // max(1, number))
    blocks = [
      self._rank(entries[start : start + step], depth)
      for start in range(0, len(entries), step)
    ] or [ranking.top_k(np.zeros([0, number]), depth)]
    ranked = ranking.Ranking(
      np.concatenate([block.ids[:, :depth] for block in blocks]),
      np.concatenate([block.scores[:, :depth] for block in blocks]),
    )
    if self._image is not None:
      return ranking.by_best(ranked, self._image, k, kept)
    return ranked

  def _rank(self, entries, k):
    """Rank for some of the queries; the Ranking may have more than k."""
    depth = len(self._entries) if self.method == "fusion" else k
    rankings = []
    if "global" in self._parts:
      descriptors = np.stack([entry["global"] for entry in entries])
      rankings.append(self._rank_global(descriptors, depth))
    if "words" in self._parts:
      rankings.append(self._rank_words([e["words"] for e in entries], depth))
    if len(rankings) == 1:
      return rankings[0]
    return ranking.fuse(rankings, ranking.ASMK_AND_GLOBAL[::-1], k)

  def _rank_global(self, descriptors, k):
    index, options = self._parts["global"].index, self.options
    if not (options.expand or options.refine):
      return index.search(descriptors, min(k, max(len(index), 1)))
    from delf.indexes import refinement

    k = max(k, options.expand, _REFINED)
    ranked = index.search(descriptors, min(k, max(len(index), 1)))
    empty = np.flatnonzero(index.empty)
    if options.expand:
      expand = refinement.Expansion(options.expand)
      ranked = expand(descriptors, ranked, index.descriptors, empty)
    if options.refine:
      ranked = refinement.refine(
        options.refine, descriptors, ranked, index.descriptors, empty
      )
    return ranked

  def _rank_words(self, aggregates, k):
    ranked = self._parts["words"].index.search(aggregates, k)
    if self._word_ids is None:
      return ranked
    ids = np.where(ranked.ids < 0, -1, self._word_ids[ranked.ids])
    return ranking.Ranking(ids.astype(np.int32), ranked.scores)

  @functools.cached_property
  def _word_ids(self):
    """Entry of each image of the words' index; None if they are the same."""
    others = list(self._parts["words"].index.names)
    if others == self._entries:
      return None
    place = {name: i for i, name in enumerate(self._entries)}
    return np.array([place.get(name, -1) for name in others], np.int32)

  def rerank(
    self,
    queries: Sequence[Query],
    first: ranking.Ranking,
    junk: Iterable[Sequence[np.ndarray] | None] = (None,),
  ) -> tuple[list[ranking.Reranked], verification.VerifyReport]:
    """Verify the first images of rankings of `rank`; see `rerank`.

    Pairs are recorded in the collection, unless it is read-only.
    """
    opened = self.collection
    extension = opened.settings.local_extension
    if not extension:
      raise errors.InputError(
        "verification needs local features; this index has none",
        path=opened.folder,
      )
    folder = opened.writable_folder() if self.options.record else None
    return rerank(
      first,
      junk,
      verification.FeatureFiles(
        [query.features for query in queries],
        lambda row: queries[row].path(extension),
        {q.path(extension): q.read("") for q in queries if q.extracted},
      ),
      verification.FeatureFiles(
        self.names,
        lambda i: os.fspath(
          opened.feature_path(opened.whole(self.names[i]), extension)
        ),
      ),
      self.options.matching,
      self.options.verify_top,
      folder,
      self.options.workers,
    )

  def boxes(
    self, first: ranking.Ranking, ids: np.ndarray
  ) -> list[list[Box | None]] | None:
    """Return the best boxes of images [Q, n] of a ranking of `rank`.

    None for an index without regions.
    """
    if not isinstance(first, ranking.GroupRanking):
      return None
    box = extract.PhotoRecord(self.collection.features).box
    return [
      [box(self._entries[place]) if place >= 0 else None for place in row]
      for row in first.parts_of(ids).tolist()
    ]

  def search(self, queries: Iterable[Query], top: int) -> SearchResult:
    """Return the first `top` images of each query, verified if requested."""
    good, entries, failed = self.read(queries)
    most = self.options.verify_top if self.options.verify else 0
    first = self.rank(entries, max(top, most))
    ids, scores, inliers, is_match = first.ids, first.scores, None, None
    if most:
      (ranked,), report = self.rerank(good, first)
      ids, scores = ranked.ids, ranked.scores
      failed += report.failed
      # Which ones were verified, in the new order.
      chosen = ranking.shortlist(first.ids, most=most)
      inliers = ranked.inliers[:, :top].copy()
      is_match = np.zeros_like(inliers, bool)
      for row, own in enumerate(ids[:, :top]):
        verified = np.isin(own, first.ids[row][chosen[row]])
        inliers[row, ~verified] = -1
        rows = np.full(verified.sum(), row)
        is_match[row, verified] = report.is_match(rows, own[verified])
    return SearchResult(
      queries=tuple(good),
      names=tuple(self.names),
      ranking=ranking.Ranking(ids[:, :top], scores[:, :top]),
      inliers=inliers,
      is_match=is_match,
      photos=self.photos,
      method=self.method,
      matching=self.options.matching,
      failed=tuple(failed),
      boxes=self.boxes(first, ids[:, :top]),
    )


def _method(options, kinds, folder):
  """Return the method; InputError if the collection lacks a part of it."""
  method = options.method
  if method is None:
    method = "global" if collection.GLOBAL in kinds else "words"
  for name in METHODS[method]:
    if name not in kinds:
      advice = " (delf index --codebook)" if name == "words" else ""
      raise errors.InputError(
        f"--method {method} needs an index of {name}{advice}; this one has"
        f" {', '.join(kinds) or 'nothing'}",
        path=folder,
      )
  if method == "words" and (options.expand or options.refine):
    raise errors.InputError(
      "--expand and --refine need --method global or fusion, not words"
    )
  return method


def write_page(
  path: str | os.PathLike,
  opened: collection.Collection,
  result: SearchResult,
  labels: Callable[[int, str], str | None] | None = None,
  notes: Sequence[str] | None = None,
  evaluation: "results_page.Evaluation | None" = None,
  title: str | None = None,
) -> "results_page.Report":
  """Write a page with the results of a search, `.html`.

  With ground truth, `labels` takes the row of a query and the name of an image,
  and returns results_page.TRUE, JUNK, FALSE or None; `notes` has a text for
  each query, and `evaluation` (results_page.Evaluation) is at the top.
  """
  from delf.pictures import results_page

  photos = opened.photos()

  def shown():
    for row, (query, hits) in enumerate(result.hits()):
      drawn = _lines(opened, query, hits, result.matching)
      yield results_page.Query(
        query.name,
        query.photo,
        tuple(
          results_page.Result(
            name=hit.name,
            path=photos.get(hit.name),
            score=hit.score,
            inliers=hit.inliers,
            label=labels(row, hit.name) if labels else None,
            lines=lines,
            box=hit.box,
          )
          for hit, lines in zip(hits, drawn, strict=True)
        ),
        query.box,
        notes[row] if notes else "",
      )

  if title is None:
    name = os.path.basename(os.path.abspath(opened.folder))
    title = f"{name}: search in {len(result.names)} images"
  options = results_page.Options(apply_rotation=opened.settings.apply_rotation)
  return results_page.write(path, title, shown(), evaluation, options)


def _lines(opened, query, hits, options):
  """Yield the inliers of a query and each hit, or None, for drawing.

  They are [M, 4] float32: (x, y) in the query photo and in the image.
  """
  extension, own = opened.settings.local_extension, None
  options = dataclasses.replace(options, min_inliers=1)
  corner = np.asarray((query.box or (0, 0))[:2])
  for hit in hits:
    if not hit.inliers:
      yield None
      continue
    if own is None:
      own = _prepare(query.read(extension), query.path(extension))
    path = opened.feature_path(opened.whole(hit.name), extension)
    other = _prepare(extract.read_local(path), os.fspath(path))
    match = matcher.match_prepared(own, other, options, backward=True)
    # Weakest first: of many lines the page draws the strongest.
    order = np.argsort(-match.residuals, kind="stable")
    of_query, of_image = match.inliers[order].T
    points = own.points[of_query] + corner, other.points[of_image]
    yield np.concatenate(points, axis=1, dtype=np.float32)


def _prepare(local, path):
  return matcher.prepare(local.locations, local.descriptors, path)
