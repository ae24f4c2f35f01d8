"""Retrieval on a data set with ground truth: rankings, and their metrics."""

import dataclasses
import os
import pathlib

from delf.aggregation import aggregate, aggregate_files
from delf.base import errors, files, progress
from delf.evaluation import ground_truth, metrics
from delf.extraction import feature_files
from delf.indexes import dense, inverted, ranking
from delf.matching import matcher, verify_files

METRICS = "metrics.txt"
# The papers and the original measure the others.
_LEFT_OUT = "easy"


@dataclasses.dataclass(frozen=True)
class LocalFeatureFiles:
  """Where the local features are that pairs are verified with.

  Attributes:
    query_dir: Folder of the queries' files.
    index_dir: Folder of the index images' files.
    extension: Extension of both.
    index_paths: Paths of the index images' files where they are not called
      `<index_dir>/<name><extension>`, or None.
  """

  query_dir: str
  index_dir: str
  extension: str
  index_paths: tuple | None = None


@dataclasses.dataclass(frozen=True)
class RetrieveReport:
  """What came of retrieval.

  Attributes:
    metrics_path: Path of the metrics file.
    evaluation: metrics.Evaluation.
    ids: dict by protocol of [Q, N] int32, ids of index images, best first.
    inliers: dict by protocol of [Q, N] int32, in that order, or empty where
      nothing was verified.
    verification: verify.VerifyReport, or None.
  """

  metrics_path: str
  evaluation: metrics.Evaluation
  ids: dict
  inliers: dict
  verification: verify_files.VerifyReport | None = None

  @property
  def failed(self):
    """Failures of local feature files."""
    return self.verification.failed if self.verification else ()

  @property
  def exit_status(self):
    """Exit status of a program that did this."""
    return 1 if self.failed else 0


def read_truth(path):
  """Reads ground truth that has queries and index images.

  Args:
    path: Path that `ground_truth.read` takes.

  Returns:
    ground_truth.GroundTruth.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: As `ground_truth.read`, or if there are none.
  """
  truth = ground_truth.read(path)
  numbers = len(truth.query_names), len(truth.index_names)
  if not min(numbers):
    raise errors.InputError(
      "queries and index images", "{} and {} of them".format(*numbers), path
    )
  return truth


def search_global(truth, query_dir, index_dir):
  """Ranks all index images by their global descriptors, exactly.

  Args:
    truth: ground_truth.GroundTruth.
    query_dir: Folder with `<name>.delg_global` of each query.
    index_dir: Folder with `<name>.delg_global` of each index image.

  Returns:
    ranking.Ranking of all images. One without a descriptor (too small) is last.

  Raises:
    FileNotFoundError: If a folder is not there.
    InputError: If a file is not there or not right; it names it.
  """
  extension = files.DELG_GLOBAL
  of_queries = feature_files.require(
    truth.query_names, query_dir, extension, "queries"
  )
  of_index = feature_files.require(
    truth.index_names, index_dir, extension, "index images"
  )
  images = dense.DenseIndex()
  descriptors = feature_files.read_globals(of_index, "index images")
  images.add(truth.index_names, descriptors)
  queries = feature_files.read_globals(of_queries, "queries", images.dimension)
  return images.search(queries, len(images))


def evaluate(truth, found, output_dir, local=None, options=None, workers=None):
  """Writes the metrics of a ranking, verified or not.

  With verification, the first 100 images of each query that are not junk are
  re-ranked for each protocol; a pair that both need is verified once, and what
  is verified is recorded in the output folder.

  Args:
    truth: ground_truth.GroundTruth.
    found: ranking.Ranking of all images.
    output_dir: Folder of `metrics.txt`.
    local: LocalFeatureFiles to verify with, or None.
    options: verification.VerifyOptions, or None for the defaults.
    workers: Number of processes, or None: all cores.

  Returns:
    RetrieveReport.

  Raises:
    InputError: If a query has no file of local features; it names it.
    OSError: If files cannot be written.
  """
  # First what may be wrong: not after all has been verified.
  os.makedirs(output_dir, exist_ok=True)
  protocols = [name for name in truth.protocols() if name != _LEFT_OUT]
  ids, inliers = dict.fromkeys(protocols, found.ids), {}
  verified = None
  if local is not None:
    options = options or matcher.VerifyOptions()
    verified = _verify(
      truth, found, protocols, local, options, output_dir, workers
    )
    for protocol in protocols:
      new = ranking.rerank(
        found.ids, found.scores, verified.look_up, _junk(truth, protocol)
      )
      ids[protocol], inliers[protocol] = new.ids, new.inliers
  measured = metrics.evaluate(ids, truth)
  path = os.path.join(output_dir, METRICS)
  metrics.save(measured, path)
  return RetrieveReport(path, measured, ids, inliers, verified)


