"""How well a model matches and finds photos that training has not seen."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from delf.base import progress

# The settings that `benchmarks.model_quality` has, which were chosen on
# held-out photos: homography, threshold in shares of the longer side, ratio.
_SHARE, _RATIO = 0.015, 0.95
# More pairs say little more, nor do more views of one photo.
_MOST_REAL, _MOST_SYNTHETIC, _MOST_UNRELATED = 60, 60, 150
_SYNTHETIC_OF_ONE = 8
# Points of a grid over the first view, and the share of them that the second
# must show.
_GRID, _LEAST_SHARED = 24, 0.1
_MOST_SEARCHED = 1000  # Photos that a photo is looked for among.


@dataclasses.dataclass(frozen=True)
class Scores:
  """Scores on held-out photos; the last two are None without classes."""

  # Of telling true from unrelated pairs by inliers; None where all held-out
  # photos are of one place.
  average_precision: float | None
  real: tuple[int, int]  # Solved pairs of two photos, and all of them.
  synthetic: tuple[int, int]  # Solved pairs of views of a photo, and all.
  inliers: float  # Median over true pairs.
  # Of finding the photos of a class by global descriptors; and photos whose
  # nearest one is of the same class, and all of them.
  mean_average_precision: float | None = None
  nearest: tuple[int, int] | None = None

  def overall(self) -> float:
    """Return the one number that two models are compared by, in [0, 1].

    The mean of the average precision of pairs, the share that is solved, and
    the mAP, of those that there are.
    """
    total = max(1, self.real[1] + self.synthetic[1])
    solved = (self.real[0] + self.synthetic[0]) / total
    parts = [self.average_precision, solved, self.mean_average_precision]
    return float(np.mean([part for part in parts if part is not None]))


@dataclasses.dataclass(frozen=True)
class PairSet:
  """Pairs of images that match, and pairs that do not."""

  images: list[np.ndarray]  # uint8 [H, W, 3] of each.
  # Of each matching pair two indices, whether it is of two photos, and the
  # truth as `pair_metrics.is_solved` takes it.
  true: list[tuple]
  unrelated: np.ndarray  # int [U, 2], indices.


def make_pairs(photos: list, pairs: list, side: int, seed: int = 0) -> PairSet:
  """Make pairs of held-out photos, with synthetic views of `side` pixels."""
  rng = np.random.default_rng((seed, 1))
  images = [photo.image for photo in photos]
  pools = [photo.pool for photo in photos]
  true = []
  for i in np.sort(rng.permutation(len(pairs))[:_MOST_REAL]):
    truth = {"type": "points", "points": pairs[i].points}
    true.append((pairs[i].first, pairs[i].second, True, truth))
  number = len(true) + min(_MOST_SYNTHETIC, _SYNTHETIC_OF_ONE * len(photos))
  for _ in range(20 * _MOST_SYNTHETIC):
    if len(true) >= number:
      break
    i = int(rng.integers(len(photos)))
    views, truth = _views(rng, photos[i].image, side)
    if views:
      true.append((len(images), len(images) + 1, False, truth))
      images, pools = images + views, pools + 2 * [photos[i].pool]
  pools = np.array(pools)
  drawn = rng.integers(len(pools), size=(8 * _MOST_UNRELATED, 2))
  drawn = np.unique(np.sort(drawn, axis=1), axis=0)
  drawn = drawn[pools[drawn[:, 0]] != pools[drawn[:, 1]]]
  return PairSet(images, true, rng.permutation(drawn)[:_MOST_UNRELATED])


def _views(rng, image, side):
  """Return two views of a photo and their homography; or [], None."""
  from delf.learning import view_pairs

  size = np.array(image.shape[1::-1])
  maps = []
  for _ in range(2):
    centre = size * rng.uniform(0.35, 0.65, 2)
    zoom = side / min(size) * rng.uniform(0.9, 1.7)
    maps.append(view_pairs.random_view(rng, centre, side, zoom, 1.0))
  step = side / _GRID
  grid = np.mgrid[0:_GRID, 0:_GRID].reshape(2, -1).T * step + step / 2
  shared = view_pairs.correspondences(grid, maps, size, side)[0]
  if len(shared) < _LEAST_SHARED * len(grid):
    return [], None
  views = [view_pairs.render(image, each, side) for each in maps]
  views = [view_pairs.change_pixels(rng, view, 0.9) for view in views]
  return views, {"type": "homography", "H": maps[1] @ np.linalg.inv(maps[0])}


def measure(
  config, pairs: PairSet, picture: str | os.PathLike | None = None
) -> Scores:
  """Measure how the model of a DelfConfig matches pairs; draw the first one."""
  from delf.evaluation import pair_metrics
  from delf.matching import geometry, matcher
  from delf.pictures import figures

  images = pairs.images
  local = [
    features.local
    for features in _extract(config, True, images, "measuring: features")
  ]

  def match(first, second):
    return matcher.match(
      local[first],
      local[second],
      ratio=_RATIO,
      estimator=geometry.HOMOGRAPHY,
      residual_threshold=_SHARE * max(images[second].shape[:2]),
    )

  if picture is not None:
    one, two, *_ = pairs.true[0]
    drawn = images[one], images[two], local[one], local[two]
    figures.draw_matches(picture, *drawn, match(one, two))
  counts, solved = [], []
  for one, two, _, truth in progress.track(pairs.true, "measuring: matches"):
    inliers = match(one, two).inliers
    points = (
      local[one].locations[inliers[:, 0], ::-1],
      local[two].locations[inliers[:, 1], ::-1],
    )
    size = images[two].shape[1::-1]
    counts.append(len(inliers))
    solved.append(pair_metrics.is_solved(truth, *points, size))
  unrelated = [
    len(match(*pair).inliers)
    for pair in progress.track(pairs.unrelated, "measuring: unrelated pairs")
  ]
  solved = np.array(solved)
  real = np.array([pair[2] for pair in pairs.true])
  separated = pair_metrics.average_precision(counts, unrelated)
  return Scores(
    float(separated) if unrelated else None,
    (int(solved[real].sum()), int(real.sum())),
    (int(solved[~real].sum()), int((~real).sum())),
    float(np.median(counts)),
  )


def _extract(config, local, images, label):
  """Yield the local features alone of images, or the global ones."""
  from delf.inference import extractor

  own = type(config)()
  own.CopyFrom(config)
  own.use_local_features, own.use_global_features = local, not local
  return map(
    extractor.make_extractor(own).extract, progress.track(images, label)
  )


def _descriptors(config, images, label):
  """Return global descriptors of unit length, float32 [N, D]."""
  extracted = _extract(config, False, images, label)
  return np.stack([each.global_descriptor for each in extracted])


def describe(images: Sequence[np.ndarray]) -> np.ndarray:
  """Return global descriptors of the embedded model, float32 [N, D].

  They propose photos of one place, whatever model a training begins with.
  """
  from delf.inference import zoo

  config = zoo.default_config(zoo.EMBEDDED)
  return _descriptors(config, images, "describing photos")


def choose_searched(rng, queries: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Return indices of all queries, and of others, of their classes first."""
  same = np.isin(labels, labels[queries])
  order = rng.permutation(len(labels))
  rank = np.where(queries, 0, np.where(same, 1, 2))[order]
  order = order[np.argsort(rank, kind="stable")]
  return np.sort(order[: max(_MOST_SEARCHED, int(queries.sum()))])


