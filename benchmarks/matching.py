"""Speed and recall of matching, against a tree and scikit-image's RANSAC.

`python -m benchmarks.matching` prints three tables; about a minute.
"""

import argparse
import os
import time
import warnings

# One thread for both sides: on a shared machine, threads that wait for each
# other measure the neighbours.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from scipy import spatial  # noqa: E402
from skimage import measure, transform

from delf.formats import features  # noqa: E402
from delf.matching import geometry, matcher

_NUMBER, _DIMENSION, _SIDE = 1000, 128, 1000
# As the original's script, but for the estimator's own search.
_OPTIONS = matcher.MatchOptions(max_distance=0.8, mutual=False)


def make_pair(share, noise, seed):
  """Return features of two images, `share` of which show the same points.

  Args:
    share: Share of the features that are the same.
    noise: Standard deviation of their locations, in pixels along each axis.
    seed: Seed of the draw.

  Returns:
    Two features.LocalFeatures; feature i of both is the same where
    i < share * 1000. Every feature has a putative match within 0.8.
  """
  random = np.random.default_rng(seed)
  locations = random.uniform(0, _SIDE, (2, _NUMBER, 2))
  true = round(share * _NUMBER)
  angle, (wide, high) = random.uniform(-0.6, 0.6), random.uniform(0.6, 1.5, 2)
  turn = np.array(
    [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  )
  moved = locations[0, :true] @ (turn * [wide, high]).T + 40
  locations[1, :true] = moved + random.normal(0, noise, (true, 2))
  one = random.normal(size=(_NUMBER, _DIMENSION)).astype(np.float32)
  one /= np.linalg.norm(one, axis=1, keepdims=True)
  change = random.normal(0, 0.4 / np.sqrt(_DIMENSION), one.shape)
  two = one + change.astype(np.float32)
  two /= np.linalg.norm(two, axis=1, keepdims=True)
  return _features(locations[0], one), _features(locations[1], two)


def make_noise(seed, alike, layout="even"):
  """Return two images that have nothing in common.

  Args:
    seed: Seed of the draw.
    alike: Whether descriptors of both agree, so that all are putative matches.
    layout: "even" over both images, or of "sizes" that differ, or in
      "clusters".
  """
  random = np.random.default_rng(seed)
  if alike:
    descriptors = [each.descriptors for each in make_pair(0, 0, seed)]
  else:
    descriptors = random.normal(size=(2, _NUMBER, _DIMENSION))
    descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
  locations = random.uniform(0, _SIDE, (2, _NUMBER, 2))
  if layout == "sizes":
    locations *= np.array([1, 0.15])[[seed % 2, 1 - seed % 2], None, None]
  if layout == "clusters":
    centres = random.integers(5, size=_NUMBER)
    locations = locations[:, centres] + random.normal(0, 20, locations.shape)
    locations[1] = random.permutation(locations[1])
  return [
    _features(place, each.astype(np.float32))
    for place, each in zip(locations, descriptors, strict=True)
  ]


def _features(locations, descriptors):
  ones = np.ones([len(locations)], np.float32)
  return features.LocalFeatures(locations, ones, descriptors, ones)


def baseline(one, two, seed, max_distance=_OPTIONS.max_distance):
  """Return the inliers [M, 2] of a tree and scikit-image, 1000 trials."""
  distances, indices = spatial.cKDTree(two.descriptors).query(
    one.descriptors, distance_upper_bound=max_distance
  )
  found = np.flatnonzero(np.isfinite(distances))
  pairs = np.stack([found, indices[found]], axis=1)
  if len(pairs) <= 3:  # As the original: no map of so few.
    return pairs[:0]
  data = (one.locations[found], two.locations[indices[found]])
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # No inliers at all.
    _, inliers = measure.ransac(
      data,
      transform.AffineTransform,
      min_samples=3,
      residual_threshold=20.0,
      max_trials=1000,
      rng=seed,
    )
  return pairs[inliers] if inliers is not None else pairs[:0]


def recall(inliers, share):
  """Return the share of the true pairs that are among the inliers."""
  true = round(share * _NUMBER)
  same = inliers[:, 0] == inliers[:, 1]
  return np.count_nonzero(same & (inliers[:, 0] < true)) / true


def _timed(function, *arguments):
  """Return the result and [wall, processor] milliseconds."""
  start = time.perf_counter(), time.process_time()
  result = function(*arguments)
  end = time.perf_counter(), time.process_time()
  return result, 1000 * np.subtract(end, start)


def speed(draws):
  """Print both times and both recalls."""
  print(f"speed, {_NUMBER} x {_NUMBER} x {_DIMENSION}, 1 px noise, medians of")
  print(f"{draws} pairs, both ways in turn; wall / processor milliseconds")
  print(
    "inliers       baseline           delf       ratio   recall: theirs delf"
  )
  baseline(*make_pair(0.3, 1, 0), 0)
  for share in (0.3, 0.1, 0.05):
    times, rates = [], []
    for seed in range(draws):
      pair = make_pair(share, 1, seed)
      theirs, their_ms = _timed(baseline, *pair, seed)
      ours, our_ms = _timed(matcher.match, *pair, _OPTIONS)
      times.append([their_ms, our_ms])
      rates.append([recall(each, share) for each in (theirs, ours.inliers)])
    theirs, ours = np.median(times, axis=0)
    ratios = theirs / ours
    their_rate, our_rate = np.mean(rates, axis=0)
    print(
      f"{share:6.0%} {theirs[0]:8.1f} / {theirs[1]:5.1f}"
      f" {ours[0]:7.1f} / {ours[1]:5.1f} {ratios[0]:5.0f}x / {ratios[1]:3.0f}x"
      f" {their_rate:10.3f} {our_rate:6.3f}"
    )


def recalls(draws):
  """Print the recall by share of inliers and by noise."""
  print(f"\nrecall of the true inliers, mean (least) of {draws} pairs; limit:")
  print("share of the true pairs within 20 px of the true map")
  print("inliers   noise px   limit   delf           is_match")
  for share in (0.3, 0.1, 0.05):
    for noise in (1, 5, 10):
      found = [
        matcher.match(*make_pair(share, noise, 100 + seed), _OPTIONS)
        for seed in range(draws)
      ]
      rates = [recall(each.inliers, share) for each in found]
      limit = 1 - np.exp(-((20 / noise) ** 2) / 2)
      right = np.mean([each.is_match for each in found])
      print(
        f"{share:6.0%} {noise:9} {limit:9.3f} {np.mean(rates):6.3f}"
        f" ({np.min(rates):.3f}) {right:9.0%}"
      )


def noise(draws):
  """Print the scores of images that have nothing in common."""
  print(f"\nnoise, {draws} draws of two unrelated images each")
  print("case                               most inliers  threshold  matches")
  cases = {
    "random descriptors, mutual": (False, "even", {}),
    "random descriptors, one-way": (False, "even", {"mutual": False}),
  }
  for estimator in geometry.ESTIMATORS:
    for layout in ("even", "sizes", "clusters"):
      name = f"all putative, {estimator}, {layout}"
      cases[name] = (True, layout, {"estimator": estimator})
  for name, (alike, layout, changes) in cases.items():
    found = [
      matcher.match(*make_noise(seed, alike, layout), **changes)
      for seed in range(draws)
    ]
    print(
      f"{name:34} {max(each.score for each in found):12}"
      f" {min(each.min_inliers for each in found):10}"
      f" {sum(each.is_match for each in found):8}"
    )


def main():
  """Print the three tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    "--quick", action="store_true", help="3 pairs and 10 draws of noise"
  )
  quick = parser.parse_args().quick
  if quick:
    print("quick: 3 pairs in place of 15, 10 draws of noise in place of 100\n")
  pairs = 3 if quick else 15
  speed(pairs)
  recalls(pairs)
  noise(10 if quick else 100)


if __name__ == "__main__":
  main()