def say(report, print_line, print_problem):
  """Says what came of retrieval, as the scripts do.

  Args:
    report: RetrieveReport.
    print_line: Function of a line of results.
    print_problem: Function of a line about a file that failed.

  Returns:
    Exit status.
  """
  for failure in report.failed:
    print_problem(str(failure))
  if report.verification is not None:
    print_line(report.verification.summary())
  print_line(files.read_bytes(report.metrics_path).decode().rstrip())
  print_line(f"metrics: {report.metrics_path}")
  return report.exit_status


def _junk(truth, protocol):
  """Returns the ids that a protocol leaves out, an array for each query."""
  return [entry["junk"] for entry in truth.protocols()[protocol]]


def _verify(truth, found, protocols, local, options, folder, workers):
  """Verifies what all protocols need, each pair once."""
  of_queries = feature_files.require(
    truth.query_names, local.query_dir, local.extension, "queries"
  )
  of_index = local.index_paths or feature_files.paths(
    truth.index_names, local.index_dir, local.extension
  )
  chosen = [
    ranking.shortlist(found.ids, _junk(truth, protocol))
    for protocol in protocols
  ]
  return verify_files.verify_pairs(
    ranking.pairs(found.ids, *chosen),
    verify_files.FeatureFiles(truth.query_names, of_queries),
    verify_files.FeatureFiles(truth.index_names, of_index),
    options,
    folder,
    workers,
  )


def search(truth, query_config, index_config, query_dir, index_dir):
  """Ranks all index images by their similarity to each query.

  Images are compared as the index configuration says (alpha, tau, L2
  normalisation), as in the original; that of the queries says what their files
  are.

  Args:
    truth: ground_truth.GroundTruth.
    query_config: AggregationConfig of the queries.
    index_config: AggregationConfig of the index images.
    query_dir: Folder with `<name>.asmk_star`, or as the configuration has it,
      of each query.
    index_dir: Folder with the same of each index image.

  Returns:
    ranking.Ranking of all images. ASMK and ASMK*: -1 without words.

  Raises:
    FileNotFoundError: If a folder is not there.
    InputError: If a file is not there or not right, or the configurations do
      not fit together, or the folders say that codebooks differ.
  """
  _check_same(query_config, index_config)
  _check_codebooks((query_dir, query_config), (index_dir, index_config))
  of_queries = _paths(truth.query_names, query_dir, query_config, "queries")
  of_index = _paths(truth.index_names, index_dir, index_config, "index images")
  images = _read(of_index, index_config, "index images")
  queries = _read(of_queries, index_config, "queries")
  if aggregate.kind_of(index_config) == aggregate.VLAD:
    index = dense.DenseIndex()
    index.add(truth.index_names, [image.descriptors for image in images])
    queries = [query.descriptors for query in queries]
  else:
    options = inverted.AsmkOptions.from_config(index_config)
    index = inverted.InvertedIndex(options)
    index.add(truth.index_names, images)
  return index.search(queries, len(index))


def _check_same(query_config, index_config):
  """Raises an InputError if aggregates cannot be compared."""
  if aggregate.kind_of(query_config) != aggregate.kind_of(index_config):
    raise errors.InputError(
      f"queries of the index's type, {aggregate.kind_of(index_config)}",
      aggregate.kind_of(query_config),
    )
  for name in ("codebook_size", "feature_dimensionality"):
    wanted, found = getattr(index_config, name), getattr(query_config, name)
    if wanted != found:
      raise errors.InputError(
        f"queries of the index's {name}, {wanted}", f"{found}"
      )


def _check_codebooks(*sides):
  """Raises an InputError if words are of two codebooks, as folders tell."""
  found = []
  for folder, config in sides:
    record = aggregate_files.read_record(pathlib.Path(folder))
    record = record.get(aggregate.extension(config), {})
    found.append(record.get("codebook"))
  if None not in found and found[0] != found[1]:
    raise errors.InputError(
      "queries and index images aggregated by one codebook",
      "two codebooks",
      sides[0][0],
    )


def _paths(names, folder, config, what):
  extension = aggregate.extension(config)
  return feature_files.require(names, folder, extension, what)


def _read(paths, config, what):
  """Yields the aggregate of each file."""
  dimension, size = config.feature_dimensionality, config.codebook_size
  for path in progress.track(paths, f"reading {what}"):
    yield aggregate.read(path, dimension, size)
