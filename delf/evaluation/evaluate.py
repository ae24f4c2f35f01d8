"""Measuring a collection with ground truth, as the papers do."""

import dataclasses
import pathlib

from delf.base import errors
from delf.evaluation import ground_truth, metrics, report_card
from delf.extraction import engine, feature_files, output_folder
from delf.indexes import ranking
from delf.search import queries, searching

METRICS = "metrics.txt"
CARD = "report.json"
# Results a query on the page.
_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class EvaluateReport:
  """What was measured.

  Attributes:
    card: report_card.ReportCard.
    result: search_result.SearchResult of the protocol that is shown.
    truth: ground_truth.GroundTruth.
    shown: The protocol whose order the result has: "medium", or "all".
    failed: Each index image whose features could not be used.
  """

  card: report_card.ReportCard
  result: searching.SearchResult
  truth: ground_truth.GroundTruth
  shown: str
  failed: tuple[engine.Failure, ...]


def read_truth(path, searcher):
  """Reads ground truth for the images of a collection.

  Args:
    path: Path of a file, see `ground_truth.read`.
    searcher: search.Searcher.

  Returns:
    ground_truth.GroundTruth whose ids are places in `searcher.names`.

  Raises:
    InputError: If the collection lacks images that the file names, or is
      another data set's.
  """
  return ground_truth.read(path, tuple(searcher.names))


def find_index_photos(path, folder):
  """Finds the photos of the collection that ground truth is about.

  Args:
    path: Path of a file, see `ground_truth.read`.
    folder: Folder of photos.

  Returns:
    list of paths and list of names: of ground truth that lists its collection
    those that it lists; of one's own all in the folder.

  Raises:
    InputError: If one is not there.
  """
  found = queries.find([folder])
  truth = ground_truth.read(path)
  if not truth.lists_collection:
    return found.paths, found.names
  places = ground_truth.ImagePlaces(found.names)
  chosen = [places.find(name, folder) for name in truth.index_names]
  return [found.paths[place] for place in chosen], list(truth.index_names)


def find_photos(truth, folder):
  """Finds the photos of the queries, with their boxes.

  Args:
    truth: ground_truth.GroundTruth.
    folder: Folder of photos.

  Returns:
    queries.Photos, in the order of the ground truth.

  Raises:
    InputError: If one is not there.
  """
  found = queries.find([folder])
  places = ground_truth.ImagePlaces(found.names)
  chosen = [places.find(name, folder) for name in truth.query_names]
  boxes = [
    None if box is None else tuple(map(float, box)) for box in truth.boxes
  ]
  return queries.Photos(
    [found.paths[place] for place in chosen], list(truth.query_names), boxes
  )


def find_features(truth, folder):
  """Finds the features of the queries, whose names may have an ending.

  Args:
    truth: ground_truth.GroundTruth.
    folder: Folder of feature files.

  Returns:
    list of queries.Query, in the order of the ground truth; some may lack
    files.

  Raises:
    InputError: If two could be meant.
  """
  names = sorted(feature_files.find([folder])[0])
  places = ground_truth.ImagePlaces(names)
  chosen = [
    names[places.find(name, folder)] if name in places else name
    for name in truth.query_names
  ]
  return [
    dataclasses.replace(query, name=name)
    for query, name in zip(
      queries.of_features(folder, chosen), truth.query_names, strict=True
    )
  ]


def evaluate(searcher, truth, asked, out):
  """Searches with all queries, and writes the metrics and a report card.

  With re-ranking, the first images of each protocol that are not its junk are
  matched; a pair that several protocols need is matched once.

  Args:
    searcher: search.Searcher.
    truth: ground_truth.GroundTruth, as `read_truth` gives it.
    asked: list of queries.Query, one for each query of the ground truth.
    out: Folder for `metrics.txt` and `report.json`.

  Returns:
    EvaluateReport.

  Raises:
    InputError: If a query has no features.
    OSError: If files cannot be written.
  """
  good, entries, failed = searcher.read(asked)
  if failed:
    raise errors.InputError(
      "features of each query", f"{len(failed)} without; first {failed[0]}"
    )
  first = searcher.rank(entries)
  ids, orders, lost = _protocols(searcher, truth, good, first)
  found = metrics.evaluate(ids, truth)
  card = report_card.make(
    found,
    _method(searcher),
    _made_with(pathlib.Path(good[0].features).parent),
    _made_with(searcher.collection.features),
    _settings(searcher.options),
  )
  out = pathlib.Path(out)
  metrics.save(found, out / METRICS)
  report_card.write(card, out / CARD)
  shown = "medium" if truth.graded else ground_truth.PLAIN_PROTOCOL
  order, inliers = orders[shown]
  result = searching.SearchResult(
    queries=tuple(good),
    names=tuple(searcher.names),
    ranking=ranking.Ranking(order.ids[:, :_SHOWN], order.scores[:, :_SHOWN]),
    inliers=None if inliers is None else inliers[:, :_SHOWN],
    method=searcher.method,
    verify=searcher.options.verify,
    failed=lost,
    boxes=searcher.boxes(first, order.ids[:, :_SHOWN]),
  )
  return EvaluateReport(card, result, truth, shown, lost)


def _protocols(searcher, truth, good, first):
  """Returns ids by protocol, (Ranking, inliers) by protocol, and failures."""
  protocols = truth.protocols()
  if not searcher.options.rerank:
    orders = dict.fromkeys(protocols, (first, None))
    return dict.fromkeys(protocols, first.ids), orders, ()
  junk = {
    name: [entry["junk"] for entry in entries]
    for name, entries in protocols.items()
  }
  chosen = [searcher.shortlist(first, each) for each in junk.values()]
  report = searcher.verify(good, first, *chosen)
  ids, orders = {}, {}
  for name, left_out in junk.items():
    new = ranking.rerank(
      first.ids, first.scores, report.look_up, left_out, searcher.options.rerank
    )
    ids[name] = new.ids
    orders[name] = (ranking.Ranking(new.ids, new.scores), new.inliers)
  return ids, orders, report.failed


def _method(searcher):
  options = searcher.options
  words = [searcher.method]
  if searcher.has_regions:
    words.append("whole images" if options.only_whole else "regions")
  if options.expand:
    words.append(f"alpha query expansion ({options.expand})")
  if options.refine:
    words.append(options.refine)
  if options.rerank:
    words.append(f"verification of {options.rerank}")
  return " + ".join(words)


def _settings(options):
  if not options.rerank:
    return {}
  test = "ratio" if options.verify.use_ratio_test else "distance"
  return {
    "verification": f"{test} {options.verify.descriptor_threshold},"
    f" residual {options.verify.residual_threshold} px, seed"
    f" {options.verify.seed}"
  }


def _made_with(folder):
  """Returns what the features of a folder were made with, or None."""
  return output_folder.read(folder / output_folder.RECORD)
