"""Photos that show one place, by global descriptors and then by RootSIFT."""

import concurrent.futures
import functools

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from delf.python import progress

# Photos whose neighbours are looked at, neighbours of each, and pairs that are
# compared point by point: at some 50 ms a pair, a minute or two.
_MOST_PHOTOS = 5000
_NEIGHBOURS = 4
_MOST_PAIRS = 1500


def candidates(descriptors, labels=None, seed=0):
  """Chooses pairs of photos that may show one place.

  Args:
    descriptors: [N, D] float, global descriptors of unit length.
    labels: [N] int, the class of each photo, or None. Pairs are of one class.
    seed: int, decides which are in where there are many.

  Returns:
    [P, 2] int64, the first less than the second, sorted.
  """
  generator = np.random.default_rng(seed)
  number = len(descriptors)
  asked = generator.permutation(number)[:_MOST_PHOTOS]
  found = set()
  for i in asked:
    scores = descriptors @ descriptors[i]
    scores[i] = -np.inf
    if labels is not None:
      scores[labels != labels[i]] = -np.inf
    nearest = np.argsort(-scores, kind="stable")[:_NEIGHBOURS]
    found |= {(min(i, j), max(i, j)) for j in nearest if np.isfinite(scores[j])}
  pairs = np.array(sorted(found), np.int64).reshape(-1, 2)
  if len(pairs) > _MOST_PAIRS:
    some = generator.choice(len(pairs), _MOST_PAIRS, replace=False)
    pairs = pairs[np.sort(some)]
  return pairs


def verified(images, pairs):
  """Finds the points that correspond, where RootSIFT is sure.

  Args:
    images: list of [H, W, 3] uint8.
    pairs: [P, 2] int, places in `images`.

  Returns:
    list of real_pairs.Pair, at most P.
  """
  from delf.python.training.self_supervised import real_pairs

  @functools.lru_cache(maxsize=256)  # 1 MB each.
  def features(i):
    keypoints, descriptors = real_pairs.root_sift(images[i])
    points = [keypoint.pt for keypoint in keypoints]
    return np.float32(points).reshape(-1, 2), descriptors

  def compare(pair):
    first, second = map(int, pair)
    points = real_pairs.matches(features(first), features(second))
    return real_pairs.Pair(first, second, real_pairs.verified(points))

  with concurrent.futures.ThreadPoolExecutor() as pool:
    found = progress.track(
      pool.map(compare, pairs), "matching photos of one place", len(pairs)
    )
    return [pair for pair in found if len(pair.points)]


def pools(number, pairs):
  """Returns the number of each photo's place, [number] int.

  Photos that pairs join, directly or through others, are of one place.

  Args:
    number: Number of photos.
    pairs: list of real_pairs.Pair.
  """
  rows = [pair.first for pair in pairs]
  columns = [pair.second for pair in pairs]
  ones = np.ones(len(pairs), bool)
  graph = sparse.coo_array((ones, (rows, columns)), shape=(number, number))
  return csgraph.connected_components(graph, directed=False)[1]
