"""Retrieval on a data set with ground truth: rankings, and their metrics."""

import dataclasses
import os

import numpy as np

from delf.python import errors, files
from delf.python.pipelines import retrieval_files, side_cache, verify
from delf.python.retrieval import dense_index, reranking

METRICS = "metrics.txt"
# As in the papers and the original: without easy, and at these ranks.
PROTOCOLS = ("medium", "hard")
PR_RANKS = (1, 5, 10)


@dataclasses.dataclass(frozen=True)
class Truth:
  """A data set with what is relevant to its queries.

  Attributes:
    queries: list of Q str, names of the query images.
    index: list of N str, names of the index images.
    protocols: dict of PROTOCOLS to a list of Q dicts, "ok" and "junk", [n] int
      ids of index images.
  """

  queries: list
  index: list
  protocols: dict

  def junk(self, protocol):
    """Returns the ids that a protocol leaves out, an array for each query."""
    return [truth["junk"] for truth in self.protocols[protocol]]


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
    metrics: dict by protocol of what `revisited_op.dataset.ComputeMetrics`
      returns.
    ids: dict by protocol of [Q, N] int32, ids of index images, best first.
    inliers: dict by protocol of [Q, N] int32, in that order, or empty where
      nothing was verified.
    verification: verify.VerifyReport, or None.
  """

  metrics_path: str
  metrics: dict
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
  """Reads ground truth.

  Args:
    path: Path of a `.mat` or `.pkl` file.

  Returns:
    Truth.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no such file, names images that it does not list, has
      no queries or no index images.
  """
  from delf.python.datasets.revisited_op import dataset

  queries, index, ground_truth = dataset.ReadDatasetFile(path)
  if not len(queries) or not len(index):
    raise errors.InputError(
      "queries and index images",
      f"{len(queries)} queries and {len(index)} index images",
      path,
    )
  _, medium, hard = dataset.ParseEasyMediumHardGroundTruth(ground_truth)
  protocols = dict(zip(PROTOCOLS, (medium, hard), strict=True))
  return Truth([str(q) for q in queries], [str(i) for i in index], protocols)


def search_global(truth, query_dir, index_dir):
  """Ranks all index images by their global descriptors, exactly.

  Args:
    truth: Truth.
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
    truth.queries, query_dir, extension, "queries"
  )
  of_index = retrieval_files.require(
    truth.index, index_dir, extension, "index images"
  )
  images = dense_index.DenseIndex()
  descriptors = retrieval_files.read_globals(of_index, "index images")
  images.add(truth.index, descriptors)
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
    truth: Truth.
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
  from delf.python.datasets.revisited_op import dataset

  # First what may be wrong: not after all has been verified.
  os.makedirs(output_dir, exist_ok=True)
  ids = dict.fromkeys(PROTOCOLS, found.ids)
  inliers, verification_report = {}, None
  if local is not None:
    verification_report = _verify(
      truth, found, output_dir, local, options, workers
    )
    for protocol in PROTOCOLS:
      new = reranking.rerank(
        found.ids,
        found.scores,
        verification_report.look_up,
        truth.junk(protocol),
      )
      ids[protocol], inliers[protocol] = new.ids, new.inliers
  ranks = [rank for rank in PR_RANKS if rank <= len(truth.index)]
  metrics = {
    protocol: dataset.ComputeMetrics(
      ids[protocol], truth.protocols[protocol], ranks
    )
    for protocol in PROTOCOLS
  }
  path = os.path.join(output_dir, METRICS)
  means = (
    {protocol: metric[place] for protocol, metric in metrics.items()}
    for place in range(3)
  )
  dataset.SaveMetricsFile(*means, np.array(ranks), path)
  return RetrieveReport(path, metrics, ids, inliers, verification_report)


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


def _verify(truth, found, output_dir, local, options, workers):
  """Verifies what all protocols need, each pair once."""
  queries = side_cache.FeatureFiles(
    tuple(truth.queries),
    tuple(
      retrieval_files.require(
        truth.queries, local.query_dir, local.extension, "queries"
      )
    ),
  )
  index_paths = local.index_paths or retrieval_files.paths(
    truth.index, local.index_dir, local.extension
  )
  index = side_cache.FeatureFiles(tuple(truth.index), tuple(index_paths))
  chosen = [
    reranking.shortlist(found.ids, truth.junk(protocol))
    for protocol in PROTOCOLS
  ]
  pairs = reranking.pairs(found.ids, *chosen)
  return verify.verify_pairs(
    pairs, queries, index, options, output_dir, workers
  )
