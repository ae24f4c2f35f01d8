"""Report card of a search: what was measured, on what, and how it was made."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import textwrap

import numpy as np

import delf
from delf.base import errors, files
from delf.evaluation import metrics
from delf.extraction import output_folder
from delf.pictures import results_page

# Queries and images of the data sets that published results are of.
WHOLE = {"roxford5k": (70, 4993), "rparis6k": (70, 6322)}

_MILLION = 1_000_000  # Distractors of the columns "+1M".
# Packages whose versions can change results.
_PACKAGES = ("numpy", "scipy", "opencv-python-headless", "faiss-cpu",
             "tensorflow", "keras")  # fmt: skip
_NAME_WIDTH = 50

_GUIDE = "guides of the original, April 2021"
# Method; mAP medium and hard; mP at 1, 5 and 10 medium, then hard.
_GUIDE_ROWS = {
  "roxford5k": (
    ("DELF R-ASMK*, 65536 words", 73.3, 47.61,
     (97.14, 94.57, 90.14), (84.29, 73.71, 64.43)),
    ("R50-DELG global (GLDv1)", 69.71, 45.11,
     (95.71, 92.0, 86.86), (85.71, 72.29, 60.14)),
    ("R50-DELG global + verification (GLDv1)", 75.42, 53.72,
     (97.14, 95.24, 93.81), (91.43, 83.81, 74.38)),
    ("RN101-ArcFace global (GLDv2-clean)", 76.23, 55.54,
     (95.71, 92.86, 90.43), (88.57, 80.86, 70.14)),
  ),
}  # fmt: skip
_TABLE = (
  "DELG (Cao et al., ECCV 2020), Table 3, as reprinted in ViTGaL (Phan et al.,"
  " ACCV 2022), Table 1"
)
# Method; mAP medium and hard of each: Oxford, Oxford +1M, Paris, Paris +1M.
_TABLE_ROWS = (
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


@dataclasses.dataclass(frozen=True)
class Published:
  """Published mAP of a method, in percent; `precisions` is mP by protocol."""

  method: str
  medium: float
  hard: float
  source: str
  precisions: dict[str, tuple[float, ...]] = dataclasses.field(
    default_factory=dict
  )


@dataclasses.dataclass(frozen=True)
class ReportCard:
  """Metrics of a search, and how they came about."""

  evaluation: metrics.Evaluation
  method: str  # For example "global + verification".
  made_with: dict[str, dict]  # As `output_folder.describe`; {} if unknown.
  settings: dict[str, object]  # Of the search, plain values.
  versions: dict[str, str]  # Of packages.


def make(
  evaluation: metrics.Evaluation,
  method: str,
  query_made_with: dict | None,
  index_made_with: dict | None,
  settings: dict | None = None,
) -> ReportCard:
  """Make the report card of a search.

  Args:
    query_made_with: What `output_folder.describe` returned for the features of
      the queries, or None where it is unknown.
    index_made_with: The same for the index images; an InputError is raised if
      models or settings differ.
  """
  queries, index = query_made_with or {}, index_made_with or {}
  for kind in sorted(set(queries) & set(index)):
    difference = output_folder.difference(queries[kind], index[kind])
    if difference:
      raise errors.InputError(
        f"queries and index images with {kind} features made alike",
        f"queries {difference}",
      )
  return ReportCard(
    evaluation, method, queries | index, dict(settings or {}), versions()
  )


def versions() -> dict[str, str]:
  """Return the versions of this library and of what it runs on."""
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
  """Return the published results that a search can be compared with.

  Args:
    dataset: Name of the data set.
    size: Numbers of queries and of images, without distractors; nothing is
      comparable with a part of a data set.
    distractors: Number of further images that are searched.
  """
  if WHOLE.get(dataset) != size or 0 < distractors < _MILLION:
    return ()
  with_million = distractors >= _MILLION
  column = 1 + 2 * with_million + 4 * (dataset == "rparis6k")
  rows = [
    Published(method, medium, hard, _GUIDE, {"medium": at_m, "hard": at_h})
    for method, medium, hard, at_m, at_h in _GUIDE_ROWS.get(dataset, ())
    if not with_million
  ]
  rows += [
    Published(row[0], row[column], row[column + 1], _TABLE)
    for row in _TABLE_ROWS
  ]
  return tuple(rows)


def text(card: ReportCard) -> str:
  """Return the card as text, with published results beside it."""
  measured = card.evaluation
  distractors = f", {measured.distractors} of them distractors"
  return "\n".join(
    [
      f"{measured.dataset}: {len(measured.query_names)} queries,"
      f" {measured.num_images} images"
      f"{distractors if measured.distractors else ''}",
      f"method: {card.method}",
      "",
      *_metrics_lines(card),
      *_published_lines(measured),
      "",
      *_provenance_lines(card),
      "",
    ]
  )


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
        "AP": dict(
          zip(
            measured.query_names,
            map(_number, values.average_precisions),
            strict=True,
          )
        ),
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
    others = without_regions.evaluation.protocols
    rows = [
      (
        protocol,
        100 * values.mean_average_precision,
        100 * others[protocol].mean_average_precision,
      )
      for protocol, values in measured.protocols.items()
    ]
    tables.append(
      results_page.Table(
        "mAP with and without regions (%)",
        ("protocol", "with regions", "without regions"),
        tuple(rows),
      )
    )
  comparable = _comparable(measured)
  if comparable:
    rows = [(row.method, row.medium, row.hard) for row in comparable]
    tables.append(
      results_page.Table(
        "mAP beside what is published (%)",
        ("method", "medium", "hard"),
        (("this result", *_own_percents(measured)), *rows),
      )
    )
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


def _own_percents(measured):
  """Medium and hard mAP in percent, None where a protocol was not measured."""
  return [
    100 * measured.protocols[protocol].mean_average_precision
    if protocol in measured.protocols
    else None
    for protocol in ("medium", "hard")
  ]


def _metrics_table(card):
  measured = card.evaluation
  at_ranks = [
    f"{name}@{rank}" for name in ("mP", "mR") for rank in measured.ranks
  ]
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
      f"Only the first {measured.depth} images of each ranking were given;"
      " what comes later counts as never found."
    )


def _published_lines(measured):
  """The published table, with this result first."""
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
