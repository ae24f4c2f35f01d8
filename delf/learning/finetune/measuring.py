"""Scores of a model on held-out photos: matching pairs and retrieval."""

import dataclasses
import os
import typing
from collections.abc import Sequence

import numpy as np

from delf.base import progress
from delf.learning.finetune import data
from delf.protos import delf_config_pb2

if typing.TYPE_CHECKING:
  from delf.learning import view_pairs

# Settings of `benchmarks.model_quality`, chosen on held-out photos: residual
# threshold of a homography as a share of the longer side, and ratio test.
_SHARE, _RATIO = 0.015, 0.95
# More pairs, or more views of one photo, refine the scores little.
_MOST_REAL, _MOST_SYNTHETIC, _MOST_UNRELATED = 60, 60, 150
_SYNTHETIC_OF_ONE = 8
# Points a side of a grid over the first view, and the smallest share of them
# that the second view must show.
_GRID, _LEAST_SHARED = 24, 0.1
_MOST_SEARCHED = 1000  # Photos that held-out photos are searched among.


@dataclasses.dataclass(frozen=True)
class Scores:
  """Scores on held-out photos; the last two are None without classes."""

  # Of ranking true before unrelated pairs by inliers; None if all held-out
  # photos show one place.
  average_precision: float | None
  real: tuple[int, int]  # Pairs of two photos: solved, and all.
  synthetic: tuple[int, int]  # Pairs of views of one photo: solved, and all.
  inliers: float  # Median over true pairs.
  # Of retrieving photos of the same class by global descriptors.
  mean_average_precision: float | None = None
  # Photos whose nearest one has the same class, and all photos.
  nearest: tuple[int, int] | None = None

  def overall(self) -> float:
    """Return the score by which models are compared, in [0, 1].

    It is the mean of the average precision of pairs, the share of solved pairs,
    and the mAP, without the ones that are None.
    """
    total = max(1, self.real[1] + self.synthetic[1])
    solved = (self.real[0] + self.synthetic[0]) / total
    parts = [self.average_precision, solved, self.mean_average_precision]
    return float(np.mean([part for part in parts if part is not None]))


@dataclasses.dataclass(frozen=True)
class PairSet:
  """Pairs of images that match, and pairs that do not."""

  images: list[np.ndarray]  # uint8 [H, W, 3] each.
  # Two indices of a matching pair, whether it is of two photos, and the truth
  # for `pair_metrics.is_solved`.
  true: list[tuple[int, int, bool, dict]]
  unrelated: np.ndarray  # int [U, 2], indices.


def make_pairs(
  photos: "Sequence[view_pairs.Photo]",
  pairs: "Sequence[view_pairs.Pair]",
  side: int,
  seed: int = 0,
) -> PairSet:
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
  drawn = rng.integers(len(pools), size=(8 * _MOST_UNRELATED, 2))
  drawn = np.unique(np.sort(drawn, axis=1), axis=0)
  one, two = np.array(pools)[drawn.T]
  drawn = drawn[one != two]
  return PairSet(images, true, rng.permutation(drawn)[:_MOST_UNRELATED])


def _views(rng, image, side):
  """Return two views of a photo and the truth, or [] and None."""
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
  config: delf_config_pb2.DelfConfig,
  pairs: PairSet,
  picture: str | os.PathLike | None = None,
) -> Scores:
  """Measure how a model matches pairs, and draw the first true pair."""
  from delf.evaluation import pair_metrics
  from delf.matching import geometry, matcher
  from delf.pictures import figures

  images = pairs.images
  extracted = _extract(config, True, images, "measuring: features")
  local = [features.local for features in extracted]

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
  counts, solutions = [], []
  for one, two, _, truth in progress.track(pairs.true, "measuring: matches"):
    inliers = match(one, two).inliers
    points = (
      local[one].locations[inliers[:, 0], ::-1],
      local[two].locations[inliers[:, 1], ::-1],
    )
    size = images[two].shape[1::-1]
    counts.append(len(inliers))
    solutions.append(pair_metrics.is_solved(truth, *points, size))
  unrelated = [
    len(match(*pair).inliers)
    for pair in progress.track(pairs.unrelated, "measuring: unrelated pairs")
  ]
  solved = np.array(solutions)
  real = np.array([pair[2] for pair in pairs.true])
  precision = None
  if unrelated:
    inliers = np.array(counts), np.array(unrelated)
    precision = float(pair_metrics.average_precision(*inliers))
  return Scores(
    precision,
    (int(solved[real].sum()), int(real.sum())),
    (int(solved[~real].sum()), int((~real).sum())),
    float(np.median(counts)),
  )


def _extract(config, local, images, label):
  """Yield the ImageFeatures of images, either local or global."""
  from delf.inference import extractor

  own = type(config)()
  own.CopyFrom(config)
  own.use_local_features, own.use_global_features = local, not local
  extract = extractor.make_extractor(own).extract
  return map(extract, progress.track(images, label))


def _descriptors(config, images, label):
  """Return global descriptors of unit length, float32 [N, D]."""
  extracted = _extract(config, False, images, label)
  return np.stack([each.global_descriptor for each in extracted])


def describe(images: Sequence[np.ndarray]) -> np.ndarray:
  """Return global descriptors of the embedded model, float32 [N, D].

  They propose photos of one place, whichever model training starts from.
  """
  from delf.inference import zoo

  config = zoo.default_config(zoo.EMBEDDED)
  return _descriptors(config, images, "describing photos")


def choose_searched(
  rng: np.random.Generator, queries: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Return ascending indices of all queries and up to 1000 photos in total.

  Photos of the queries' classes take precedence over others. `queries` is a
  mask, bool [N]; `labels` is int [N].
  """
  same = np.isin(labels, labels[queries])
  order = rng.permutation(len(labels))
  rank = np.where(queries, 0, np.where(same, 1, 2))[order]
  order = order[np.argsort(rank, kind="stable")]
  return np.sort(order[: max(_MOST_SEARCHED, int(queries.sum()))])


def measure_search(
  config: delf_config_pb2.DelfConfig,
  scores: Scores,
  held_out: data.Side,
  training: data.Side,
  seed: int = 0,
) -> Scores:
  """Return scores with those of searching held-out photos among all others."""
  from delf.evaluation import ground_truth, metrics

  images = [p.image for p in (*held_out.photos, *training.photos)]
  labels = np.concatenate([held_out.labels, training.labels])
  held = np.arange(len(images)) < len(held_out.photos)
  chosen = choose_searched(np.random.default_rng((seed, 3)), held, labels)
  # A photo without class forms its own class.
  labels = np.where(labels < 0, -1 - np.arange(len(labels)), labels)[chosen]
  label = "measuring: global descriptors"
  descriptors = _descriptors(config, [images[i] for i in chosen], label)
  queries = np.flatnonzero(held[chosen])
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
