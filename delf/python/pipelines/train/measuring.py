"""How well a model matches and finds photos that training has not seen."""

import dataclasses

import numpy as np

from delf.python import progress

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
  from delf.python.retrieval import pair_truth

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
      pair_truth.is_solved(truth, *points, pairs.images[second].shape[1::-1])
      for (_, second, _, truth), points in zip(pairs.true, found, strict=True)
    ]
  )
  is_real = np.array([real for _, _, real, _ in pairs.true])
  counts = [len(points[0]) for points in found]
  return Scores(
    float(pair_truth.average_precision(counts, negative)) if negative else None,
    (int(solved[is_real].sum()), int(is_real.sum())),
    (int(solved[~is_real].sum()), int((~is_real).sum())),
    float(np.median(counts)),
  )


def _extractor(config, use_local):
  """Returns the extraction of local features alone, or of global ones."""
  from delf.python.inference import extractor

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
  from delf.python.inference import zoo, zoo_table

  config = zoo.default_config(zoo_table.EMBEDDED)
  return _descriptors(config, images, "describing photos")


def _draw(path, local, pairs):
  from delf.python import viz

  first, second, *_ = pairs.true[0]
  one, two = local[first], local[second]
  images = pairs.images[first], pairs.images[second]
  found = match(one, two, images[1].shape[:2])
  viz.draw_matches(path, *images, one, two, found)


def match(one, two, size):
  """Matches two photos as they are measured.

  Args:
    one: features.LocalFeatures.
    two: features.LocalFeatures.
    size: (height, width) of the second photo.

  Returns:
    matching.Match.
  """
  from delf.python.retrieval import matching, models

  return matching.match(
    one,
    two,
    ratio=_RATIO,
    estimator=models.HOMOGRAPHY,
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
  from delf.python.datasets import ground_truth
  from delf.python.retrieval import evaluation

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
  found = evaluation.evaluate(ranking, truth)
  metrics = found.protocols[ground_truth.PLAIN_PROTOCOL]
  first = metrics.precisions[~np.isnan(metrics.average_precisions), 0]
  right = (int(round(float(np.nansum(first)))), int(len(first)))
  return dataclasses.replace(
    scores,
    mean_average_precision=metrics.mean_average_precision,
    nearest=right,
  )
