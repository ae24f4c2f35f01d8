"""Quality of matching photos: a model beside RootSIFT, by the same estimator.

`python -m benchmarks.matching_quality` prints, per set, the average precision
of telling true from unrelated pairs by the number of inliers, and the pairs
that are solved: at least 15 inliers, of which 70 % agree with the ground truth.
Then how many true and how many unrelated pairs are called a match.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time

import numpy as np
import tqdm

from benchmarks import _matching_sets
from delf.python import errors, features
from delf.python.retrieval import matching, models, pair_truth
from delf.python.training.self_supervised import real_pairs


@dataclasses.dataclass(frozen=True)
class Estimation:
  """How the features of two photos are matched.

  Attributes:
    estimator: Of `retrieval.matching`.
    share: Residual threshold as a share of the second photo's longer side.
    ratio: Of the ratio test, or None.
  """

  estimator: str = models.HOMOGRAPHY
  share: float = 0.015
  ratio: float | None = 0.95


def root_sift(image, number=4096):
  """Returns features.LocalFeatures of a photo uint8 [H, W, 3], as RootSIFT."""
  keypoints, descriptors = real_pairs.root_sift(image, number, contrast=0.04)
  if not keypoints:
    return features.LocalFeatures.empty(128)
  return features.LocalFeatures(
    locations=np.float32([k.pt for k in keypoints])[:, ::-1],
    scales=np.float32([k.size for k in keypoints]),
    descriptors=descriptors,
    attention=np.float32([k.response for k in keypoints]),
  )


def model_extractor(config):
  """Returns a function from a photo to the local features of a DelfConfig."""
  from delf.python.inference import extractor

  made = extractor.make_extractor(config, device="cpu")
  return lambda image: made.extract(image).local


def embedded_config(name):
  """Returns the DelfConfig of a model's name or of a `.pbtxt` file."""
  from delf.python import config_io
  from delf.python.inference import zoo

  if name.endswith(".pbtxt"):
    return config_io.read_delf_config(name)
  config = zoo.default_config(name)
  config.use_global_features = False
  return config


def extract(pairs, function, label):
  """Returns ({key: LocalFeatures}, {key: (width, height)}, seconds a photo)."""
  found, sizes, seconds = {}, {}, 0.0
  for key in tqdm.tqdm(
    pairs.keys(), desc=label, file=sys.stderr, mininterval=5
  ):
    image = pairs.load(key)
    start = time.perf_counter()
    found[key] = function(image)
    seconds += time.perf_counter() - start
    sizes[key] = image.shape[1::-1]
  return found, sizes, seconds / len(found)


def match(found, sizes, first, second, estimation):
  """Returns (whether it is a match, points (x, y) of the inliers in both)."""
  result = matching.match(
    found[first],
    found[second],
    ratio=estimation.ratio,
    estimator=estimation.estimator,
    residual_threshold=estimation.share * max(sizes[second]),
  )
  one = found[first].locations[result.inliers[:, 0], ::-1]
  two = found[second].locations[result.inliers[:, 1], ::-1]
  return result.is_match, (one, two)


def measure(pairs, found, sizes, estimation, label=""):
  """Matches all pairs of a set.

  Returns:
    dict with a row per group and "all": pairs, average precision, solved pairs
    (None without truth), median inliers, and pairs called a match.
  """
  counts, solved, called = {}, {}, {}
  track = tqdm.tqdm(
    pairs.true + pairs.unrelated, desc=label, file=sys.stderr, mininterval=5
  )
  negative, alarms = [], 0
  for pair in track:
    if isinstance(pair, tuple):
      is_match, points = match(found, sizes, *pair, estimation)
      negative.append(len(points[0]))
      alarms += is_match
      continue
    names = pair.first, pair.second
    is_match, points = match(found, sizes, *names, estimation)
    good = pair.truth is not None and pair_truth.is_solved(
      pair.truth, *points, sizes[pair.second]
    )
    for group in (pair.group, "all"):
      counts.setdefault(group, []).append(len(points[0]))
      solved.setdefault(group, []).append(good)
      called.setdefault(group, []).append(is_match)
  known = any(pair.truth is not None for pair in pairs.true)
  groups = [g for g in counts if g != "all"]
  return {
    group: {
      "pairs": len(counts[group]),
      "average_precision": pair_truth.average_precision(
        counts[group], negative
      ),
      "solved": int(sum(solved[group])) if known else None,
      "median_inliers": float(np.median(counts[group])),
      "median_inliers_unrelated": float(np.median(negative)),
      "called_a_match": sum(called[group]),
      "unrelated": len(negative),
      "unrelated_called_a_match": alarms,
    }
    for group in (groups + ["all"] if len(groups) > 1 else groups)
  }


