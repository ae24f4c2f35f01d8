"""What an evaluation adds to a page of results."""

import numpy as np

from delf.python.page import content
from delf.python.pipelines import report_card


def make(card, without=None):
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
  published = report_card.published(found)
  if published:
    tables.append(_published(found, published))
  curves = tuple(
    content.Curve(name, metrics.curve_recalls, metrics.curve_precisions)
    for name, metrics in found.protocols.items()
    if np.isfinite(metrics.curve_precisions).all()
  )
  return content.Evaluation(tuple(tables), curves, report_card.text(card))


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
  return content.Table(title, columns, tuple(rows))


def _regions(found, without):
  rows = [
    (
      name,
      100 * metrics.mean_average_precision,
      100 * without.protocols[name].mean_average_precision,
    )
    for name, metrics in found.protocols.items()
  ]
  return content.Table(
    "mAP with and without regions (%)",
    ("protocol", "with regions", "without regions"),
    tuple(rows),
  )


def _published(found, published):
  own = [
    100 * found.protocols[name].mean_average_precision
    if name in found.protocols
    else None
    for name in ("medium", "hard")
  ]
  rows = [("this result", *own)]
  rows += [(row.method, row.medium, row.hard) for row in published]
  return content.Table(
    "mAP beside what is published (%)",
    ("method", "medium", "hard"),
    tuple(rows),
  )
