"""Training photos as queries and collections, with their features."""

import csv
import dataclasses
import json

import numpy as np

from delf.aggregation import aggregate, kmeans, visual_words
from delf.base import files
from delf.evaluation import ground_truth
from delf.indexes import dense, inverted, ranking
from delf.python import datum_io, feature_io

_POOLS = ("train_pool", "train_pool_more")
_HELD_OUT = 10  # As training.self_supervised.photos has it.
_BIG = 5  # Photos of a group that is big.
_WORDS, _SAMPLE = 4096, 150_000


@dataclasses.dataclass(frozen=True)
class Photos:
  """The photos: paths, and [N] int of the group and the place of each."""

  paths: list
  names: list
  group: np.ndarray
  pool: np.ndarray


@dataclasses.dataclass(frozen=True)
class Fold:
  """Queries and a collection, with rankings and ground truth.

  Attributes:
    queries: [Q, D] float32.
    descriptors: [N, D] float32.
    found: ranking.Ranking of an exact search.
    words: ranking.Ranking by ASMK*.
    truth: GroundTruth.
    held_out: [Q] bool.
    big: [Q] bool.
  """

  queries: np.ndarray
  descriptors: np.ndarray
  found: ranking.Ranking
  words: ranking.Ranking
  truth: ground_truth.GroundTruth
  held_out: np.ndarray
  big: np.ndarray


def read_photos(data):
  """Return the Photos of both training pools."""
  paths, names, group, pool, groups, pools = [], [], [], [], {}, {}
  for folder in (data / name for name in _POOLS):
    entries = json.loads((folder / "groups.json").read_text())["groups"]
    wide = {
      str(entry["landmark_id"]): entry.get("pool")
      for entry in entries.values()
      if "landmark_id" in entry
    }
    with open(folder / "train.csv", newline="") as file:
      for row in csv.DictReader(file):
        own = row["landmark_id"]
        paths.append(folder / "images" / row["url"])
        names.append(f"{folder.name}/{row['id']}")
        group.append(groups.setdefault((folder, own), len(groups)))
        place = (folder, wide.get(own) or own)
        pool.append(pools.setdefault(place, len(pools)))
  return Photos(paths, names, np.array(group), np.array(pool))


def extract(photos, folder):
  """Extract photos missing in the folder; return [N, D] descriptors."""
  from delf.extraction import extract as extraction
  from delf.inference import zoo

  config = zoo.default_config("delf-compact")
  config.use_local_features = config.use_global_features = True
  extraction.extract_to_files(photos.paths, config, folder, names=photos.names)
  return np.stack(
    [
      datum_io.ReadFromFile(folder / f"{name}{files.DELG_GLOBAL}")
      for name in photos.names
    ]
  )


def match_words(photos, folder):
  """Return the ASMK* scores [N, N] of all photos with each other."""
  local = [
    feature_io.ReadFromFile(folder / f"{name}{files.DELF}")[2].astype(
      np.float32
    )
    for name in photos.names
  ]
  return word_scores(local, local, _WORDS)


def word_scores(queries, collection, num_words):
  """Return ASMK* scores, with a codebook of the collection's own descriptors.

  Args:
    queries: list of Q [n, D] float32 descriptors.
    collection: list of N [n, D] float32 descriptors.
    num_words: Size of the codebook.

  Returns:
    [Q, N] float.
  """
  every = np.concatenate([each for each in collection if len(each)])
  sample = np.random.default_rng(0).permutation(len(every))[:_SAMPLE]
  state = kmeans.train(every[np.sort(sample)], num_words, num_iterations=8)
  codebook = visual_words.Words(state.centers)
  index = inverted.InvertedIndex(
    inverted.AsmkOptions(
      dimension=codebook.dimension, codebook_size=len(codebook)
    )
  )
  index.add(
    [str(i) for i in range(len(collection))],
    [aggregate.aggregate(codebook, each) for each in collection],
  )
  aggregates = (aggregate.aggregate(codebook, each) for each in queries)
  return np.stack([index.score_all(each) for each in aggregates])


def make_fold(photos, descriptors, scores, seed):
  """Return the Fold of one draw of queries."""
  order = np.random.default_rng(seed).permutation(len(photos.names))
  counts = np.bincount(photos.group)
  _, first = np.unique(photos.group[order], return_index=True)
  chosen = order[first]
  chosen = chosen[counts[photos.group[chosen]] > 1]
  others = np.setdiff1d(np.arange(len(order)), chosen)
  same = photos.group[chosen][:, None] == photos.group[others]
  near = photos.pool[chosen][:, None] == photos.pool[others]
  none = (np.zeros([0], np.int64),) * len(chosen)
  truth = ground_truth.GroundTruth(
    "training photos",
    tuple(photos.names[i] for i in others),
    tuple(photos.names[i] for i in chosen),
    tuple(map(np.flatnonzero, same)),
    none,
    tuple(map(np.flatnonzero, near & ~same)),
    (None,) * len(chosen),
    graded=False,
  )
  queries, rest = descriptors[chosen], descriptors[others]
  return Fold(
    queries,
    rest,
    dense.search(queries, [rest], len(others)),
    ranking.top_k(scores[np.ix_(chosen, others)]),
    truth,
    photos.pool[chosen] % _HELD_OUT == 7,
    counts[photos.group[chosen]] >= _BIG,
  )
