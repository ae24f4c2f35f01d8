"""A page to look at what a search has found."""

import os

import numpy as np

from delf.python.page import content, results_page, thumbnails
from delf.python.pipelines import collection_regions, finite_features
from delf.python.retrieval import verification


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
    content.Result(
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
  return content.Query(query.name, query.photo, shown, query.box, note)


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
    verified = verification.verify(self._side, other, self._options)
    if verified.estimate is None:
      return None
    index, query = verification.pair_points(
      self._side, other, verified.putatives
    )
    # Weakest first: of many lines the page draws the strongest.
    residuals = verified.estimate.residuals
    inliers = np.flatnonzero(verified.estimate.inliers)
    inliers = inliers[np.argsort(-residuals[inliers], kind="stable")]
    corner = np.asarray((self._query.box or (0, 0))[:2])
    lines = [query[inliers] + corner, index[inliers]]
    return np.concatenate(lines, axis=1, dtype=np.float32)


def _side(path):
  found = finite_features.read_local(path)
  return verification.prepare(
    found.locations, found.descriptors, os.fspath(path)
  )