def measure_search(
  config, scores: Scores, held_out, training, seed: int = 0
) -> Scores:
  """Add the scores of finding held-out photos among those of two data.Side.

  Of too many those of the same classes come first. The other scores are of the
  model of the DelfConfig, or of one with the same local features.
  """
  from delf.evaluation import ground_truth, metrics

  images = [p.image for p in (*held_out.photos, *training.photos)]
  labels = np.concatenate([held_out.labels, training.labels])
  queries = np.arange(len(images)) < len(held_out.photos)
  chosen = choose_searched(np.random.default_rng((seed, 3)), queries, labels)
  # In no class: each of its own.
  labels = np.where(labels < 0, -1 - np.arange(len(labels)), labels)[chosen]
  label = "measuring: global descriptors"
  descriptors = _descriptors(config, [images[i] for i in chosen], label)
  queries = np.flatnonzero(queries[chosen])
  similarities = descriptors[queries] @ descriptors.T
  ranking = np.argsort(-similarities, axis=1, kind="stable")
  same = [np.flatnonzero(labels == labels[i]) for i in queries]
  truth = ground_truth.GroundTruth(
    dataset="held-out photos",
    index_names=tuple(map(str, range(len(labels)))),
    query_names=tuple(map(str, queries)),
    easy=tuple(s[s != i] for s, i in zip(same, queries, strict=True)),
    hard=(np.zeros(0, np.int64),) * len(queries),
    junk=tuple(np.array([i]) for i in queries),
    boxes=(None,) * len(queries),
    graded=False,
  )
  evaluated = metrics.evaluate(ranking, truth)
  plain = evaluated.protocols[ground_truth.PLAIN_PROTOCOL]
  first = plain.precisions[~np.isnan(plain.average_precisions), 0]
  return dataclasses.replace(
    scores,
    mean_average_precision=plain.mean_average_precision,
    nearest=(int(round(float(np.nansum(first)))), int(len(first))),
  )
