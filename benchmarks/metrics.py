"""How long the metrics of whole benchmarks take.

The baselines look at one image after the other in Python. Both sides must give
the same metric.
"""

import argparse
import time

import numpy as np

from delf.evaluation import submission
from delf.python.datasets.google_landmarks_dataset import metrics
from delf.python.datasets.revisited_op import dataset


def _seconds(call, repeat):
  """Return (least seconds of `repeat` calls, result of the last call)."""
  times = []
  for _ in range(repeat):
    start = time.perf_counter()
    found = call()
    times.append(time.perf_counter() - start)
  return min(times), found


def _revisited(images):
  """Return rankings [70, images] and ground truth like Revisited Oxford's."""
  generator = np.random.default_rng(0)
  ids = np.array([generator.permutation(images) for _ in range(70)])
  truth = []
  for _ in ids:
    chosen = generator.choice(images, 140, replace=False)
    truth.append({"ok": chosen[:100], "junk": chosen[100:]})
  return ids, truth


def _revisited_loop(ids, truth):
  """Compute the mean average precision image by image."""
  total = 0.0
  for row, labels in zip(ids.tolist(), truth, strict=True):
    ok, junk = set(labels["ok"].tolist()), set(labels["junk"].tolist())
    rank = found = 0
    for image in row:
      if image in junk:
        continue
      if image in ok:
        before = found / rank if rank else 1.0
        found += 1
        total += (before + found / (rank + 1)) / 2 / len(ok)
      rank += 1
  return total / len(ids)


def _landmarks(queries, images=760_000, depth=100):
  """Return predictions and a solution of the size of Google Landmarks."""
  generator = np.random.default_rng(0)
  names = np.array([f"{i:016x}" for i in range(images)], object)
  ids = generator.integers(0, images, [queries, depth])
  right = generator.integers(0, depth, [queries, 3])
  predictions = {f"q{i}": names[row].tolist() for i, row in enumerate(ids)}
  solution = {
    f"q{i}": names[row[places]].tolist()
    for i, (row, places) in enumerate(zip(ids, right, strict=True))
  }
  labels = generator.integers(0, 100_000, images)
  return predictions, solution, ids, labels


def _landmarks_loop(predictions, solution):
  """Compute the mean average precision at 100 image by image."""
  total = 0.0
  for query, predicted in predictions.items():
    seen, right, score = set(), 0, 0.0
    for i, name in enumerate(predicted[:100]):
      if name not in seen:
        if name in solution[query]:
          right += 1
          score += right / (i + 1)
        seen.add(name)
    total += score / min(len(solution[query]), 100)
  return total / len(solution)


def _vote_loop(ids, scores, labels):
  """Find the landmark with the highest sum of each query."""
  found = []
  for row, weights in zip(ids.tolist(), scores.tolist(), strict=True):
    votes = {}
    for i, weight in zip(row, weights, strict=True):
      votes[labels[i]] = votes.get(labels[i], 0) + weight
    found.append(min(votes, key=lambda label: (-votes[label], label)))
  return found


def _row(what, ours, baseline, repeat):
  fast, found = _seconds(ours, repeat)
  slow, expected = _seconds(baseline, 1)
  np.testing.assert_allclose(found, expected, rtol=1e-9)
  print(f"{what:48}{slow:10.3f}{fast:10.3f}{slow / fast:8.1f}x")


def main():
  """Print the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--quick", action="store_true", help="smaller sets")
  args = parser.parse_args()
  queries, most, repeat = 100_000, 1_000_000, 3
  if args.quick:
    queries, most, repeat = 5_000, 50_000, 1
    print("quick: smaller sets, each once")
  print(f"{'seconds':48}{'loop':>10}{'ours':>10}{'ratio':>9}")
  for images in (4993, most):
    ids, truth = _revisited(images)
    _row(
      f"Revisited, 70 queries on {images} images",
      lambda ids=ids, truth=truth: dataset.ComputeMetrics(ids, truth, [1])[0],
      lambda ids=ids, truth=truth: _revisited_loop(ids, truth),
      repeat,
    )
  predictions, solution, ids, labels = _landmarks(queries)
  _row(
    f"Landmarks mAP@100, {queries} queries",
    lambda: metrics.MeanAveragePrecision(predictions, solution),
    lambda: _landmarks_loop(predictions, solution),
    repeat,
  )
  scores = np.random.default_rng(1).random([queries, 100])
  _row(
    f"Landmarks vote of 100, {queries} queries",
    lambda: submission.vote(ids, scores, labels, 100)[0],
    lambda: _vote_loop(ids, scores, labels),
    1,
  )


if __name__ == "__main__":
  main()
