"""Exact search by dot products, in blocks of matrix products."""

import numpy as np

from delf.python import errors
from delf.python.retrieval import ranking, top_scores

# Scores held at once: 16 MB of float32.
_SCORES = 1 << 22
# Values of descriptors that are converted at once: 16 MB of float32. More is no
# faster, and of float16 slower.
_VALUES = 1 << 22
# Queries at once; more would need shorter blocks, which are slower.
_QUERIES = 1024
# Of the whole ranking of a collection: 128 MB of keys.
_KEPT = 1 << 24
# Images of the first piece; later ones are up to three times what was before:
# few of them are better than the best of that.
_FIRST = 512


def search(queries, blocks, k, empty=()):
  """Finds the images with the largest dot products.

  Args:
    queries: [Q, D] float32.
    blocks: Sequence of arrays [N_i, D], float32 or float16, perhaps mapped from
      a file; ids count through them.
    k: Number of images a query.
    empty: Ids, sorted, of images without a descriptor: last, and -inf.

  Returns:
    ranking.Ranking of k columns. Beside it, and what is mapped, up to 200
    MB are needed whatever N is.

  Raises:
    InputError: If k is not over 0, or a product is not finite.
  """
  k = ranking.check_k(k)
  empty = np.asarray(empty, np.int64)
  number = sum(map(len, blocks))
  ids = np.full([len(queries), k], -1, np.int32)
  scores = np.full([len(queries), k], -np.inf, np.float32)
  kept = min(k, number)
  step = max(1, min(_QUERIES, _KEPT // max(kept, 1)))
  for start in range(0, len(queries), step):
    rows = slice(start, start + step)
    found = _search(queries[rows], blocks, kept, empty)
    ids[rows, :kept], scores[rows, :kept] = found.ids, found.scores
  # Of images with a descriptor none is left out, so all rows have as many.
  left = kept - min(kept, number - len(empty))
  ids[:, kept - left : kept] = empty[:left]
  return ranking.Ranking(ids, scores)


def rescore(queries, found, descriptors):
  """Ranks what an approximate search found by exact dot products.

  A search for ten times the images that are wanted, by codes in memory, and
  this with descriptors in a file find nearly what exact search finds.

  Args:
    queries: [Q, D] float32.
    found: ranking.Ranking [Q, k] of these queries.
    descriptors: [N, D] float, perhaps mapped from a file.

  Returns:
    ranking.Ranking [Q, k]; where a score was -inf it stays so.
  """
  scores = np.full(found.ids.shape, -np.inf, np.float32)
  for row, ids in enumerate(found.ids):
    some = np.flatnonzero((ids >= 0) & np.isfinite(found.scores[row]))
    chosen = descriptors[ids[some]].astype(np.float32, copy=False)
    scores[row, some] = chosen @ queries[row]
  # What is not there has the highest id.
  last = np.where(found.ids < 0, np.iinfo(np.int32).max, found.ids)
  order = np.lexsort((last, -scores), axis=1)
  return ranking.Ranking(
    np.take_along_axis(found.ids, order, axis=1),
    np.take_along_axis(scores, order, axis=1),
  )


def _search(queries, blocks, k, empty):
  """Searches with some queries; images without a descriptor are left out."""
  best, first = top_scores.TopScores(len(queries), k), 0
  for block in _pieces(blocks, len(queries)):
    # One without a copy where the file is float32.
    block = block.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
      scores = queries @ block.T
      if not np.isfinite(scores.sum()):
        raise errors.InputError("finite descriptors", "NaN or infinity")
    among = slice(*np.searchsorted(empty, [first, first + len(block)]))
    scores[:, empty[among] - first] = -np.inf
    best.add(scores, first)
    first += len(block)
  return best.result()


def _pieces(blocks, queries):
  """Yields the rows of all blocks in pieces of bounded size."""
  seen = 0
  for block in blocks:
    most = max(1, min(_SCORES // queries, _VALUES // max(block.shape[1], 1)))
    start = 0
    while start < len(block):
      piece = block[start : start + min(most, max(_FIRST, 3 * seen))]
      yield piece
      seen, start = seen + len(piece), start + len(piece)
