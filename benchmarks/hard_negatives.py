"""Hard negatives in blocks against a whole ranking: time and memory.

The baseline ranks all images for all queries at once, [pool, queries], and goes
down each ranking, as the original does.
"""

import argparse
import time
import tracemalloc

import numpy as np

from delf.records import tuples

_NEGATIVES, _BLOCK = 5, 1024


def _whole(queries, own, blocks, clusters):
  """Return [Q, K] by one ranking of all images."""
  descriptors = np.concatenate(list(blocks()))
  scores = descriptors @ queries.T
  ranks = np.argsort(-scores, axis=0)
  found = np.zeros([len(queries), _NEGATIVES], np.int64)
  for query in range(len(queries)):
    taken, number = {own[query]}, 0
    for image in ranks[:, query]:
      if clusters[image] not in taken:
        taken.add(clusters[image])
        found[query, number] = image
        number += 1
        if number == _NEGATIVES:
          break
  return found


def _blockwise(queries, own, blocks, clusters):
  nearest = tuples.NearestOfClusters(queries, own, _NEGATIVES)
  images = np.arange(len(clusters))
  for number, block in enumerate(blocks()):
    part = images[number * _BLOCK :][: len(block)]
    nearest.add(part, block, clusters[part])
  return nearest.images()


def _measure(function, *arguments):
  start = time.perf_counter()
  found = function(*arguments)
  seconds = time.perf_counter() - start
  tracemalloc.start()
  function(*arguments)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  return found, seconds, peak / 2**20


def main():
  """Print a table; a line for each way."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--quick", action="store_true", help="a tenth of it")
  args = parser.parse_args()
  queries, pool, size = (200, 4000, 512) if args.quick else (2000, 20000, 2048)
  clusters = np.random.default_rng(0).integers(0, 551, pool)
  centers = np.random.default_rng(1).standard_normal([551, size], np.float32)

  def blocks():
    for start in range(0, pool, _BLOCK):
      random = np.random.default_rng([2, start])
      found = centers[clusters[start : start + _BLOCK]]
      found = found + random.standard_normal(found.shape, np.float32)
      yield found / np.linalg.norm(found, axis=1, keepdims=True)

  first = next(blocks())
  chosen = np.arange(queries) % len(first)
  arguments = first[chosen], clusters[chosen], blocks, clusters
  quick = " (quick)" if args.quick else ""
  print(f"{queries} queries, {pool} images, {size} dimensions{quick}")
  print(f"{'way':18} {'seconds':>8} {'ratio':>6} {'peak MB':>8}")
  base = None
  for name, function in (("whole ranking", _whole), ("blocks", _blockwise)):
    found, seconds, peak = _measure(function, *arguments)
    base = base or (found, seconds)
    same = (found == base[0]).all(axis=1).mean()
    print(f"{name:18} {seconds:8.2f} {seconds / base[1]:6.2f} {peak:8.0f}")
  print(f"queries with the same negatives: {100 * same:.2f} %")


if __name__ == "__main__":
  main()
