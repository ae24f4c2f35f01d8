"""Retrieval of held-out photos among all single ones of the training photos."""

import collections
import dataclasses
import sys

import numpy as np
import tqdm

from benchmarks.shared import methods, pair_results, retrieval_folds
from delf.evaluation import metrics
from delf.indexes import ranking
from delf.learning import view_pairs

_SIFT_FEATURES, _SIFT_WORDS = 500, 1024
_SAMPLES = 400


@dataclasses.dataclass(frozen=True)
class Queries:
  """Queries, a collection, and the correct results.

  Attributes:
    images: list of Q uint8 [H, W, 3].
    collection: list of N uint8 [H, W, 3].
    positives: list of Q int arrays, images of the same object.
    junk: list of Q int arrays, images to ignore.
    group: [Q] str, "photos" or "views".
  """

  images: list
  collection: list
  positives: list
  junk: list
  group: np.ndarray


def make(training, held_out, views=2, seed=11):
  """Make the queries.

  A held-out photo must find the other photos of its group; views of it
  (cropped, tilted, in other light) must find the photo itself. Other photos of
  the same place are ignored.

  Args:
    training: list of Photo; those alone in their group are distractors.
    held_out: list of Photo.
    views: Number of views of each held-out photo.
    seed: Random seed of the views.

  Returns:
    Queries.
  """
  sizes = collections.Counter(photo.group for photo in training)
  singles = [photo for photo in training if sizes[photo.group] == 1]
  every = singles + held_out  # Equal scores rank the distractors first.
  groups = np.array([photo.group for photo in every])
  pools = np.array([photo.pool for photo in every])
  rng = np.random.default_rng(seed)
  rows = []
  for i, photo in enumerate(held_out, start=len(singles)):
    near = pools == photo.pool
    others = (groups == photo.group) & (np.arange(len(every)) != i)
    if others.any():
      rows.append((photo.image, others, near & ~others, "photos"))
    itself = np.arange(len(every)) == i
    for _ in range(views):
      rows.append((_view(rng, photo.image), itself, near & ~itself, "views"))
  images, positives, junk, group = zip(*rows, strict=True)
  return Queries(
    list(images),
    [photo.image for photo in every],
    list(map(np.flatnonzero, positives)),
    list(map(np.flatnonzero, junk)),
    np.array(group),
  )


def _view(rng, image):
  """Return a part of a photo, seen from another place in other light."""
  size = np.array(image.shape[1::-1])
  side = int(size.min() * rng.uniform(0.5, 0.9))
  middle = size * rng.uniform(0.3, 0.7, 2)
  homography = view_pairs.random_view(
    rng, middle, side, rng.uniform(0.7, 1.4), 0.8
  )
  return view_pairs.change_pixels(
    rng, view_pairs.render(image, homography, side), 1.0
  )


def root_sift_rows(asked):
  """Return (average precision, whether the first is right) by RootSIFT."""

  def describe(image):
    return methods.root_sift(image, _SIFT_FEATURES).descriptors

  local = [describe(i) for i in _track(asked.images, "RootSIFT of queries")]
  others = [describe(i) for i in _track(asked.collection, "RootSIFT")]
  scores = retrieval_folds.word_scores(local, others, _SIFT_WORDS)
  return _judge(asked, scores)


def model_rows(asked, model):
  """Return the same by the global descriptors of a model."""
  function = methods.global_descriptor(model)

  def describe(images, label):
    rows = np.stack([function(image) for image in _track(images, label)])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)

  queries = describe(asked.images, "queries")
  return _judge(asked, queries @ describe(asked.collection, "photos").T)


def _track(images, label):
  return tqdm.tqdm(images, desc=label, file=sys.stderr, mininterval=5)


def _judge(asked, scores):
  """Return (average precision, whether the first is correct) of each query."""
  rows = []
  ids = ranking.top_k(scores).ids
  for row, good, junk in zip(ids, asked.positives, asked.junk, strict=True):
    ranks = metrics.positive_ranks(row, good, junk)
    rows.append((metrics.average_precision(ranks), float(ranks[0] == 0)))
  return rows


def summary(asked, rows, seed=0):
  """Return {group: {figure: Value}}: "mAP" and "first", a share of queries.

  Args:
    asked: Queries.
    rows: As `model_rows` returns them.
    seed: Random seed of the resampling of queries.
  """
  rng = np.random.default_rng(seed)
  result = {}
  for group in dict.fromkeys(asked.group.tolist()):
    own = np.array(rows)[asked.group == group]
    drawn = rng.integers(len(own), size=[_SAMPLES, len(own)])
    means = own.mean(0), own[drawn].mean(1).T
    values = [pair_results.Value(*each) for each in zip(*means, strict=True)]
    result[group] = dict(zip(("mAP", "first"), values, strict=True))
  return result
