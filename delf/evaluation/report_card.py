"""A report card: what was measured, of what, and how it was made."""

import dataclasses
import importlib.metadata
import json
import math
import platform
import textwrap

import numpy as np

import delf
from delf.base import errors, files
from delf.extraction import output_folder
from delf.pictures import results_page
from delf.search import searching

# Number of distractors of the columns "+1M".
MILLION = 1_000_000

# Queries and images of the data sets that the results are of.
WHOLE = {"roxford5k": (70, 4993), "rparis6k": (70, 6322)}

_GUIDE = "guides of the original, April 2021"
_TABLE = (
  "DELG (Cao et al., ECCV 2020), Table 3, as reprinted in ViTGaL (Phan et al.,"
  " ACCV 2022), Table 1"
)


@dataclasses.dataclass(frozen=True)
class Published:
  """A published result, in percent.

  Attributes:
    method: Words for the method and what it was trained on.
    medium: mAP of the medium protocol.
    hard: mAP of the hard protocol.
    source: Where it is published.
    precisions: dict by protocol of mP at 1, 5 and 10, or {} where none is.
  """

  method: str
  medium: float
  hard: float
  source: str
  precisions: dict = dataclasses.field(default_factory=dict)


def _guide(method, medium, hard, medium_precisions, hard_precisions):
  return Published(
    method,
    medium,
    hard,
    _GUIDE,
    {"medium": medium_precisions, "hard": hard_precisions},
  )


_GUIDES = {
  "roxford5k": (
    _guide(
      "DELF R-ASMK*, 65536 words",
      73.3,
      47.61,
      (97.14, 94.57, 90.14),
      (84.29, 73.71, 64.43),
    ),
    _guide(
      "R50-DELG global (GLDv1)",
      69.71,
      45.11,
      (95.71, 92.0, 86.86),
      (85.71, 72.29, 60.14),
    ),
    _guide(
      "R50-DELG global + verification (GLDv1)",
      75.42,
      53.72,
      (97.14, 95.24, 93.81),
      (91.43, 83.81, 74.38),
    ),
    _guide(
      "RN101-ArcFace global (GLDv2-clean)",
      76.23,
      55.54,
      (95.71, 92.86, 90.43),
      (88.57, 80.86, 70.14),
    ),
  ),
}

# Method; medium and hard of each: Oxford, Oxford +1M, Paris, Paris +1M.
_ROWS = (
  ("HesAff-rSIFT-ASMK* + verification",
   60.6, 36.7, 46.8, 26.9, 61.4, 35.0, 42.3, 16.8),
  ("DELF-ASMK* + verification",
   67.8, 43.1, 53.8, 31.2, 76.9, 55.4, 57.3, 26.4),
  ("DELF-R-ASMK* + verification (GLDv1)",
   76.0, 52.4, 64.0, 38.1, 80.2, 58.6, 59.7, 29.4),
  ("R50-DELG global (GLDv1)",
   69.7, 45.1, 55.0, 27.8, 81.6, 63.4, 59.7, 34.1),
  ("R101-DELG global (GLDv1)",
   73.2, 51.2, 54.8, 30.3, 82.4, 64.7, 61.8, 35.5),
  ("R50-DELG global (GLDv2-clean)",
   73.6, 51.0, 60.6, 32.7, 85.7, 71.5, 68.6, 44.4),
  ("R101-DELG global (GLDv2-clean)",
   76.3, 55.6, 63.7, 37.5, 86.6, 72.4, 70.6, 46.9),
  ("R50-DELG global + verification (GLDv1)",
   75.1, 54.2, 61.1, 36.8, 82.3, 64.9, 60.5, 34.8),
  ("R101-DELG global + verification (GLDv1)",
   78.5, 59.3, 62.7, 39.3, 82.9, 65.5, 62.6, 37.0),
  ("R50-DELG global + verification (GLDv2-clean)",
   78.3, 57.9, 67.2, 43.6, 85.7, 71.0, 69.6, 45.7),
  ("R101-DELG global + verification (GLDv2-clean)",
   81.2, 64.0, 69.1, 47.5, 87.2, 72.8, 71.5, 48.7),
)  # fmt: skip


def rows(dataset, size, distractors=0):
  """Returns what is published for a data set.

  Args:
    dataset: Name of the data set.
    size: Numbers of its queries and of the images that it lists: what is
      published is no measure for a part of it.
    distractors: How many images are searched that it does not list.

  Returns:
    tuple of Published; () for other data sets and numbers of distractors.
  """
  with_million = distractors >= MILLION
  if WHOLE.get(dataset) != size or 0 < distractors < MILLION:
    return ()
  column = 1 + 2 * with_million + 4 * (dataset == "rparis6k")
  table = tuple(
    Published(row[0], row[column], row[column + 1], _TABLE) for row in _ROWS
  )
  return (() if with_million else _GUIDES.get(dataset, ())) + table


