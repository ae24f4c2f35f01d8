"""Retrieval on a data set with ground truth: rankings, and their metrics."""

import dataclasses
import os

from delf.python import errors, files
from delf.python.datasets import ground_truth
from delf.python.pipelines import retrieval_files, side_cache, verify
from delf.python.retrieval import (
  dense_index,
  evaluation,
  reranking,
  verification,
)

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
    evaluation: evaluation.Evaluation.
    ids: dict by protocol of [Q, N] int32, ids of index images, best first.
    inliers: dict by protocol of [Q, N] int32, in that order, or empty where
      nothing was verified.
    verification: verify.VerifyReport, or None.
  """

  metrics_path: str
  evaluation: evaluation.Evaluation
  ids: dict
  inliers: dict
  verification: verify.VerifyReport | None = None

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
  of_queries = retrieval_files.require(
    truth.query_names, query_dir, extension, "queries"
  )
  of_index = retrieval_files.require(
    truth.index_names, index_dir, extension, "index images"
  )
  images = dense_index.DenseIndex()
  descriptors = retrieval_files.read_globals(of_index, "index images")
  images.add(truth.index_names, descriptors)
  queries = retrieval_files.read_globals(
    of_queries, "queries", images.dimension
  )
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
    options = options or verification.VerifyOptions()
    verified = _verify(
      truth, found, protocols, local, options, output_dir, workers
    )
    for protocol in protocols:
      new = reranking.rerank(
        found.ids, found.scores, verified.look_up, _junk(truth, protocol)
      )
      ids[protocol], inliers[protocol] = new.ids, new.inliers
  measured = evaluation.evaluate(ids, truth)
  path = os.path.join(output_dir, METRICS)
  evaluation.save(measured, path)
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
  of_queries = retrieval_files.require(
    truth.query_names, local.query_dir, local.extension, "queries"
  )
  of_index = local.index_paths or retrieval_files.paths(
    truth.index_names, local.index_dir, local.extension
  )
  chosen = [
    reranking.shortlist(found.ids, _junk(truth, protocol))
    for protocol in protocols
  ]
  return verify.verify_pairs(
    reranking.pairs(found.ids, *chosen),
    side_cache.FeatureFiles(truth.query_names, of_queries),
    side_cache.FeatureFiles(truth.index_names, of_index),
    options,
    folder,
    workers,
  )
