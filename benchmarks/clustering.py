"""k-means for codebooks: speed against the original's method, and scaling.

The original runs TensorFlow's k-means estimator, which no longer exists; it was
recorded at 1.1 s per step on two cores. Two stand-ins for its step run here:
"matrix" is the computation of the estimator without its overhead (squared
distances of all features to all words as one TensorFlow matrix, means by
segments), and "tiled" keeps the differences of all features and words in
memory, as the original's aggregation does.
"""

import argparse
import time

import numpy as np

from delf.aggregation import kmeans, visual_words

_SIZE = 128
_TILED_ROWS = 100  # The original's `feature_batch_size`.


def _clustered(number, groups, seed=0):
  """Return L2-normalised features about random directions."""
  generator = np.random.default_rng(seed)
  centers = generator.standard_normal((groups, _SIZE), dtype=np.float32)
  centers /= np.linalg.norm(centers, axis=1, keepdims=True)
  features = generator.standard_normal((number, _SIZE), dtype=np.float32)
  features *= 0.06
  features += centers[generator.integers(0, groups, number)]
  return features / np.linalg.norm(features, axis=1, keepdims=True)


def _matrix_step(features, centers):
  """One step as a matrix of distances."""
  import tensorflow as tf

  points, words_ = tf.constant(features), tf.constant(centers)
  squares = (
    tf.reduce_sum(points**2, axis=1, keepdims=True)
    - 2 * tf.matmul(points, words_, transpose_b=True)
    + tf.reduce_sum(words_**2, axis=1)
  )
  return _means(points, tf.argmin(squares, axis=1), len(centers))


def _tiled_step(features, centers):
  """One step with the differences of each feature and word held in memory."""
  import tensorflow as tf

  points, words_ = tf.constant(features), tf.constant(centers)
  labels = []
  for first in range(0, len(features), _TILED_ROWS):
    part = points[first : first + _TILED_ROWS]
    tiled = tf.tile(part[:, tf.newaxis], [1, len(centers), 1])
    squares = tf.reduce_sum((tiled - words_) ** 2, axis=2)
    labels.append(tf.argmin(squares, axis=1))
  return _means(points, tf.concat(labels, axis=0), len(centers))


def _means(points, labels, number):
  import tensorflow as tf

  return tf.math.unsorted_segment_mean(points, labels, number).numpy()


def _ours_step(features, centers):
  return kmeans.step(features, kmeans.State(centers)).centers


def _time(step, *arguments):
  """Return (seconds, processor seconds of all cores, result)."""
  start, cpu = time.perf_counter(), time.process_time()
  result = step(*arguments)
  return time.perf_counter() - start, time.process_time() - cpu, result


def _compare(runs):
  """Print the time of a step of 20 000 features into 256 words."""
  features = _clustered(20000, 300)
  centers = features[:256].copy()
  ways = {"delf": _ours_step, "matrix": _matrix_step, "tiled": _tiled_step}
  print(f"one step, 20000 x {_SIZE} into 256 words, best of {runs}")
  print("            wall ms   x delf  processor ms   x delf  off by")
  first = None
  for name, step in ways.items():
    step(features[:500], centers)  # Warm-up: loading, tracing.
    found = [_time(step, features, centers) for _ in range(runs)]
    wall, cpu = min(f[0] for f in found), min(f[1] for f in found)
    first = first or (wall, cpu, found[0][2])
    off = np.abs(found[0][2] - first[2]).max()
    print(
      f"  {name:7} {1000 * wall:10.1f} {wall / first[0]:8.1f}"
      f" {1000 * cpu:13.1f} {cpu / first[1]:8.1f}  {off:.0e}",
      flush=True,
    )


def _grow(sizes):
  """Print seconds of a step, and features a second, by size."""
  print("a step as it grows (processor seconds: of all cores together)")
  for number, num_words in sizes:
    features = _clustered(number, max(300, num_words // 2))
    state = kmeans.start(features, num_words)
    method = kmeans.choose_method("auto", number, num_words)
    seconds, cpu, _ = _time(kmeans.step, features, state, method)
    print(
      f"  {number:8} into {num_words:6} words, {method:11} {seconds:8.2f} s,"
      f" {cpu:8.2f} processor s",
      flush=True,
    )


def _lose(number, num_words, steps):
  """Print the loss of approximate against exact assignment."""
  features = _clustered(number, num_words // 2)
  print(f"mean squared distance, {number} into {num_words}, {steps} steps")
  for method in (kmeans.EXACT, kmeans.APPROXIMATE):
    cpu = time.process_time()
    state = kmeans.train(features, num_words, steps, method=method)
    cpu = time.process_time() - cpu
    labels = visual_words.Words(state.centers).nearest(features)[:, 0]
    true = kmeans.squared_distances(features, state.centers, labels).mean()
    print(f"  {method:11} {true:.5f}, {cpu:6.1f} processor s", flush=True)


def main():
  """Print three tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--quick", action="store_true", help="smaller sizes")
  quick = parser.parse_args().quick
  if quick:
    print("quick: smaller sizes, fewer runs")
  _compare(3 if quick else 7)
  sizes = [(1000, 256), (20000, 256), (20000, 1024), (100000, 1024)]
  if not quick:
    sizes += [(100000, 8192), (200000, 65536)]
  _grow(sizes)
  _lose(*((10000, 1024, 5) if quick else (60000, 4096, 15)))


if __name__ == "__main__":
  main()