# Packages whose versions can change results.
_PACKAGES = ("numpy", "scipy", "opencv-python-headless", "faiss-cpu",
             "tensorflow", "keras")  # fmt: skip
_NAME_WIDTH = 50


@dataclasses.dataclass(frozen=True)
class ReportCard:
  """What was measured, of what, and how it was made.

  Attributes:
    evaluation: evaluation.Evaluation.
    method: Words for the method.
    made_with: dict by kind of feature, as `provenance.describe` gives it; {}
      where it is not known.
    settings: dict of str to plain values: what the search was told.
    versions: dict by package of str.
  """

  evaluation: object
  method: str
  made_with: dict
  settings: dict
  versions: dict


def make(evaluation, method, query_made_with, index_made_with, settings=None):
  """Makes the report card of a search.

  Args:
    evaluation: evaluation.Evaluation.
    method: Words for the method, for example "global + verification".
    query_made_with: What `provenance.describe` gave for the queries' features,
      or None where it is not known.
    index_made_with: The same of the index images.
    settings: dict of plain values that the search was told, or None.

  Returns:
    ReportCard.

  Raises:
    InputError: If queries and index images were not described alike; it says
      how they differ.
  """
  queries, index = query_made_with or {}, index_made_with or {}
  for kind in sorted(set(queries) & set(index)):
    words = output_folder.difference(queries[kind], index[kind])
    if words:
      raise errors.InputError(
        f"queries and index images with {kind} features made alike",
        f"queries {words}",
      )
  return ReportCard(
    evaluation, method, queries | index, dict(settings or {}), versions()
  )


