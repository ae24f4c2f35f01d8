"""Evaluation of an index with ground truth, as in the papers."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from delf.base import errors
from delf.evaluation import ground_truth, metrics, report_card
from delf.extraction import engine, extract
from delf.indexes import ranking
from delf.pictures import results_page
from delf.search import searching

METRICS = "metrics.txt"
CARD = "report.json"
_SHOWN = 20  # Results per query on the page.


@dataclasses.dataclass(frozen=True)
class EvaluateReport:
  """Result of an evaluation."""

  card: report_card.ReportCard
  result: searching.SearchResult  # The first results under `protocol`.
  truth: ground_truth.GroundTruth
  protocol: str  # Shown on pages: "medium", or "all".
  # Index images whose features could not be used.
  failed: tuple[engine.Failure, ...]
  # Of an index with regions: the report of whole images alone.
  without_regions: "EvaluateReport | None" = None
  problems: tuple[str, ...] = ()  # Photos that the page of results lacks.


def read_truth(
  path: str | os.PathLike, searcher: searching.Searcher
) -> ground_truth.GroundTruth:
  """Read ground truth whose ids are positions in `searcher.names`."""
  return ground_truth.read(path, tuple(searcher.names))


def find_index_photos(
  path: str | os.PathLike, folder: str | os.PathLike
) -> tuple[list[str], list[str]]:
  """Find paths and names of the photos to be indexed.

  These are the photos that the ground truth `path` lists, none of which may be
  missing, or all photos in the folder if it only labels images by name.
  """
  paths, names = engine.find([folder])
  truth = ground_truth.read(path)
  if not truth.lists_collection:
    return paths, names
  places = ground_truth.ImagePlaces(names)
  names = list(truth.index_names)
  return [paths[places.find(name, folder)] for name in names], names


def find_photos(
  truth: ground_truth.GroundTruth, folder: str | os.PathLike
) -> list[searching.Query]:
  """Find the photos of the queries, with their boxes, in order."""
  paths, names = engine.find([folder])
  places = ground_truth.ImagePlaces(names)
  queries = []
  for name, box in zip(truth.query_names, truth.boxes, strict=True):
    part = None
    if box is not None:
      x1, y1, x2, y2 = map(float, box)
      part = x1, y1, x2, y2
    path = paths[places.find(name, folder)]
    queries.append(searching.Query(name, path, "", part))
  return queries


def find_features(
  truth: ground_truth.GroundTruth, folder: str | os.PathLike
) -> list[searching.Query]:
  """Find the features of the queries, whose names may have an extension.

  Queries are in order; some may lack files. InputError is raised if a name
  fits two files.
  """
  names = extract.find_features([folder])
  stems = sorted(names[0]) if names else []
  places = ground_truth.ImagePlaces(stems)
  chosen = [
    stems[places.find(name, folder)] if name in places else name
    for name in truth.query_names
  ]
  queries = searching.find_features(folder, chosen)
  return [
    dataclasses.replace(query, name=name)
    for query, name in zip(queries, truth.query_names, strict=True)
  ]


def evaluate(
  searcher: searching.Searcher,
  truth: ground_truth.GroundTruth,
  asked: Sequence[searching.Query],
  out: str | os.PathLike,
) -> EvaluateReport:
  """Search with all queries, and write metrics and a report card.

  With re-ranking, the first images that are not junk are matched for each
  protocol, but each pair once. The folder `out` gets `metrics.txt` and
  `report.json`. InputError is raised if a query has no features.
  """
  good, entries, unread = searcher.read(asked)
  if unread:
    text = f"{len(unread)} queries lack features, such as {unread[0]}"
    raise errors.InputError(text)
  first = searcher.rank(entries)
  protocols = truth.protocols()
  rankings: dict[str, Any] = dict.fromkeys(protocols, first)
  failed: tuple[engine.Failure, ...] = ()
  settings = {}
  if searcher.options.verify:
    junk = [[entry["junk"] for entry in each] for each in protocols.values()]
    orders, verified = searcher.rerank(good, first, junk)
    rankings = dict(zip(protocols, orders, strict=True))
    failed = verified.failed
    parts = searcher.options.matching.describe()
    parts = [f"{p} px" if p.startswith("residual") else p for p in parts]
    settings = {"verification": ", ".join(parts)}
  ids = {protocol: ranked.ids for protocol, ranked in rankings.items()}
  measured = metrics.evaluate(ids, truth)
  folders = pathlib.Path(good[0].features).parent, searcher.collection.features
  of_queries, of_index = (extract.read(f / extract.RECORD) for f in folders)
  method = _method(searcher)
  card = report_card.make(measured, method, of_queries, of_index, settings)
  out = pathlib.Path(out)
  metrics.save(measured, out / METRICS)
  report_card.write(card, out / CARD)
  protocol = "medium" if truth.graded else ground_truth.PLAIN_PROTOCOL
  shown = rankings[protocol]
  best = shown.ids[:, :_SHOWN]
  result = searching.SearchResult(
    queries=tuple(good),
    names=tuple(searcher.names),
    photos=searcher.photos,
    ranking=ranking.Ranking(best, shown.scores[:, :_SHOWN]),
    inliers=shown.inliers[:, :_SHOWN] if searcher.options.verify else None,
    method=searcher.method,
    matching=searcher.options.matching,
    failed=failed,
    boxes=searcher.boxes(first, best),
  )
  return EvaluateReport(card, result, truth, protocol, failed)


def write_page(
  report: EvaluateReport,
  searcher: searching.Searcher,
  path: str | os.PathLike,
  without_regions: EvaluateReport | None = None,
) -> results_page.Report:
  """Write a page of metrics, curves, and the results of each query.

  `without_regions` is the report of whole images alone, for comparison.
  """
  labels = report.truth.protocols()[report.protocol]
  places = {name: place for place, name in enumerate(report.result.names)}

  def label(row, name):
    if places[name] in labels[row]["ok"]:
      return results_page.TRUE
    is_junk = places[name] in labels[row]["junk"]
    return results_page.JUNK if is_junk else results_page.FALSE

  card, measured = report.card, report.card.evaluation
  other = without_regions.card if without_regions else None
  return searching.write_page(
    path,
    searcher.collection,
    report.result,
    label,
    [
      "no positives" if np.isnan(x) else f"AP {100 * x:.1f} ({report.protocol})"
      for x in measured.protocols[report.protocol].average_precisions
    ],
    report_card.page_section(card, other),
    f"{measured.dataset}: {card.method}",
  )


def _method(searcher):
  options = searcher.options
  parts = [searcher.method]
  if searcher.has_regions:
    parts.append("regions" if options.regions else "whole images")
  if options.expand:
    parts.append(f"alpha query expansion ({options.expand})")
  if options.refine:
    parts.append(options.refine)
  if options.verify:
    parts.append(f"verification of {options.verify_top}")
  return " + ".join(parts)
