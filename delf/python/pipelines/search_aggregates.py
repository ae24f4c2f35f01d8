"""Ranking of a data set's images by their aggregates: VLAD, ASMK, ASMK*."""

import pathlib

from delf.python import aggregate_io, aggregation, errors, progress
from delf.python.pipelines import aggregate_folder, retrieval_files
from delf.python.retrieval import asmk_scores, dense_index, inverted_index


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
  if aggregate_io.kind_of(index_config) == aggregation.VLAD:
    index = dense_index.DenseIndex()
    index.add(truth.index_names, [image.descriptors for image in images])
    queries = [query.descriptors for query in queries]
  else:
    options = asmk_scores.AsmkOptions.from_config(index_config)
    index = inverted_index.InvertedIndex(options)
    index.add(truth.index_names, images)
  return index.search(queries, len(index))


def _check_same(query_config, index_config):
  """Raises an InputError if aggregates cannot be compared."""
  if aggregate_io.kind_of(query_config) != aggregate_io.kind_of(index_config):
    raise errors.InputError(
      f"queries of the index's type, {aggregate_io.kind_of(index_config)}",
      aggregate_io.kind_of(query_config),
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
    record = aggregate_folder.read_record(pathlib.Path(folder))
    record = record.get(aggregate_io.extension(config), {})
    found.append(record.get("codebook"))
  if None not in found and found[0] != found[1]:
    raise errors.InputError(
      "queries and index images aggregated by one codebook",
      "two codebooks",
      sides[0][0],
    )


def _paths(names, folder, config, what):
  extension = aggregate_io.extension(config)
  return retrieval_files.require(names, folder, extension, what)


def _read(paths, config, what):
  """Yields the aggregate of each file."""
  dimension, size = config.feature_dimensionality, config.codebook_size
  for path in progress.track(paths, f"reading {what}"):
    yield aggregate_io.read(path, dimension, size)
