"""How well a model matches and finds photos that training has not seen."""

import dataclasses

import numpy as np

from delf.base import progress

# The settings that `benchmarks.model_quality` has, which were chosen on
# held-out photos: homography, threshold in shares of the longer side, ratio.
_SHARE, _RATIO = 0.015, 0.95


@dataclasses.dataclass(frozen=True)
class Scores:
  """What was measured on held-out photos.

  Attributes:
    average_precision: Of telling true from unrelated pairs by inliers, or None
      where all held-out photos are of one place.
    real: (solved, of how many) pairs of two photos.
    synthetic: (solved, of how many) pairs of views of one photo.
    inliers: Median over true pairs.
    mean_average_precision: Of finding the photos of a class by global
      descriptors, or None without classes.
    nearest: (right, of how many) nearest photos of the same class; or None.
  """

  average_precision: float | None
  real: tuple
  synthetic: tuple
  inliers: float
  mean_average_precision: float | None = None
  nearest: tuple | None = None

  def overall(self):
    """Returns the one number that two models are compared by, in [0, 1].

    The mean of the average precision of pairs, the share that is solved, and
    the mAP, of those that there are.
    """
    solved = (self.real[0] + self.synthetic[0]) / max(
      1, self.real[1] + self.synthetic[1]
    )
    parts = [self.average_precision, solved, self.mean_average_precision]
    return float(np.mean([part for part in parts if part is not None]))


def measure(config, pairs, picture=None):
  """Measures how a model matches.

  Args:
    config: delf_config_pb2.DelfConfig of the model.
    pairs: pair_sets.PairSet.
    picture: Path of a picture of the matches of the first pair, or None.

  Returns:
    Scores, without those of searching.
  """
  from delf.evaluation import pair_metrics

  extract = _extractor(config, use_local=True)
  local = [
    extract(image).local
    for image in progress.track(pairs.images, "measuring: features")
  ]
  if picture is not None:
    _draw(picture, local, pairs)
  found = [
    _match(local, pairs.images, first, second)
    for first, second, *_ in progress.track(pairs.true, "measuring: matches")
  ]
  negative = [
    len(_match(local, pairs.images, *pair)[0])
    for pair in progress.track(pairs.unrelated, "measuring: unrelated pairs")
  ]
  solved = np.array(
    [
      pair_metrics.is_solved(truth, *points, pairs.images[second].shape[1::-1])
      for (_, second, _, truth), points in zip(pairs.true, found, strict=True)
    ]
  )
  is_real = np.array([real for _, _, real, _ in pairs.true])
  counts = [len(points[0]) for points in found]
  return Scores(
    float(pair_metrics.average_precision(counts, negative))
    if negative
    else None,
    (int(solved[is_real].sum()), int(is_real.sum())),
    (int(solved[~is_real].sum()), int((~is_real).sum())),
    float(np.median(counts)),
  )


def _extractor(config, use_local):
  """Returns the extraction of local features alone, or of global ones."""
  from delf.inference import extractor

  own = type(config)()
  own.CopyFrom(config)
  own.use_local_features, own.use_global_features = use_local, not use_local
  return extractor.make_extractor(own).extract


def _descriptors(config, images, label):
  """Returns [N, D] float32, global descriptors of unit length."""
  extract = _extractor(config, use_local=False)
  found = progress.track(images, label)
  return np.stack([extract(image).global_descriptor for image in found])


def describe(images):
  """Returns global descriptors of the embedded model.

  They propose photos of one place, whatever model a training begins with.

  Args:
    images: list of N [H, W, 3] uint8.

  Returns:
    [N, D] float32, of unit length.
  """
  from delf.inference import zoo

  config = zoo.default_config(zoo.EMBEDDED)
  return _descriptors(config, images, "describing photos")


def _draw(path, local, pairs):
  from delf.pictures import figures

  first, second, *_ = pairs.true[0]
  one, two = local[first], local[second]
  images = pairs.images[first], pairs.images[second]
  found = match(one, two, images[1].shape[:2])
  figures.draw_matches(path, *images, one, two, found)


def match(one, two, size):
  """Matches two photos as they are measured.

  Args:
    one: features.LocalFeatures.
    two: features.LocalFeatures.
    size: (height, width) of the second photo.

  Returns:
    matching.Match.
  """
  from delf.matching import geometry, matcher

  return matcher.match(
    one,
    two,
    ratio=_RATIO,
    estimator=geometry.HOMOGRAPHY,
    residual_threshold=_SHARE * max(size),
  )


def _match(local, images, first, second):
  """Returns points (x, y) of the inliers in both photos."""
  one, two = local[first], local[second]
  inliers = match(one, two, images[second].shape[:2]).inliers
  return (
    one.locations[inliers[:, 0], ::-1],
    two.locations[inliers[:, 1], ::-1],
  )


