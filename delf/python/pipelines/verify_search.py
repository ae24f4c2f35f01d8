"""Matching what a search of a collection has found."""

import dataclasses
import os

import numpy as np

from delf.python import errors
from delf.python.pipelines import collection_regions, side_cache
from delf.python.pipelines import verify as verification
from delf.python.retrieval import ranking, reranking


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
  of_queries = side_cache.FeatureFiles(
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
    side_cache.FeatureFiles(some, tuple(paths)),
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
  chosen = reranking.shortlist(found.ids, most=most)
  new = reranking.rerank(found.ids, found.scores, report.look_up, most=most)
  inliers = new.inliers.copy()
  # Which ones were matched, in the new order.
  for row in range(len(found.ids)):
    matched = found.ids[row][chosen[row]]
    inliers[row, ~np.isin(new.ids[row], matched)] = -1
  return ranking.Ranking(new.ids, new.scores), inliers
