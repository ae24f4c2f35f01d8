"""Retrieval on data sets with ground truth, as the papers' scripts do it."""

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
from delf.search import searching

METRICS = "metrics.txt"
_LABELS = "queries", "index images"

_Verified = verification.VerifyReport | None
_Path = str | os.PathLike
_Print = Callable[[str], None]
_Local = tuple[verification.FeatureFiles, verification.FeatureFiles]


def read_truth(path: _Path) -> ground_truth.GroundTruth:
  """Read ground truth, and check that it has queries and index images."""
  truth = ground_truth.read(path)
  queries, images = len(truth.query_names), len(truth.index_names)
  if not queries or not images:
    text = f"{queries} queries and {images} index images: neither can be 0"
    raise errors.InputError(text, path=path)
  return truth


def search_global(
  truth: ground_truth.GroundTruth, query_dir: _Path, index_dir: _Path
) -> ranking.Ranking:
  """Rank all index images by `<name>.delg_global`, exactly.

  Images without a descriptor (too small) come last.
  """
  extensions = files.DELG_GLOBAL, files.DELG_GLOBAL
  of_queries, of_index = _find(truth, (query_dir, index_dir), extensions)
  images = dense.DenseIndex()
  descriptors = extract.read_globals(of_index, "index images")
  images.add(truth.index_names, descriptors)
  queries = extract.read_globals(of_queries, "queries", images.dimension)
  return images.search(queries, len(images))


def _find(truth, folders, extensions):
  names = truth.query_names, truth.index_names
  sides = zip(names, folders, extensions, _LABELS, strict=True)
  return [extract.require_files(*side) for side in sides]


def search_aggregates(
  truth: ground_truth.GroundTruth,
  query_config: aggregate.Config,
  index_config: aggregate.Config,
  query_dir: _Path,
  index_dir: _Path,
) -> ranking.Ranking:
  """Rank all index images by their aggregated local features.

  Files are `<name>` with the extension of the configuration, as `.asmk_star`.
  Alpha, tau and L2 normalisation are those of `index_config`, as in the
  original. The score of an image without visual words is -1. InputError is
  raised if configurations or codebooks differ.
  """
  configurations, folders = (query_config, index_config), (query_dir, index_dir)
  sizes = index_config.feature_dimensionality, index_config.codebook_size
  for name in ("type", "codebook_size", "feature_dimensionality"):
    value, other = (
      aggregate.kind_of(config) if name == "type" else getattr(config, name)
      for config in configurations
    )
    if value != other:
      raise errors.InputError(
        f"{name} of the queries is {value}, but {other} of the index images"
      )
  extensions = list(map(aggregate.extension, configurations))
  records = [aggregate_files.read_record(pathlib.Path(f)) for f in folders]
  codebooks = {
    record.get(extension, {}).get("codebook")
    for record, extension in zip(records, extensions, strict=True)
  }
  if len(codebooks - {None}) > 1:
    text = "queries and index images were aggregated with two codebooks"
    raise errors.InputError(text, path=query_dir)

  def read(paths, label):
    for path in progress.track(paths, f"reading {label}"):
      yield aggregate.read(path, *sizes)

  paths = _find(truth, folders, extensions)
  queries, images = map(read, paths, _LABELS)
  if aggregate.kind_of(index_config) == aggregate.VLAD:
    index = dense.DenseIndex()
    index.add(truth.index_names, [image.descriptors for image in images])
    return index.search([query.descriptors for query in queries], len(index))
  options = inverted.AsmkOptions.from_config(index_config)
  words = inverted.InvertedIndex(options)
  words.add(truth.index_names, images)
  return words.search(queries, len(words))


def local_files(
  truth: ground_truth.GroundTruth,
  query_dir: _Path,
  index_dir: _Path,
  extension: str,
) -> _Local:
  """Return the files of local features of queries and of index images.

  Those of queries must exist. Index images may have `<name>_0`, with regions.
  """
  queries, names = truth.query_names, truth.index_names
  paths = extract.require_files(queries, query_dir, extension, "queries")

  def whole_image(image):
    return extract.whole_image_paths([names[image]], index_dir, extension)[0]

  return (
    verification.FeatureFiles(queries, paths.__getitem__),
    verification.FeatureFiles(names, whole_image),
  )


@dataclasses.dataclass(frozen=True)
class RetrieveReport:
  """Result of retrieval on a data set."""

  metrics_path: str
  evaluation: metrics.Evaluation
  ids: dict[str, np.ndarray]  # [Q, N] int32 by protocol, best first.
  inliers: dict[str, np.ndarray]  # Shaped alike; {} without verification.
  verification: _Verified = None

  @property
  def failed(self) -> tuple[engine.Failure, ...]:
    """Files of local features that could not be used."""
    return self.verification.failed if self.verification else ()

  def say(self, print_line: _Print, print_problem: _Print) -> int:
    """Print as the scripts do; return their exit status, 1 if files failed."""
    for failure in self.failed:
      print_problem(str(failure))
    if self.verification is not None:
      print_line(self.verification.summary())
    print_line(files.read_bytes(self.metrics_path).decode().rstrip())
    print_line(f"metrics: {self.metrics_path}")
    return 1 if self.failed else 0


def evaluate(
  truth: ground_truth.GroundTruth,
  ranked: ranking.Ranking,
  output_dir: _Path,
  local: _Local | None = None,
  options: matcher.MatchOptions = matcher.DETECT_TO_RETRIEVE,
  workers: int | None = None,
) -> RetrieveReport:
  """Measure a ranking, verified or not, and write `metrics.txt`.

  With `local_files`, the first 100 images of each query that are not junk are
  verified and re-ranked for each protocol, in `workers` processes, by default
  one per core. Pairs are verified once, and recorded in the folder.
  """
  os.makedirs(output_dir, exist_ok=True)  # Before the long verification.
  protocols = truth.protocols()
  protocols.pop("easy", None)  # The papers and the original leave it out.
  ids, inliers, report = dict.fromkeys(protocols, ranked.ids), {}, None
  if local is not None:
    junk = [[entry["junk"] for entry in each] for each in protocols.values()]
    orders, report = searching.rerank(
      ranked, junk, *local, options, folder=output_dir, workers=workers
    )
    for protocol, order in zip(protocols, orders, strict=True):
      ids[protocol], inliers[protocol] = order.ids, order.inliers
  evaluation = metrics.evaluate(ids, truth)
  path = os.path.join(output_dir, METRICS)
  metrics.save(evaluation, path)
  return RetrieveReport(path, evaluation, ids, inliers, report)