def measure_search(config, scores, images, labels, asked):
  """Measures how a model finds photos of the same class.

  Args:
    config: delf_config_pb2.DelfConfig of the model.
    scores: Scores of the same model, or of one with the same local features.
    images: list of N [H, W, 3] uint8.
    labels: [N] int, the class of each.
    asked: [N] bool: each of these is looked for among all others.

  Returns:
    Scores with all figures.
  """
  from delf.evaluation import ground_truth
  from delf.evaluation import metrics as evaluation_metrics

  descriptors = _descriptors(config, images, "measuring: global descriptors")
  queries = np.flatnonzero(asked)
  similarities = descriptors[queries] @ descriptors.T
  ranking = np.argsort(-similarities, axis=1, kind="stable")
  same = [np.flatnonzero(labels == labels[i]) for i in queries]
  none = np.zeros(0, np.int64)
  truth = ground_truth.GroundTruth(
    dataset="held-out photos",
    index_names=tuple(map(str, range(len(images)))),
    query_names=tuple(map(str, queries)),
    easy=tuple(s[s != i] for s, i in zip(same, queries, strict=True)),
    hard=(none,) * len(queries),
    junk=tuple(np.array([i]) for i in queries),
    boxes=(None,) * len(queries),
    graded=False,
  )
  found = evaluation_metrics.evaluate(ranking, truth)
  metrics = found.protocols[ground_truth.PLAIN_PROTOCOL]
  first = metrics.precisions[~np.isnan(metrics.average_precisions), 0]
  right = (int(round(float(np.nansum(first)))), int(len(first)))
  return dataclasses.replace(
    scores,
    mean_average_precision=metrics.mean_average_precision,
    nearest=right,
  )


# More pairs say little more, nor do more views of one photo.
_MOST_REAL, _MOST_SYNTHETIC, _MOST_UNRELATED = 60, 60, 150
_SYNTHETIC_OF_ONE = 8

# Points of a grid over the first view, and the share of them that the second
# must show.
_GRID, _LEAST_SHARED = 24, 0.1

# Photos that a photo is looked for among.
_MOST_SEARCHED = 1000


@dataclasses.dataclass(frozen=True)
class PairSet:
  """Pairs of photos that match, and pairs that do not.

  Attributes:
    images: list of [H, W, 3] uint8.
    true: list of (place, place, whether it is of two photos, truth as
      `pair_truth.agreeing` takes it).
    unrelated: [U, 2] int, places.
  """

  images: list
  true: list
  unrelated: np.ndarray


def make(photos, pairs, side, seed=0):
  """Makes pairs of held-out photos.

  Args:
    photos: list of photos.Photo.
    pairs: list of real_pairs.Pair of them.
    side: Pixels of a synthetic view's side.
    seed: Of the views and of the unrelated pairs.

  Returns:
    PairSet.
  """
  generator = np.random.default_rng((seed, 1))
  images = [photo.image for photo in photos]
  pools = [photo.pool for photo in photos]
  true = []
  for pair in _some(generator, pairs, _MOST_REAL):
    truth = {"type": "points", "points": pair.points}
    true.append((pair.first, pair.second, True, truth))
  wanted = len(true) + min(_MOST_SYNTHETIC, _SYNTHETIC_OF_ONE * len(photos))
  for _ in range(20 * _MOST_SYNTHETIC):
    if len(true) >= wanted:
      break
    i = int(generator.integers(len(photos)))
    views, truth = _views(generator, photos[i].image, side)
    if views:
      true.append((len(images), len(images) + 1, False, truth))
      images, pools = images + views, pools + 2 * [photos[i].pool]
  return PairSet(images, true, _unrelated(generator, np.array(pools)))


def _some(generator, items, most):
  order = generator.permutation(len(items))[:most]
  return [items[i] for i in np.sort(order)]


def _views(generator, image, side):
  """Returns two views of a photo and how they correspond; or [], None."""
  from delf.learning import synthetic_views

  size = np.array(image.shape[1::-1])
  maps = []
  for _ in range(2):
    centre = size * generator.uniform(0.35, 0.65, 2)
    zoom = side / min(size) * generator.uniform(0.9, 1.7)
    maps.append(synthetic_views.random_view(generator, centre, side, zoom, 1.0))
  step = side / _GRID
  grid = np.mgrid[0:_GRID, 0:_GRID].reshape(2, -1).T * step + step / 2
  shared = synthetic_views.correspondences(grid, maps, size, side)[0]
  if len(shared) < _LEAST_SHARED * len(grid):
    return [], None
  views = [
    synthetic_views.change_pixels(
      generator, synthetic_views.render(image, each, side), 0.9
    )
    for each in maps
  ]
  truth = {"type": "homography", "H": maps[1] @ np.linalg.inv(maps[0])}
  return views, truth


def _unrelated(generator, pools):
  """Returns pairs of images of different places, [U, 2] int."""
  drawn = generator.integers(len(pools), size=(8 * _MOST_UNRELATED, 2))
  drawn = np.unique(np.sort(drawn, axis=1), axis=0)
  drawn = drawn[pools[drawn[:, 0]] != pools[drawn[:, 1]]]
  return generator.permutation(drawn)[:_MOST_UNRELATED]


def searched(generator, asked, labels):
  """Chooses the photos that held-out ones are looked for among.

  Args:
    generator: numpy.random.Generator.
    asked: [N] bool, those that are held out.
    labels: [N] int, the class of each.

  Returns:
    [M] int, places: all that are asked with, and others, of their classes
    first.
  """
  wanted = np.isin(labels, labels[asked])
  order = generator.permutation(len(labels))
  rank = np.where(asked, 0, np.where(wanted, 1, 2))[order]
  order = order[np.argsort(rank, kind="stable")]
  return np.sort(order[: max(_MOST_SEARCHED, int(asked.sum()))])
