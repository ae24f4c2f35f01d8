"""Speed of verifying pairs, against a tree and scikit-image's RANSAC.

`python -m benchmarks.reranking` prints four tables; about two minutes. The
collection is made of synthetic photos' features, a tenth of the index images of
each query's scene; `--features QUERY_FOLDER INDEX_FOLDER` takes real ones.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import tempfile
import time

# As the workers are started; see benchmarks/matching.py.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np  # noqa: E402

from benchmarks import matching as pairwise  # noqa: E402
from delf.base import files  # noqa: E402
from delf.matching import (
  matcher,
  verification,  # noqa: E402
)
from delf.python import feature_io  # noqa: E402

_OPTIONS = matcher.DELG
_QUERIES, _INDEX = 8, 40
_NUMBER, _DIMENSION, _SIDE = 1000, 128, 1000
# Share of points that photos of one scene have in common.
_SHARED = 0.15


def write_collection(folder):
  """Write features of queries and of images, some of the same scenes.

  A third of all descriptors are near some of a few hundred common ones, so that
  unrelated photos have some hundred putative matches, as real ones do.
  """
  random = np.random.default_rng(0)
  common = _unit(random.normal(size=(300, _DIMENSION)))
  scenes = [_scene(random, common) for _ in range(_QUERIES)]
  sides = {f"q{i}": scene for i, scene in enumerate(scenes)}
  for image in range(_INDEX):
    where, what = _scene(random, common)
    if image < _INDEX // 2:
      number = round(_SHARED * _NUMBER)
      there, like = scenes[image % _QUERIES]
      where[:number] = 0.8 * there[:number] + random.normal(0, 2, (number, 2))
      what[:number] = _unit(like[:number] + _noise(random, number))
    sides[f"i{image}"] = where, what
  for name, (where, what) in sides.items():
    path, ones = f"{folder}/{name}.delf", np.ones([_NUMBER])
    feature_io.WriteToFile(path, where, ones, what, ones)
  return _files(folder, "q*"), _files(folder, "i*")


def _scene(random, common):
  what = _unit(random.normal(size=(_NUMBER, _DIMENSION)))
  alike = random.permutation(_NUMBER)[: _NUMBER // 3]
  chosen = common[random.integers(len(common), size=len(alike))]
  what[alike] = _unit(chosen + _noise(random, len(alike)))
  return random.uniform(0, _SIDE, (_NUMBER, 2)), what


def _noise(random, number):
  return random.normal(0, 0.4 / np.sqrt(_DIMENSION), (number, _DIMENSION))


def _unit(rows):
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _files(folder, pattern):
  found = sorted(
    path
    for path in pathlib.Path(folder).glob(pattern)
    if path.suffix in (files.DELF, files.DELG_LOCAL)
  )
  paths = tuple(map(str, found))
  return verification.FeatureFiles(
    tuple(path.stem for path in found), paths.__getitem__
  )


def _timed(function, *arguments, **options):
  """Return the result and [wall, processor with that of workers] seconds."""
  start = _clocks()
  result = function(*arguments, **options)
  return result, np.subtract(_clocks(), start)


def _clocks():
  used = os.times()
  return time.perf_counter(), sum(used[:4])


def _originals_way(queries, index, pairs):
  """Verify as the original does: the image's file is read for each pair."""
  read = functools.cache(feature_io.read_local_features)
  return [
    len(
      pairwise.baseline(
        read(queries.path(query)),
        feature_io.read_local_features(index.path(image)),
        0,
        _OPTIONS.max_distance,
      )
    )
    for query, image in pairs.tolist()
  ]


def against_original(queries, index, pairs, draws):
  """Print pairs per second of both, pairs drawn at random."""
  drawn = np.random.default_rng(1).permutation(len(pairs))[:draws]
  theirs, their_seconds = _timed(_originals_way, queries, index, pairs[drawn])
  report, our_seconds = _timed(
    verification.verify_pairs, pairs, queries, index, _OPTIONS, workers=1
  )
  ours = report.look_up(*pairs[drawn].T)
  rates = [draws / their_seconds, len(pairs) / our_seconds]
  print(f"1 process; original's way on {draws} of {len(pairs)} pairs, drawn")
  print(
    "                    pairs/s wall  per processor second  median inliers"
  )
  for name, rate, found in zip(
    ("original's way", "delf"), rates, (theirs, ours), strict=True
  ):
    print(f"{name:16} {rate[0]:15.1f} {rate[1]:21.1f} {np.median(found):15.0f}")
  ratio = rates[1] / rates[0]
  print(f"{'ratio':16} {ratio[0]:14.0f}x {ratio[1]:20.0f}x")
  print(
    "the original also counts maps that squeeze an image to a line or spot,"
  )
  print("which any two images have some of")


