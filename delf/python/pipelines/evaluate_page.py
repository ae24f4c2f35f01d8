"""A page to look at what an evaluation has found."""

import numpy as np

from delf.python.page import content
from delf.python.pipelines import report_page, search_page


def check_path(path):
  """Raises an InputError, before any work, if a page cannot have that name."""
  search_page.check_path(path)


def write(report, searcher, path, without=None):
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
      return content.TRUE
    return (
      content.JUNK if places[name] in protocol[row]["junk"] else content.FALSE
    )

  notes = [
    "no positives"
    if np.isnan(value)
    else f"AP {100 * value:.1f} ({report.shown})"
    for value in metrics.average_precisions
  ]
  return search_page.write(
    path,
    searcher.collection,
    report.result,
    label,
    notes,
    report_page.make(report.card, without and without.card),
    f"{report.card.evaluation.dataset}: {report.card.method}",
  )
