"""Search among global descriptors: exactly, and with HNSW and IVF-PQ.

`python -m benchmarks.dense_index` prints two tables; some minutes and 4 GB.
"""

import argparse
import functools
import itertools
import os
import pathlib
import tempfile
import time
import tracemalloc

# One thread for all: on a shared machine, threads that wait for each other
# measure the neighbours.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402

from delf.indexes import approximate, dense, ranking

_QUERIES, _K = 70, 100
# Pairs of the loop that are timed; its time grows with their number.
_PAIRS = 100_000
_EXACT = [
  (1_000, 256),
  (10_000, 256),
  (200_000, 256),
  (1_000, 2048),
  (10_000, 2048),
  (200_000, 2048),
  (1_000_000, 128),
]
_EFFORTS = {"hnsw": (16, 64, 128, 256), "ivfpq": (8, 32, 128)}


def make(number, dimension, seed=0):
  """Return [number, dimension] float32 of unit length, alike in groups.

  As descriptors of photos are: on a space of fewer dimensions, in groups of
  about ten. Among points that lie evenly there is nothing to find fast.
  """
  random = np.random.default_rng(1)
  places = random.standard_normal((20_000, 48), dtype=np.float32)
  spread = random.standard_normal((48, dimension), dtype=np.float32)
  random = np.random.default_rng(seed)
  values = np.empty((number, dimension), np.float32)
  for start in range(0, number, 10_000):
    part = values[start : start + 10_000]
    chosen = places[random.integers(len(places), size=len(part))]
    chosen += 0.5 * random.standard_normal(chosen.shape, dtype=np.float32)
    part[:] = chosen @ spread
    part += random.standard_normal(part.shape, dtype=np.float32)
    part /= np.linalg.norm(part, axis=1, keepdims=True)
  return values


def _timed(function, repeats=5):
  """Return the last result and the least milliseconds."""
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    result = function()
    times.append(1000 * (time.perf_counter() - start))
  return result, min(times)


def _pair_by_pair(queries, descriptors):
  """Return the milliseconds of a loop over pairs, from those of some."""
  some = descriptors[: max(1, _PAIRS // len(queries))]
  start = time.perf_counter()
  for query in queries:
    for descriptor in some:
      np.dot(query, descriptor)
  spent = 1000 * (time.perf_counter() - start)
  return spent * len(descriptors) / len(some)


def _memory(function):
  """Return the megabytes that are allocated by Python's measure."""
  tracemalloc.start()
  function()
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  return peak / 2**20


def exact(sizes):
  """Print the times of exact search."""
  print(f"exact, {_QUERIES} queries, the {_K} best; least of 5, milliseconds;")
  print("pairs: a loop of one dot product each; product: one matrix product of")
  print("all, not searched; mapped: from a file; MB beside the descriptors")
  print(
    "    images     D      pairs  product  search   of pairs  of product"
    "  mapped  float16  1 query   MB"
  )
  for number, dimension in sizes:
    descriptors = make(number, dimension)
    queries = make(_QUERIES, dimension, seed=2)
    index = dense.DenseIndex()
    index.add([str(i) for i in range(number)], descriptors)
    _, product = _timed(lambda q=queries, d=descriptors: q @ d.T)
    found, search = _timed(lambda q=queries, i=index: i.search(q, _K))
    pairs = _pair_by_pair(queries, descriptors)
    memory = _memory(lambda q=queries, i=index: i.search(q, _K))
    _, one = _timed(lambda q=queries, i=index: i.search(q[:1], _K))
    del descriptors
    mapped, half = _from_files(index, queries, found)
    print(
      f"{number:10} {dimension:5} {pairs:10.0f} {product:8.1f} {search:7.1f}"
      f" {pairs / search:9.0f}x {search / product:10.2f}x {mapped:7.1f}"
      f" {half:8.1f} {one:8.1f} {memory:4.0f}",
      flush=True,
    )


def _from_files(index, queries, expected):
  """Return the milliseconds of a mapped index and of one of float16."""
  half = dense.DenseIndex("float16")
  half.add(index.names, index.descriptors)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "a.index"
    index.save(path)
    loaded = dense.DenseIndex.load(path)
    found, mapped = _timed(lambda: loaded.search(queries, _K))
    if ranking.recall(found, expected, _K) < 1:
      raise ValueError("a mapped index finds something else")
  return mapped, _timed(lambda: half.search(queries, _K), repeats=2)[1]


def approximately(number, dimension):
  """Print times, sizes and recalls of both methods."""
  descriptors = make(number, dimension)
  queries = make(_QUERIES, dimension, seed=2)
  names = [str(i) for i in range(number)]
  whole = dense.DenseIndex()
  whole.add(names, descriptors)
  best, exactly = _timed(lambda: whole.search(queries, _K))
  print(f"\napproximate, {number} images of {dimension} values, {_QUERIES}")
  print("queries; recall of the 10 and 100 best of exact search, which takes")
  _, alone = _timed(lambda: whole.search(queries[:1], _K))
  print(f"{exactly:.0f} ms ({alone:.1f} ms for one) and {4 * dimension} bytes")
  print("an image")
  print("rescored: 1000 by codes, ranked by the descriptors of an exact index")
  print(
    "method    built in s  bytes  effort      ms  of exact  1 query  of exact"
    "    @10   @100"
  )
  for method, efforts in _EFFORTS.items():
    index = approximate.ApproximateIndex(method)
    start = time.perf_counter()
    index.add(names, descriptors)
    built = time.perf_counter() - start
    size = _size(index) / number
    ways = {method: lambda i, q, e: i.search(q, _K, e)}
    if method == approximate.IVFPQ:
      ways["rescored"] = lambda i, q, e: dense.rescore(
        q, i.search(q, 1000, e), whole.descriptors
      )
    for way, effort in itertools.product(ways, efforts):
      search = functools.partial(ways[way], index)
      found, spent = _timed(lambda s=search, e=effort: s(queries, e))
      _, one = _timed(lambda s=search, e=effort: s(queries[:1], e))
      print(
        f"{way:8} {built:11.1f} {size:6.0f} {effort:7} {spent:7.1f}"
        f" {spent / exactly:8.2f}x {one:8.2f} {one / alone:8.2f}x"
        f" {ranking.recall(found, best, 10):6.3f}"
        f" {ranking.recall(found, best, _K):6.3f}",
        flush=True,
      )


def _size(index):
  """Return the bytes of an index on the disk."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "a.index"
    index.save(path)
    return os.path.getsize(path)


def main():
  """Print the tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--quick", action="store_true", help="10 000 images")
  quick = parser.parse_args().quick
  if quick:
    print("quick: at most 10 000 images\n")
  exact([size for size in _EXACT if not quick or size[0] <= 10_000])
  approximately(10_000 if quick else 100_000, 128)


if __name__ == "__main__":
  main()
