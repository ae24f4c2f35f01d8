"""Report card of a search: metrics, published results, and provenance."""

import dataclasses
import importlib.metadata
import importlib.resources
import json
import math
import os
import platform
import textwrap

import numpy as np

import delf
from delf.base import errors, files
from delf.evaluation import metrics
from delf.extraction import extract
from delf.pictures import results_page

# Numbers of queries and images of the data sets with published results.
WHOLE = {"roxford5k": (70, 4993), "rparis6k": (70, 6322)}

_MILLION = 1_000_000  # Distractors of the results "+1M".
# Packages whose version may change results.
_PACKAGES = ("numpy", "scipy", "opencv-python-headless", "faiss-cpu",
             "tensorflow", "keras")  # fmt: skip
_NAME_WIDTH = 50


@dataclasses.dataclass(frozen=True)
class Published:
  """Published mAP of a method, in percent; `precisions` is mP by protocol."""

  method: str
  medium: float
  hard: float
  source: str
  precisions: dict[str, list[float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ReportCard:
  """Metrics of a search, and their provenance."""

  evaluation: metrics.Evaluation
  method: str  # For example "global + verification".
  made_with: dict[str, dict]  # Of `extract.describe`; {} if unknown.
  settings: dict[str, object]  # Settings of the search, plain values.
  versions: dict[str, str]  # By package.


def make(
  evaluation: metrics.Evaluation,
  method: str,
  query_made_with: dict | None,
  index_made_with: dict | None,
  settings: dict | None = None,
) -> ReportCard:
  """Make the report card of a search.

  Queries and index images are described as by `extract.describe` (None:
  unknown). InputError is raised if their models or settings differ.
  """
  queries, index = query_made_with or {}, index_made_with or {}
  for kind in sorted(set(queries) & set(index)):
    difference = extract.difference(queries[kind], index[kind])
    if difference:
      raise errors.InputError(
        f"the {kind} features of queries and index images were not made alike:"
        f" queries {difference}"
      )
  return ReportCard(
    evaluation, method, queries | index, dict(settings or {}), versions()
  )


def versions() -> dict[str, str]:
  """Return the versions of this library, Python, and its main packages."""
  by_name = {"delf": delf.__version__, "python": platform.python_version()}
  for package in _PACKAGES:
    try:
      by_name[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      by_name[package] = "none"
  return by_name


def published(
  dataset: str, size: tuple[int, int], distractors: int = 0
) -> tuple[Published, ...]:
  """Return the published results that are comparable with a search.

  `size` has the numbers of queries and images, without distractors; parts of a
  data set are not comparable with anything.
  """
  if WHOLE.get(dataset) != size or 0 < distractors < _MILLION:
    return ()
  file = importlib.resources.files("delf.evaluation") / "published.json"
  by_dataset = json.loads(file.read_text(encoding="utf-8"))
  by_source = by_dataset[f"{dataset}+1M" if distractors else dataset]
  return tuple(
    Published(method, medium, hard, source, *precisions)
    for source, rows in by_source.items()
    for method, medium, hard, *precisions in rows
  )


def text(card: ReportCard) -> str:
  """Return the card as text, with published results for comparison."""
  measured, number = card.evaluation, card.evaluation.distractors
  size = f"{len(measured.query_names)} queries, {measured.num_images} images"
  distractors = f", {number} of them distractors" if number else ""
  lines = [
    f"{measured.dataset}: {size}{distractors}",
    f"method: {card.method}",
    "",
    *_metrics_lines(card),
    *_published_lines(measured),
    "",
    *_provenance_lines(card),
  ]
  return "\n".join(lines) + "\n"


def document(card: ReportCard) -> dict:
  """Return the card as plain values for JSON; NaN as None."""
  measured = card.evaluation
  return {
    "dataset": measured.dataset,
    "method": card.method,
    "num_queries": len(measured.query_names),
    "num_images": measured.num_images,
    "distractors": measured.distractors,
    "depth": measured.depth,
    "ranks": list(measured.ranks),
    "protocols": {
      protocol: {
        "mAP": _number(values.mean_average_precision),
        "mP": list(map(_number, values.mean_precisions)),
        "mR": list(map(_number, values.mean_recalls)),
        "AP": {
          name: _number(values.average_precisions[i])
          for i, name in enumerate(measured.query_names)
        },
        "left_out": list(values.left_out),
      }
      for protocol, values in measured.protocols.items()
    },
    "published_percent": list(map(dataclasses.asdict, _comparable(measured))),
    "made_with": card.made_with,
    "settings": card.settings,
    "versions": card.versions,
  }


def write(card: ReportCard, path: str | os.PathLike) -> None:
  """Write the card as JSON, whole or not at all."""
  data = json.dumps(document(card), indent=2, allow_nan=False)
  files.write_bytes(path, data.encode(), b"\n")


def page_section(
  card: ReportCard, without_regions: ReportCard | None = None
) -> results_page.Evaluation:
  """Return tables in percent, curves and the card for a results page."""
  measured = card.evaluation
  tables = [_metrics_table(card)]
  if without_regions is not None:
    both = (measured, without_regions.evaluation)
    rows = tuple(
      (protocol, *(_percent(each, protocol) for each in both))
      for protocol in measured.protocols
    )
    columns = ("protocol", "with regions", "without regions")
    title = "mAP with and without regions (%)"
    tables.append(results_page.Table(title, columns, rows))
  if comparable := _comparable(measured):
    own = ("this result", *_own_percents(measured))
    rows = (own, *((row.method, row.medium, row.hard) for row in comparable))
    title = "mAP and published results (%)"
    columns = ("method", "medium", "hard")
    tables.append(results_page.Table(title, columns, rows))
  curves = tuple(
    results_page.Curve(protocol, values.curve_recalls, values.curve_precisions)
    for protocol, values in measured.protocols.items()
    if np.isfinite(values.curve_precisions).all()
  )
  return results_page.Evaluation(tuple(tables), curves, text(card))


def _comparable(measured):
  images = measured.num_images - measured.distractors
  size = len(measured.query_names), images
  return published(measured.dataset, size, measured.distractors)


def _percent(measured, protocol):
  if protocol not in measured.protocols:
    return None
  return 100 * measured.protocols[protocol].mean_average_precision


def _own_percents(measured):
  return [_percent(measured, protocol) for protocol in ("medium", "hard")]


def _metrics_table(card):
  measured = card.evaluation
  at_ranks = [f"{n}@{rank}" for n in ("mP", "mR") for rank in measured.ranks]
  rows = [
    (
      protocol,
      len(measured.query_names) - len(values.left_out),
      100 * values.mean_average_precision,
      *(100 * values.mean_precisions).tolist(),
      *(100 * values.mean_recalls).tolist(),
    )
    for protocol, values in measured.protocols.items()
  ]
  columns = ("protocol", "queries", "mAP", *at_ranks)
  title = f"{measured.dataset}, {card.method} (%)"
  return results_page.Table(title, columns, tuple(rows))


def _metrics_lines(card):
  table, measured = _metrics_table(card), card.evaluation
  first, *others = table.columns
  yield f"{first:10}" + "".join(f"{column:>8}" for column in others)
  for protocol, queries, *values in table.rows:
    yield f"{protocol:10}{queries:8}" + "".join(map(_cell, values))
  if measured.depth < measured.num_images:
    yield (
      f"Only the first {measured.depth} images of each ranking are measured;"
      " later positives count as not retrieved."
    )


def _published_lines(measured):
  """Yield the table of published results, with this result first."""
  rows = _comparable(measured)
  if not rows:
    return
  with_million = " with 1M distractors" if measured.distractors else ""
  head = f"published{with_million} (mAP, %)"
  yield f"\n{head:{_NAME_WIDTH}}{'medium':>8}{'hard':>8}"
  own = "".join(map(_cell, _own_percents(measured)))
  yield f"{'this result':{_NAME_WIDTH}}{own}"
  sources = list(dict.fromkeys(row.source for row in rows))
  for row in rows:
    name = f"{row.method} [{sources.index(row.source) + 1}]"
    yield f"{name:{_NAME_WIDTH}}{row.medium:>8}{row.hard:>8}"
  yield from (f"[{i}] {source}" for i, source in enumerate(sources, start=1))


def _provenance_lines(card):
  for kind, made in card.made_with.items():
    yield f"{kind} features: {made.get('model_path')}"
    yield f"  model SHA-256: {made.get('model')}"
    # Each is a line of a text proto.
    settings = [s.strip().replace(": ", "=") for s in made["settings"]]
    yield from _wrap("  settings: ", " ".join(settings))
  for name, value in card.settings.items():
    yield f"{name}: {value}"
  by_name = card.versions.items()
  yield from _wrap("versions: ", ", ".join(f"{n} {v}" for n, v in by_name))


def _wrap(head, content):
  indent = " " * len(head)
  return textwrap.wrap(
    head + content, 80, subsequent_indent=indent, break_on_hyphens=False
  )


def _number(value):
  return None if math.isnan(value) else float(value)


def _cell(percent):
  known = percent is not None and not math.isnan(percent)
  return f"{percent:8.2f}" if known else f"{'-':>8}"
