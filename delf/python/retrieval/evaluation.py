"""Metrics of a search, by the protocols of its ground truth."""

import dataclasses

import numpy as np

from delf.python import errors
from delf.python.datasets.revisited_op import dataset
from delf.python.retrieval import precision_recall

# Where precision and recall are measured: those of the papers.
RANKS = (1, 5, 10)


@dataclasses.dataclass(frozen=True)
class ProtocolMetrics:
  """Metrics of Q queries under one protocol; all in [0, 1].

  Attributes:
    mean_average_precision: float, NaN where no query has positives.
    mean_precisions: [R] float64, mean precision at each rank.
    mean_recalls: [R] float64.
    average_precisions: [Q] float64, NaN for a query without positives.
    precisions: [Q, R] float64.
    recalls: [Q, R] float64.
    curve_recalls: [101] float64, levels of recall.
    curve_precisions: [101] float64, mean interpolated precision there.
    left_out: Names of the queries without positives.
  """

  mean_average_precision: float
  mean_precisions: np.ndarray
  mean_recalls: np.ndarray
  average_precisions: np.ndarray
  precisions: np.ndarray
  recalls: np.ndarray
  curve_recalls: np.ndarray
  curve_precisions: np.ndarray
  left_out: tuple


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Metrics of a search.

  Attributes:
    dataset: Name of the data set.
    query_names: tuple of Q str.
    num_images: Size of the collection.
    distractors: How many of these the data set does not list.
    depth: How many images of each ranking were given; positives beyond count
      as never found.
    ranks: [R] int, where precision and recall are measured.
    protocols: dict by protocol of ProtocolMetrics.
  """

  dataset: str
  query_names: tuple
  num_images: int
  distractors: int
  depth: int
  ranks: tuple
  protocols: dict


def evaluate(ids, truth, ranks=RANKS):
  """Measures a search.

  Args:
    ids: [Q, k] int, places of images in the collection, best first, -1 for
      none; or dict by protocol of such arrays, where rankings differ by
      protocol, as after re-ranking without the junk of each.
    truth: ground_truth.GroundTruth of the collection.
    ranks: Where precision and recall are measured; those beyond the size of
      the collection are left out.

  Returns:
    Evaluation; of a dict, with its protocols only.

  Raises:
    InputError: If a ranking has other queries, images that are not in the
      collection, one twice, or fewer images than the ranks ask for; or if a
      protocol is not one of the ground truth's.
  """
  protocols = truth.protocols()
  if not isinstance(ids, dict):
    ids = dict.fromkeys(protocols, ids)
  number = len(truth.index_names)
  ranks = tuple(int(rank) for rank in ranks if rank <= number)
  found = {}
  for protocol, ranking in ids.items():
    if protocol not in protocols:
      raise errors.InputError(
        f"a protocol of {', '.join(protocols)}", str(protocol)
      )
    ranking = _checked(ranking, number)
    found[protocol] = _measure(ranking, protocols[protocol], ranks, truth)
  return Evaluation(
    dataset=truth.dataset,
    query_names=truth.query_names,
    num_images=number,
    distractors=truth.distractors,
    depth=min((np.shape(r)[1] for r in ids.values()), default=0),
    ranks=ranks,
    protocols=found,
  )


def save(evaluation, path):
  """Writes the metrics file of the original, whole or not at all.

  Args:
    evaluation: Evaluation.
    path: Path of the text file.
  """
  by_protocol = evaluation.protocols.items()
  dataset.SaveMetricsFile(
    {name: found.mean_average_precision for name, found in by_protocol},
    {name: found.mean_precisions for name, found in by_protocol},
    {name: found.mean_recalls for name, found in by_protocol},
    evaluation.ranks,
    path,
  )


def _checked(ids, number):
  ids = np.asarray(ids)
  if ids.ndim == 2 and ids.size and ids.max() >= number:
    raise errors.InputError(
      f"rankings of a collection of {number} images", f"image {ids.max()}"
    )
  return ids


def _measure(ids, truth, ranks, names):
  mean, precisions, recalls, *by_query = dataset.ComputeMetrics(
    ids, truth, ranks
  )
  curve = precision_recall.mean_curve(
    ids, [entry["ok"] for entry in truth], [entry["junk"] for entry in truth]
  )
  without = np.flatnonzero(np.isnan(by_query[0]))
  return ProtocolMetrics(
    mean,
    precisions,
    recalls,
    *by_query,
    *curve,
    left_out=tuple(names.query_names[i] for i in without),
  )
