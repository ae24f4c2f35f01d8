"""Speed and memory of the aggregation of local features.

Baselines: one plain matrix product of features and words, which any exact
assignment needs; and distances through tiled copies of both sides, in batches
of 100 features in TensorFlow, as in the original. CPU time is the sum over all
threads; prefer it if other programs run. Idle threads of the matrix product
spin: OPENBLAS_NUM_THREADS=1 excludes this time.
"""

import argparse
import subprocess
import sys
import time

import numpy as np

from delf.aggregation import aggregate

_DIMENSION = 128
_FEATURES = 1000
_LARGE, _SMALL = 65536, 1024
_BATCH = 100  # Features per batch, the original's default.
# Targets.
_MOST_PRODUCTS, _MOST_MEGABYTES, _LEAST_SPEEDUP = 1.5, 300, 100


def _data(words, features=_FEATURES):
  """Return words [K, D], and features [N, D] around some of them, float32."""
  generator = np.random.default_rng(0)
  centers = generator.standard_normal([words, _DIMENSION], dtype=np.float32)
  centers /= np.linalg.norm(centers, axis=1, keepdims=True)
  found = centers[generator.integers(0, words, features)]
  found += 0.05 * generator.standard_normal(found.shape, dtype=np.float32)
  return centers, found / np.linalg.norm(found, axis=1, keepdims=True)


def _tiled(features, centers):
  """Return the nearest word of each feature, through N x K copies of both."""
  import tensorflow as tf

  found = []
  for start in range(0, len(features), _BATCH):
    batch = features[start : start + _BATCH]
    left = tf.reshape(tf.tile(batch, [1, len(centers)]), [-1, _DIMENSION])
    right = tf.tile(centers, [len(batch), 1])
    distances = tf.reshape(tf.norm(left - right, axis=1), [len(batch), -1])
    found.append(tf.math.top_k(-distances, 1).indices[:, 0].numpy())
  return np.concatenate(found)


def _fastest(functions, runs, in_a_row=1):
  """Return the least seconds of each, wall and processor, taken in turns."""
  times = {name: [] for name in functions}
  for _ in range(runs):
    for name, function in functions.items():
      for _ in range(in_a_row):
        start = time.perf_counter(), time.process_time()
        function()
        end = time.perf_counter(), time.process_time()
        times[name].append(np.subtract(end, start))
  return {name: np.min(each, axis=0) for name, each in times.items()}


def _regions(number):
  return [_FEATURES // number] * number


def _ways(words, features):
  """Return {name: function} of the aggregations that are measured."""
  options = aggregate.AggregateOptions
  ways = {
    "nearest words alone": lambda: words.nearest(features),
    "ASMK*": lambda: aggregate.aggregate(words, features),
    "ASMK*, 5 words a feature": lambda: aggregate.aggregate(
      words, features, options(num_assignments=5)
    ),
    "R-ASMK*, 10 regions": lambda: aggregate.aggregate(
      words, features, options(regional=True), _regions(10)
    ),
    "VLAD": lambda: aggregate.aggregate(
      words, features, options(aggregate.VLAD)
    ),
  }
  return ways


def against_product(runs):
  """Print times with 65536 words beside one plain matrix product."""
  centers, features = _data(_LARGE)
  words = aggregate.Words(centers)
  ways = _ways(words, features)
  seconds = _fastest({"product": lambda: features @ centers.T, **ways}, runs)
  product = seconds.pop("product")
  print(
    f"{_FEATURES} features, {_LARGE} words of {_DIMENSION} values; one plain"
    f" matrix product (NumPy): {_both(product)}"
  )
  for name, each in seconds.items():
    ratio = each / product
    print(
      f"  {name:26}{_both(each)}  {ratio[0]:5.2f} / {ratio[1]:4.2f} x product"
    )
  print(f"  target: at most {_MOST_PRODUCTS} x product")


def against_tiled(runs):
  """Print times with 1024 words beside the tiled computation."""
  centers, features = _data(_SMALL)
  words = aggregate.Words(centers)
  same = np.mean(_tiled(features, centers) == words.nearest(features)[:, 0])
  ways = _ways(words, features)
  ways["product"] = lambda: features @ centers.T
  # Runs of milliseconds: threads that wait for each other need to be awake.
  seconds = _fastest(ways, 5 * runs, in_a_row=5)
  seconds |= _fastest({"tiled": lambda: _tiled(features, centers)}, runs)
  tiled, product = seconds.pop("tiled"), seconds.pop("product")
  print(
    f"{_FEATURES} features, {_SMALL} words of {_DIMENSION} values; tiled"
    f" (TensorFlow): {_both(tiled)}, the same words for {same:.1%};"
    f" one plain matrix product: {_both(product)}"
  )
  for name, each in seconds.items():
    ratio = tiled / each
    print(
      f"  {name:26}{_both(each)}  {ratio[0]:4.0f} / {ratio[1]:3.0f} x faster"
      " than tiled"
    )
  print(f"  target: at least {_LEAST_SPEEDUP} x faster")


def _both(seconds):
  """Return wall and processor time as text."""
  wall, processor = 1000 * seconds
  return f"{wall:7.1f} / {processor:6.1f} ms"


def _status(field):
  """Return a field of /proc/self/status in MB (10^6 bytes)."""
  with open("/proc/self/status") as file:
    lines = dict(line.split(":", 1) for line in file)
  return int(lines[field].split()[0]) * 1024 / 1e6


def print_memory(name):
  """Print the memory that one way takes above the codebook; in a process."""
  centers, features = _data(_LARGE)
  # The first product takes the library's own buffers.
  features[:8] @ features[:8].T
  before = _status("VmRSS")
  with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # Forgets the highest use until now.
  words = aggregate.Words(centers)
  _ways(words, features)[name]()
  print(
    f"  {name:26}{_status('VmHWM') - before:9.0f} MB above the codebook of"
    f" {centers.nbytes / 1e6:.0f} MB"
  )


def memory():
  """Print peak memory with 65536 words, each way in a process of its own."""
  print("Peak memory, by the operating system:", flush=True)
  if not sys.platform.startswith("linux"):
    print("  not measured: it is read from Linux's /proc")
    return
  for name in _ways(None, None):
    subprocess.run(
      [sys.executable, "-m", "benchmarks.aggregation", "--memory-of", name],
      check=True,
    )
  print(f"  target: at most {_MOST_MEGABYTES} MB (a VLAD itself has 34)")


def main():
  """Run the benchmark; return its exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--quick", action="store_true", help="fewer runs")
  parser.add_argument("--memory-of", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.memory_of:
    print_memory(args.memory_of)
    return 0
  if args.quick:
    print("quick: fewer runs")
  print("times and ratios: wall / processor")
  against_product(3 if args.quick else 15)
  against_tiled(1 if args.quick else 5)
  memory()
  return 0


if __name__ == "__main__":
  sys.exit(main())
