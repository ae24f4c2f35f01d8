"""HTML of an evaluation: tables of metrics, curves and the report card."""

import numbers

import numpy as np

from delf.python.page import markup

# The picture of the curves, in units of its own.
_WIDTH, _HEIGHT = 420, 320
_LEFT, _TOP, _SIDE_X, _SIDE_Y = 48, 12, 356, 260
_MOST_POINTS = 400  # Of a curve; more do not show.
_TICKS = (0, 20, 40, 60, 80, 100)


def section(shown):
  """Returns the section of a content.Evaluation."""
  parts = [_curves(shown.curves)] if shown.curves else []
  tables = "".join(_table(table) for table in shown.tables)
  parts.append(f"<div class=tables>{tables}</div>")
  if shown.report:
    report = markup.escape(shown.report.strip("\n"))
    parts.append(
      "<details><summary>Report card</summary>"
      f"<pre tabindex=0>{report}</pre></details>"
    )
  body = "".join(parts)
  return f'<section id="evaluation"><h2>Evaluation</h2>{body}</section>\n'


def _table(table):
  head = "".join(
    f"<th scope=col>{markup.escape(name)}</th>" for name in table.columns
  )
  rows = "".join(
    f"<tr><th scope=row>{_cell(row[0])}</th>"
    + "".join(f"<td>{_cell(value)}</td>" for value in row[1:])
    + "</tr>"
    for row in table.rows
  )
  return (
    f"<div class=table><table><caption>{markup.escape(table.title)}</caption>"
    f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
  )


def _cell(value):
  if value is None or value != value:
    return "–"
  if isinstance(value, numbers.Real) and not isinstance(
    value, numbers.Integral
  ):
    return f"{value:.2f}"
  return markup.escape(value)


def _curves(curves):
  """Returns precision-recall curves as one drawing and its legend."""
  lines = "".join(
    f'<polyline class="curve c{number % 6}" points="{_points(curve)}"/>'
    for number, curve in enumerate(curves)
  )
  names = "".join(
    f'<li><svg viewBox="0 0 36 8" aria-hidden="true"><line x1="0" y1="4" '
    f'x2="36" y2="4" class="curve c{number % 6}"/></svg>'
    f"{markup.escape(curve.name)}</li>"
    for number, curve in enumerate(curves)
  )
  return (
    f'<figure class="curves"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    f'aria-label="Precision-recall curves">{_axes()}{lines}</svg>'
    f"<ul>{names}</ul><figcaption>Precision by recall, mean of the queries"
    "</figcaption></figure>"
  )


def _axes():
  right, bottom = _LEFT + _SIDE_X, _TOP + _SIDE_Y
  parts = []
  for tick in _TICKS:
    x, y = _LEFT + _SIDE_X * tick / 100, bottom - _SIDE_Y * tick / 100
    parts.append(
      f'<path class="grid" d="M{_LEFT} {y:g}H{right}M{x:g} {_TOP}V{bottom}"/>'
      f'<text x="{_LEFT - 7}" y="{y + 4:g}" class="end">{tick}</text>'
      f'<text x="{x:g}" y="{bottom + 18}" class="mid">{tick}</text>'
    )
  middle = _TOP + _SIDE_Y / 2
  parts.append(
    f'<text x="{_LEFT + _SIDE_X / 2:g}" y="{bottom + 38}" class="mid">'
    "Recall, %</text>"
    f'<text x="12" y="{middle:g}" class="mid" '
    f'transform="rotate(-90 12 {middle:g})">Precision, %</text>'
  )
  return "".join(parts)


def _points(curve):
  recalls = np.asarray(curve.recalls, np.float64)
  number = len(recalls)
  kept = np.unique(
    np.linspace(0, number - 1, min(number, _MOST_POINTS)).round().astype(int)
  )
  x = _LEFT + _SIDE_X * recalls[kept]
  y = _TOP + _SIDE_Y * (1 - np.asarray(curve.precisions, np.float64)[kept])
  return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
