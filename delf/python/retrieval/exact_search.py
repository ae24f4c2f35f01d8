"""Exact search by dot products, in blocks of matrix products."""

import numpy as np

from delf.python import errors
from delf.python.retrieval import ranking, top_scores

# Scores held at once: 16 MB of float32.
_SCORES = 1 << 22
# Values of descriptors that are converted at once: 64 MB of float32.
_VALUES = 1 << 24
# Queries at once; more would need shorter blocks, which are slower.
_QUERIES = 1024
# Of the whole ranking of a collection: 128 MB of keys.
_KEPT = 1 << 24
# With the best of so few images known, most of the others are passed over.
_FIRST = 4096


def search(queries, blocks, k, empty=()):
  """Finds the images with the largest dot products.

  Args:
    queries: [Q, D] float32.
    blocks: Sequence of arrays [N_i, D], float32 or float16, perhaps mapped from
      a file; ids count through them.
    k: Number of images a query.
    empty: Ids, sorted, of images without a descriptor: last, and -inf.

  Returns:
    ranking.Ranking of k columns. Beside it, and what is mapped, about 200 MB
    are needed whatever N is.

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


def products(queries, ids, descriptors):
  """Returns the dot products of queries with the images of their rankings.

  Args:
    queries: [Q, D] float32.
    ids: [Q, k] int, ids of images; -1 pads.
    descriptors: [N, D] float, perhaps mapped from a file.

  Returns:
    [Q, k] float32, -inf for -1.
  """
  scores = np.full(ids.shape, -np.inf, np.float32)
  for row, found in enumerate(ids):
    some = np.flatnonzero(found >= 0)
    chosen = descriptors[found[some]].astype(np.float32, copy=False)
    scores[row, some] = chosen @ queries[row]
  return scores


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
      step = min(most, _FIRST) if not seen else most
      yield block[start : start + step]
      seen, start = seen + 1, start + step