def print_table(name, results):
  """Prints the rows of all methods of a set side by side."""
  methods = list(results)
  head = "".join(f" | {m:>12} AP  solved  inliers" for m in methods)
  print(f"\n{name:<16} pairs{head}")
  for group in results[methods[0]]:
    line = f"{group:<16} {results[methods[0]][group]['pairs']:5d}"
    for method in methods:
      row = results[method][group]
      solved = "-" if row["solved"] is None else row["solved"]
      line += f" | {row['average_precision']:15.3f}  {solved:>6}"
      line += f"  {row['median_inliers']:7.0f}"
    print(line)
  print("called a match")
  for method, rows in results.items():
    row = list(rows.values())[-1]
    print(
      f"{method:<16} {row['called_a_match']} of {row['pairs']} true pairs,"
      f" {row['unrelated_called_a_match']} of {row['unrelated']} unrelated"
    )


def run(args):
  """Measures what the flags ask for; returns {set: {method: rows}}."""
  if args.validation:
    sets = [_matching_sets.validation(args.data)]
  else:
    sets = [
      _matching_sets.matching(args.data),
      _matching_sets.landmarks(args.data),
    ]
  if args.quick:
    sets = [pairs.quick() for pairs in sets]
  methods = {} if args.no_rootsift else {"RootSIFT": root_sift}
  methods[pathlib.Path(args.model).stem] = model_extractor(
    embedded_config(args.model)
  )
  estimation = Estimation(args.estimator, args.share, args.ratio)
  print(f"{estimation}{', one pair in eight' if args.quick else ''}")
  results = {}
  for pairs in sets:
    results[pairs.name] = {}
    for method, function in methods.items():
      found, sizes, seconds = extract(pairs, function, f"{method} features")
      number = np.mean([len(f) for f in found.values()])
      print(f"{method}: {number:.0f} features, {seconds:.3f} s per photo")
      results[pairs.name][method] = measure(
        pairs, found, sizes, estimation, f"{method} matching"
      )
    print_table(pairs.name, results[pairs.name])
  return results


def main():
  """Runs the benchmark."""
  default = Estimation()
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--model", default="delf-compact", help="name, or a configuration (.pbtxt)"
  )
  parser.add_argument("--data", type=pathlib.Path, default=_matching_sets.DATA)
  parser.add_argument("--estimator", default=default.estimator)
  parser.add_argument("--share", type=float, default=default.share)
  parser.add_argument("--ratio", type=float, default=default.ratio)
  parser.add_argument("--no_rootsift", action="store_true")
  parser.add_argument(
    "--validation", action="store_true", help="held-out photos"
  )
  parser.add_argument("--quick", action="store_true", help="one pair in eight")
  parser.add_argument(
    "--json", action="store_true", help="print JSON at the end"
  )
  args = parser.parse_args()
  if not args.data.exists():
    print(f"no photos with ground truth at {args.data}: nothing measured")
    return 0
  try:
    results = run(args)
  except errors.InputError as error:
    print(error, file=sys.stderr)
    return 1
  if args.json:
    print(json.dumps(results))
  return 0


if __name__ == "__main__":
  sys.exit(main())
