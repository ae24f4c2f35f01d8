"""Re-ranking of search results by the inliers of geometric verification."""

import dataclasses

import numpy as np

from delf.python import errors

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