def floor(queries, index, pairs):
  """Print where the time of a pair goes, against its matrix product."""
  paths = [(queries.path(q), index.path(i)) for q, i in pairs.tolist()]
  verifier = verification.Verifier(_OPTIONS, verification.CACHE_BYTES)
  verifier(paths)  # All features are in memory from here on.
  sides = [(verifier.queries.get(q), verifier.index.get(i)) for q, i in paths]
  limit = {"max_distance": _OPTIONS.max_distance}
  only_counted = dataclasses.replace(_OPTIONS, min_inliers=1)
  steps = {
    "matrix product (floor)": lambda q, i: (
      q.descriptors.array @ i.descriptors.centred.T
    ),
    "nearest neighbours": lambda q, i: matcher.nearest(
      q.descriptors, i.descriptors, **limit
    ),
    "same, nothing prepared": lambda q, i: matcher.nearest(
      q.descriptors.array, i.descriptors.array, **limit
    ),
    "all, with the map": lambda q, i: matcher.match_prepared(
      q, i, only_counted, backward=True
    ),
  }
  print(f"\nmean of {len(pairs)} pairs, features in memory, processor time")
  base = None
  for name, step in steps.items():
    _, seconds = _timed(_each, step, sides)
    milliseconds = 1000 * seconds[1] / len(pairs)
    base = base or milliseconds
    print(f"{name:24} {milliseconds:7.2f} ms {milliseconds / base:6.1f}x")


def _each(step, sides):
  """Run a step for each pair, without keeping the results."""
  for pair in sides:
    step(*pair)


def cores(queries, index, pairs):
  """Print pairs per second by number of processes, and the start-up time."""
  print("\nprocesses   seconds   processor   pairs/s   speed-up   results")
  base = expected = None
  for workers in sorted({1, 2, os.cpu_count() or 1}):
    report, seconds = _timed(
      verification.verify_pairs,
      pairs,
      queries,
      index,
      _OPTIONS,
      workers=workers,
    )
    base = base or seconds[0]
    expected = report.inliers if expected is None else expected
    same = "equal" if np.array_equal(expected, report.inliers) else "OTHER"
    print(
      f"{workers:9} {seconds[0]:9.2f} {seconds[1]:11.2f}"
      f" {len(pairs) / seconds[0]:9.1f}"
      f" {base / seconds[0]:9.2f}x   {same}"
    )


def cache(queries, index, pairs):
  """Print how often files are read, by memory and by order of the pairs."""
  image_by_image = pairs[np.lexsort(pairs.T)]
  one = verification.FeatureCache(1).get(queries.path(0)).nbytes
  print(f"\n{len(queries.names)} queries, {len(index.names)} images, one image "
        f"{one / 2**20:.2f} MiB in memory")  # fmt: skip
  print(
    "memory                order             files read   ms for files/pair"
  )
  for most, memory in (
    (verification.CACHE_BYTES, "1 GiB"),
    (1, "one image a side"),
  ):
    for order, name in (
      (image_by_image, "image by image"),
      (pairs, "query by query"),
    ):
      caches = [verification.FeatureCache(most) for _ in (queries, index)]

      def load(caches=caches, order=order):
        for query, image in order.tolist():
          caches[0].get(queries.path(query))
          caches[1].get(index.path(image))

      _, seconds = _timed(load)
      reads = sum(each.reads for each in caches)
      print(
        f"{memory:21} {name:16} {reads:11}"
        f" {1000 * seconds[1] / len(pairs):15.2f}"
      )


def main():
  """Print the tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    "--quick", action="store_true", help="3 pairs of the original's way"
  )
  parser.add_argument(
    "--features", nargs=2, metavar="FOLDER", help="of queries, of index images"
  )
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    if args.features:
      queries, index = (_files(f, "*") for f in args.features)
    else:
      queries, index = write_collection(folder)
    pairs = np.stack(
      np.meshgrid(
        np.arange(len(queries.names)),
        np.arange(len(index.names)),
        indexing="ij",
      ),
      axis=-1,
    ).reshape([-1, 2])
    if args.quick:
      print("quick: the original's way on 3 pairs in place of 30\n")
    against_original(queries, index, pairs, 3 if args.quick else 30)
    floor(queries, index, pairs)
    cores(queries, index, pairs)
    cache(queries, index, pairs)


if __name__ == "__main__":
  main()
