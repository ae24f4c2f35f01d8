"""Retrieval on a data set with ground truth: rankings, and their metrics."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import numpy as np

from delf.aggregation import aggregate, aggregate_files
from delf.base import errors, files, progress
from delf.evaluation import ground_truth, metrics
from delf.extraction import engine, extract
from delf.indexes import dense, inverted, ranking
from delf.matching import matcher, verification
from delf.protos import aggregation_config_pb2
from delf.search import searching

METRICS = "metrics.txt"
_LABELS = "queries", "index images"

_Verified = verification.VerifyReport | None
_Path = str | os.PathLike
_Print = Callable[[str], None]
_Local = tuple[verification.FeatureFiles, verification.FeatureFiles]


def read_truth(path: _Path) -> ground_truth.GroundTruth:
  """Read ground truth that has queries and index images."""
  truth = ground_truth.read(path)
  numbers = len(truth.query_names), len(truth.index_names)
  if not min(numbers):
    raise errors.InputError(
      "queries and index images", "{} and {} of them".format(*numbers), path
    )
  return truth


def search_global(
  truth: ground_truth.GroundTruth, query_dir: _Path, index_dir: _Path
) -> ranking.Ranking:
  """Rank all index images by their `<name>.delg_global`, exactly.

  An image without a descriptor (too small) is last.
  """
  extensions = files.DELG_GLOBAL, files.DELG_GLOBAL
  of_queries, of_index = _find(truth, (query_dir, index_dir), extensions)
  images = dense.DenseIndex()
  descriptors = extract.read_globals(of_index, "index images")
  images.add(truth.index_names, descriptors)
  queries = extract.read_globals(of_queries, "queries", images.dimension)
  return images.search(queries, len(images))


def _find(truth, folders, extensions):
  """Returns the paths of the files of queries and of index images."""
  names = truth.query_names, truth.index_names
  sides = zip(names, folders, extensions, _LABELS, strict=True)
  return [extract.require_files(*side) for side in sides]


def search_aggregates(
  truth: ground_truth.GroundTruth,
  query_config: aggregation_config_pb2.AggregationConfig,
  index_config: aggregation_config_pb2.AggregationConfig,
  query_dir: _Path,
  index_dir: _Path,
) -> ranking.Ranking:
  """Rank all index images by their aggregated local features.

  Files are `<name>.asmk_star`, or as the configuration has it. Images are
  compared as `index_config` says (alpha, tau, L2 normalisation), as in the
  original. Without words a score is -1. InputError is raised if configurations
  or codebooks differ.
  """
  configurations, folders = (query_config, index_config), (query_dir, index_dir)
  compared = {
    "type": aggregate.kind_of,
    "codebook_size": lambda config: config.codebook_size,
    "feature_dimensionality": lambda config: config.feature_dimensionality,
  }
  for name, get in compared.items():
    value, expected = map(get, configurations)
    if value != expected:
      raise errors.InputError(
        f"queries of the index's {name}, {expected}", value
      )
  extensions = list(map(aggregate.extension, configurations))
  records = [aggregate_files.read_record(pathlib.Path(f)) for f in folders]
  codebooks = {
    record.get(extension, {}).get("codebook")
    for record, extension in zip(records, extensions, strict=True)
  }
  if len(codebooks - {None}) > 1:
    expected = "queries and index images aggregated by one codebook"
    raise errors.InputError(expected, "two codebooks", query_dir)
  sizes = index_config.feature_dimensionality, index_config.codebook_size

  def read(paths, label):
    for path in progress.track(paths, f"reading {label}"):
      yield aggregate.read(path, *sizes)

  paths = _find(truth, folders, extensions)
  queries, images = map(read, paths, _LABELS)
  if aggregate.kind_of(index_config) == aggregate.VLAD:
    index = dense.DenseIndex()
    index.add(truth.index_names, [image.descriptors for image in images])
    queries = [query.descriptors for query in queries]
  else:
    index = inverted.InvertedIndex(
      inverted.AsmkOptions.from_config(index_config)
    )
    index.add(truth.index_names, images)
  return index.search(queries, len(index))


def local_files(
  truth: ground_truth.GroundTruth,
  query_dir: _Path,
  index_dir: _Path,
  extension: str,
) -> _Local:
  """Return the files of local features of queries and of index images.

  Queries must have theirs. That of an index image is `<name>_0` where regions
  were extracted, too.
  """
  paths = extract.require_files(
    truth.query_names, query_dir, extension, "queries"
  )
  names = truth.index_names
  whole = extract.whole_image_paths
  return (
    verification.FeatureFiles(truth.query_names, paths.__getitem__),
    verification.FeatureFiles(
      names, lambda image: whole([names[image]], index_dir, extension)[0]
    ),
  )


@dataclasses.dataclass(frozen=True)
class RetrieveReport:
  """Result of retrieval."""

  metrics_path: str
  evaluation: metrics.Evaluation
  ids: dict[str, np.ndarray]  # [Q, N] int32 by protocol, best first.
  inliers: dict[str, np.ndarray]  # The same; {} without verification.
  verification: _Verified = None

  @property
  def failed(self) -> tuple[engine.Failure, ...]:
    """Files of local features that could not be used."""
    return self.verification.failed if self.verification else ()

  @property
  def exit_status(self) -> int:
    """Exit status of a program that did this."""
    return 1 if self.failed else 0

  def say(self, print_line: _Print, print_problem: _Print) -> int:
    """Print results and problems as the scripts do; return `exit_status`."""
    for failure in self.failed:
      print_problem(str(failure))
    if self.verification is not None:
      print_line(self.verification.summary())
    print_line(files.read_bytes(self.metrics_path).decode().rstrip())
    print_line(f"metrics: {self.metrics_path}")
    return self.exit_status


def evaluate(
  truth: ground_truth.GroundTruth,
  found: ranking.Ranking,
  output_dir: _Path,
  local: _Local | None = None,
  options: matcher.MatchOptions = matcher.DETECT_TO_RETRIEVE,
  workers: int | None = None,
) -> RetrieveReport:
  """Write the metrics of a ranking, verified or not.

  With verification of `local_files`, the first 100 images of each query that
  are not junk are re-ranked for each protocol; a pair that both need is
  verified once, and recorded in the folder. Processes: `workers`, or all cores.
  """
  # First what may be wrong: not after all has been verified.
  os.makedirs(output_dir, exist_ok=True)
  protocols = truth.protocols()
  protocols.pop("easy", None)  # Papers and original measure the others.
  ids, inliers, report = dict.fromkeys(protocols, found.ids), {}, None
  if local is not None:
    junk = [[entry["junk"] for entry in each] for each in protocols.values()]
    orders, report = searching.rerank(
      found, junk, *local, options, folder=output_dir, workers=workers
    )
    for protocol, order in zip(protocols, orders, strict=True):
      ids[protocol], inliers[protocol] = order.ids, order.inliers
  evaluation = metrics.evaluate(ids, truth)
  path = os.path.join(output_dir, METRICS)
  metrics.save(evaluation, path)
  return RetrieveReport(path, evaluation, ids, inliers, report)