def versions():
  """Returns dict of str: versions of this library and what it runs on."""
  found = {"delf": delf.__version__, "python": platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = "none"
  return found


def text(card):
  """Returns the card for people, with what is published beside it."""
  found = card.evaluation
  return "\n".join(
    [
      f"{found.dataset}: {len(found.query_names)} queries,"
      f" {found.num_images} images{_distractors(found)}",
      f"method: {card.method}",
      "",
      *_metrics(found),
      *_published(card),
      "",
      *_how(card),
      "",
    ]
  )


def document(card):
  """Returns the card as plain values for JSON; NaN as None."""
  found = card.evaluation
  return {
    "dataset": found.dataset,
    "method": card.method,
    "num_queries": len(found.query_names),
    "num_images": found.num_images,
    "distractors": found.distractors,
    "depth": found.depth,
    "ranks": list(found.ranks),
    "protocols": {
      name: _plain(metrics, found) for name, metrics in found.protocols.items()
    },
    "published_percent": [
      dataclasses.asdict(row) for row in published_report_card(found)
    ],
    "made_with": card.made_with,
    "settings": card.settings,
    "versions": card.versions,
  }


def published_report_card(evaluation):
  """Returns published_results.Published of what an evaluation is of.

  Args:
    evaluation: evaluation.Evaluation.

  Returns:
    tuple, () where nothing that is published compares.
  """
  images = evaluation.num_images - evaluation.distractors
  size = len(evaluation.query_names), images
  return rows(evaluation.dataset, size, evaluation.distractors)


def write(card, path):
  """Writes the card as JSON, whole or not at all.

  Args:
    card: ReportCard.
    path: Path of the file.
  """
  data = json.dumps(document(card), indent=2, allow_nan=False)
  files.write_bytes(path, data.encode(), b"\n")


def _distractors(found):
  if not found.distractors:
    return ""
  return f", {found.distractors} of them distractors"


def _metrics(found):
  at = "".join(f"{f'mP@{rank}':>8}" for rank in found.ranks)
  at += "".join(f"{f'mR@{rank}':>8}" for rank in found.ranks)
  yield f"{'protocol':10}{'queries':>8}{'mAP':>8}{at}"
  for name, metrics in found.protocols.items():
    number = len(found.query_names) - len(metrics.left_out)
    values = [
      metrics.mean_average_precision,
      *metrics.mean_precisions,
      *metrics.mean_recalls,
    ]
    yield f"{name:10}{number:8}" + "".join(f"{_percent(v):>8}" for v in values)
  if found.depth < found.num_images:
    yield (
      f"Only the first {found.depth} images of each ranking were given; what"
      " comes later counts as never found."
    )


def _published(card):
  """Yields the published table, this result first."""
  found = card.evaluation
  rows = published_report_card(found)
  if not rows:
    return
  with_million = " with 1M distractors" if found.distractors else ""
  yield ""
  head = f"published{with_million} (mAP, %)"
  yield f"{head:{_NAME_WIDTH}}{'medium':>8}{'hard':>8}"
  own = [
    _percent(found.protocols[name].mean_average_precision)
    if name in found.protocols
    else "-"
    for name in ("medium", "hard")
  ]
  yield f"{'this result':{_NAME_WIDTH}}{own[0]:>8}{own[1]:>8}"
  sources = list(dict.fromkeys(row.source for row in rows))
  for row in rows:
    name = f"{row.method} [{sources.index(row.source) + 1}]"
    yield f"{name:{_NAME_WIDTH}}{row.medium:>8}{row.hard:>8}"
  yield from (f"[{i}] {source}" for i, source in enumerate(sources, start=1))


def _how(card):
  for kind, made in card.made_with.items():
    yield f"{kind} features: {made.get('model_path')}"
    yield f"  model SHA-256: {made.get('model')}"
    yield from _wrapped("  settings: ", " ".join(map(_line, made["settings"])))
  for name, value in card.settings.items():
    yield f"{name}: {value}"
  versions = ", ".join(f"{n} {v}" for n, v in card.versions.items())
  yield from _wrapped("versions: ", versions)


def _line(setting):
  """Returns a line of a text proto as one word of several."""
  return setting.strip().replace(": ", "=")


def _wrapped(head, words):
  indent = " " * len(head)
  return textwrap.wrap(
    head + words, 80, subsequent_indent=indent, break_on_hyphens=False
  )


def _plain(metrics, found):
  """Returns one protocol's metrics, fractions, as plain values."""
  return {
    "mAP": _number(metrics.mean_average_precision),
    "mP": [_number(value) for value in metrics.mean_precisions],
    "mR": [_number(value) for value in metrics.mean_recalls],
    "AP": {
      name: _number(value)
      for name, value in zip(
        found.query_names, metrics.average_precisions, strict=True
      )
    },
    "left_out": list(metrics.left_out),
  }


def _number(value):
  return None if math.isnan(value) else float(value)


def _percent(value):
  return "-" if math.isnan(value) else f"{100 * value:.2f}"


def make_report_page(card, without=None):
  """Returns tables, curves and the report card for a page.

  Args:
    card: report_card.ReportCard.
    without: report_card.ReportCard of the same without regions, or None.

  Returns:
    content.Evaluation: a table by protocol, and one of what is published where
    that compares; percentages.
  """
  found = card.evaluation
  tables = [_by_protocol(card)]
  if without is not None:
    tables.append(_regions(found, without.evaluation))
  published = published_report_card(found)
  if published:
    tables.append(_published_report_page(found, published))
  curves = tuple(
    results_page.Curve(name, metrics.curve_recalls, metrics.curve_precisions)
    for name, metrics in found.protocols.items()
    if np.isfinite(metrics.curve_precisions).all()
  )
  return results_page.Evaluation(tuple(tables), curves, text(card))


def _by_protocol(card):
  found = card.evaluation
  at_ranks = [f"{name}@{rank}" for name in ("mP", "mR") for rank in found.ranks]
  rows = [
    (
      name,
      len(found.query_names) - len(metrics.left_out),
      100 * metrics.mean_average_precision,
      *(100 * metrics.mean_precisions).tolist(),
      *(100 * metrics.mean_recalls).tolist(),
    )
    for name, metrics in found.protocols.items()
  ]
  columns = ("protocol", "queries", "mAP", *at_ranks)
  title = f"{found.dataset}, {card.method} (%)"
  return results_page.Table(title, columns, tuple(rows))


def _regions(found, without):
  rows = [
    (
      name,
      100 * metrics.mean_average_precision,
      100 * without.protocols[name].mean_average_precision,
    )
    for name, metrics in found.protocols.items()
  ]
  return results_page.Table(
    "mAP with and without regions (%)",
    ("protocol", "with regions", "without regions"),
    tuple(rows),
  )


def _published_report_page(found, published):
  own = [
    100 * found.protocols[name].mean_average_precision
    if name in found.protocols
    else None
    for name in ("medium", "hard")
  ]
  rows = [("this result", *own)]
  rows += [(row.method, row.medium, row.hard) for row in published]
  return results_page.Table(
    "mAP beside what is published (%)",
    ("method", "medium", "hard"),
    tuple(rows),
  )


def check_path(path):
  """Raises an InputError, before any work, if a page cannot have that name."""
  searching.check_path(path)


def write_evaluate_page(report, searcher, path, without=None):
  """Writes a page with the metrics, the curves, and each query's results.

  Args:
    report: EvaluateReport.
    searcher: search.Searcher.
    path: Path of the page, `.html`.
    without: EvaluateReport of the same without regions, to compare with, or
      None.

  Returns:
    results_page.Report.
  """
  protocol = report.truth.protocols()[report.shown]
  places = {name: place for place, name in enumerate(report.result.names)}
  metrics = report.card.evaluation.protocols[report.shown]

  def label(row, name):
    if places[name] in protocol[row]["ok"]:
      return results_page.TRUE
    return (
      results_page.JUNK
      if places[name] in protocol[row]["junk"]
      else results_page.FALSE
    )

  notes = [
    "no positives"
    if np.isnan(value)
    else f"AP {100 * value:.1f} ({report.shown})"
    for value in metrics.average_precisions
  ]
  return searching.write(
    path,
    searcher.collection,
    report.result,
    label,
    notes,
    make_report_page(report.card, without and without.card),
    f"{report.card.evaluation.dataset}: {report.card.method}",
  )
