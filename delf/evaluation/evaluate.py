"""Measuring a collection with ground truth, as the papers do."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from delf.base import errors
from delf.evaluation import ground_truth, metrics, report_card
from delf.extraction import engine, extract
from delf.indexes import ranking
from delf.pictures import results_page
from delf.search import searching

METRICS = "metrics.txt"
CARD = "report.json"
_SHOWN = 20  # Results a query on the page.


@dataclasses.dataclass(frozen=True)
class EvaluateReport:
  """Result of an evaluation."""

  card: report_card.ReportCard
  result: searching.SearchResult  # Of the protocol `shown`.
  truth: ground_truth.GroundTruth
  shown: str  # "medium", or "all".
  # Index images whose features could not be used.
  failed: tuple[engine.Failure, ...]


def read_truth(
  path: str | os.PathLike, searcher: searching.Searcher
) -> ground_truth.GroundTruth:
  """Read ground truth whose ids are positions in `searcher.names`."""
  return ground_truth.read(path, tuple(searcher.names))


def find_index_photos(
  path: str | os.PathLike, folder: str | os.PathLike
) -> tuple[list[str], list[str]]:
  """Find paths and names of the photos that ground truth is about.

  Those that the file `path` lists as its collection, none of which may be
  missing; if it labels images by name, all photos in the folder.
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
  """Find the photos of the queries, in order, with their boxes."""
  paths, names = engine.find([folder])
  places = ground_truth.ImagePlaces(names)
  return [
    searching.Query(
      name,
      paths[places.find(name, folder)],
      "",
      None if box is None else tuple(map(float, box)),
    )
    for name, box in zip(truth.query_names, truth.boxes, strict=True)
  ]


def find_features(
  truth: ground_truth.GroundTruth, folder: str | os.PathLike
) -> list[searching.Query]:
  """Find the features of the queries, whose names may have an extension.

  Queries are in order; files of some may be missing. InputError is raised if a
  name fits two files.
  """
  stems = sorted(extract.find_features([folder])[0])
  places = ground_truth.ImagePlaces(stems)
  chosen = [
    stems[places.find(name, folder)] if name in places else name
    for name in truth.query_names
  ]
  found = searching.find_features(folder, chosen)
  return [
    dataclasses.replace(query, name=name)
    for query, name in zip(found, truth.query_names, strict=True)
  ]


def evaluate(
  searcher: searching.Searcher,
  truth: ground_truth.GroundTruth,
  asked: Sequence[searching.Query],
  out: str | os.PathLike,
) -> EvaluateReport:
  """Search with all queries, and write metrics and a report card.

  With re-ranking, the first images of each protocol that are not its junk are
  matched; a pair that several protocols need is matched once. Folder `out` gets
  `metrics.txt` and `report.json`. InputError if a query has no features.
  """
  good, entries, failed = searcher.read(asked)
  if failed:
    raise errors.InputError(
      "features of each query", f"{len(failed)} without; first {failed[0]}"
    )
  first = searcher.rank(entries)
  rankings, inliers, failed = _rank_protocols(searcher, truth, good, first)
  ids = {protocol: ranked.ids for protocol, ranked in rankings.items()}
  measured = metrics.evaluate(ids, truth)
  folders = pathlib.Path(good[0].features).parent, searcher.collection.features
  made = (extract.read(each / extract.RECORD) for each in folders)
  settings = _settings(searcher.options)
  card = report_card.make(measured, _method(searcher), *made, settings)
  out = pathlib.Path(out)
  metrics.save(measured, out / METRICS)
  report_card.write(card, out / CARD)
  shown = "medium" if truth.graded else ground_truth.PLAIN_PROTOCOL
  best = rankings[shown].ids[:, :_SHOWN]
  result = searching.SearchResult(
    queries=tuple(good),
    names=tuple(searcher.names),
    ranking=ranking.Ranking(best, rankings[shown].scores[:, :_SHOWN]),
    inliers=inliers[shown][:, :_SHOWN] if inliers else None,
    method=searcher.method,
    verify=searcher.options.verify,
    failed=failed,
    boxes=searcher.boxes(first, best),
  )
  return EvaluateReport(card, result, truth, shown, failed)


def write_page(
  report: EvaluateReport,
  searcher: searching.Searcher,
  path: str | os.PathLike,
  without_regions: EvaluateReport | None = None,
) -> results_page.Report:
  """Write a page with the metrics, the curves, and the results of each query.

  `without_regions` is the report of whole images alone, to compare with.
  """
  labels = report.truth.protocols()[report.shown]
  places = {name: place for place, name in enumerate(report.result.names)}

  def label(row, name):
    if places[name] in labels[row]["ok"]:
      return results_page.TRUE
    is_junk = places[name] in labels[row]["junk"]
    return results_page.JUNK if is_junk else results_page.FALSE

  def note(value):
    known = f"AP {100 * value:.1f} ({report.shown})"
    return "no positives" if np.isnan(value) else known

  card, measured = report.card, report.card.evaluation
  return searching.write_page(
    path,
    searcher.collection,
    report.result,
    label,
    list(map(note, measured.protocols[report.shown].average_precisions)),
    report_card.page_section(card, without_regions and without_regions.card),
    f"{measured.dataset}: {card.method}",
  )


def _rank_protocols(searcher, truth, good, first):
  """Ranking and inliers by protocol, and failures."""
  protocols = truth.protocols()
  if not searcher.options.rerank:
    return dict.fromkeys(protocols, first), {}, ()
  junk = [[entry["junk"] for entry in each] for each in protocols.values()]
  orders, report = searcher.rerank(good, first, junk)
  rankings = dict(zip(protocols, orders, strict=True))
  inliers = {protocol: order.inliers for protocol, order in rankings.items()}
  return rankings, inliers, report.failed


def _method(searcher):
  options = searcher.options
  parts = [searcher.method]
  if searcher.has_regions:
    parts.append("whole images" if options.only_whole else "regions")
  if options.expand:
    parts.append(f"alpha query expansion ({options.expand})")
  if options.refine:
    parts.append(options.refine)
  if options.rerank:
    parts.append(f"verification of {options.rerank}")
  return " + ".join(parts)


def _settings(options):
  if not options.rerank:
    return {}
  parts = options.verify.describe()
  parts = [f"{p} px" if p.startswith("residual") else p for p in parts]
  return {"verification": ", ".join(parts)}
