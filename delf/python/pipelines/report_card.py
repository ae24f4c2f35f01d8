"""A report card: what was measured, of what, and how it was made."""

import dataclasses
import importlib.metadata
import json
import math
import platform
import textwrap

import delf
from delf.python import errors, files
from delf.python.datasets import published_results
from delf.python.pipelines import provenance

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
    words = provenance.difference(queries[kind], index[kind])
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
    "published_percent": [dataclasses.asdict(row) for row in published(found)],
    "made_with": card.made_with,
    "settings": card.settings,
    "versions": card.versions,
  }


def published(evaluation):
  """Returns published_results.Published of what an evaluation is of.

  Args:
    evaluation: evaluation.Evaluation.

  Returns:
    tuple, () where nothing that is published compares.
  """
  images = evaluation.num_images - evaluation.distractors
  size = len(evaluation.query_names), images
  return published_results.rows(
    evaluation.dataset, size, evaluation.distractors
  )


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
  rows = published(found)
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
