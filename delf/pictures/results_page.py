"""Writes search results as one HTML page that needs nothing else."""

import base64
import dataclasses
import hashlib
import html
import importlib.resources
import math
import numbers
import os

import numpy as np

import delf
from delf.base import errors, files
from delf.pictures import figures, thumbnails

# What a result is by the ground truth.
TRUE, JUNK, FALSE = "true", "junk", "false"
LABELS = (TRUE, JUNK, FALSE, None)


@dataclasses.dataclass(frozen=True)
class Result:
  """One result of a query.

  Attributes:
    name: Words for the image.
    path: Path of the image, or None where there is none to show.
    score: Similarity, larger for better.
    inliers: Number of inliers, which verified results are ranked by, or None.
    label: TRUE, JUNK or FALSE by the ground truth, or None without one.
    box: (x1, y1, x2, y2) in pixels of the part that is most like the query, or
      None for the whole image.
    lines: [M, 4] float, (x, y) in the query's photo and (x, y) in this one, in
      pixels of the whole stored images; or None. `match_lines` makes them.
  """

  name: str
  path: str | os.PathLike | None
  score: float
  inliers: int | None = None
  label: str | None = None
  lines: np.ndarray | None = None
  box: tuple[float, float, float, float] | None = None

  def __post_init__(self):
    _check_box(self.box, self.name)
    if self.label not in LABELS:
      raise errors.InputError(f"a label of {LABELS}", repr(self.label))
    if self.lines is None:
      return
    lines = np.asarray(self.lines)
    if lines.ndim != 2 or lines.shape[1] != 4 or not np.isfinite(lines).all():
      raise errors.InputError(
        "lines as finite numbers of shape [M, 4]", f"shape {list(lines.shape)}"
      )


@dataclasses.dataclass(frozen=True)
class Query:
  """A query and its results.

  Attributes:
    name: Words for the query.
    path: Path of its photo, or None where there is none to show.
    results: Sequence of Result, best first.
    box: (x1, y1, x2, y2) in pixels of the part that was asked for, or None for
      the whole photo.
    note: A few words about it, for example its average precision.
  """

  name: str
  path: str | os.PathLike | None
  results: tuple[Result, ...]
  box: tuple[float, float, float, float] | None = None
  note: str = ""

  def __post_init__(self):
    _check_box(self.box, self.name)


def _check_box(box, name):
  if box is None:
    return
  numbers = np.asarray(box, np.float64)
  if numbers.shape != (4,) or not np.isfinite(numbers).all():
    raise errors.InputError("a box of four finite numbers", repr(box), name)


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of metrics.

  Attributes:
    title: Words for what it shows.
    columns: Heads, one for each column.
    rows: Rows of cells: the first of each is its head; str, a number, or None
      for what is not known. Numbers are shown with two decimals, whole ones
      without.
  """

  title: str
  columns: tuple[str, ...]
  rows: tuple[tuple[object, ...], ...]

  def __post_init__(self):
    for row in self.rows:
      if len(row) != len(self.columns):
        raise errors.InputError(
          f"rows of {len(self.columns)} cells", f"one of {len(row)}", self.title
        )


@dataclasses.dataclass(frozen=True)
class Curve:
  """A precision-recall curve.

  Attributes:
    name: Words for it, for example the protocol.
    recalls: [N] float in [0, 1], rising.
    precisions: [N] float in [0, 1].
  """

  name: str
  recalls: np.ndarray
  precisions: np.ndarray

  def __post_init__(self):
    points = np.array([self.recalls, self.precisions], np.float64)
    inside = np.all((points >= 0) & (points <= 1))
    if points.ndim != 2 or not inside or np.any(np.diff(points[0]) < 0):
      raise errors.InputError(
        "rising recalls, and precisions, all in [0, 1]", "others", self.name
      )


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What an evaluation adds to the page.

  Attributes:
    tables: Table of each kind of metric.
    curves: Curve of each protocol, drawn into one picture.
    report: Text of the report card, shown as it stands.
  """

  tables: tuple[Table, ...] = ()
  curves: tuple[Curve, ...] = ()
  report: str = ""


def match_lines(features_1, features_2, match, offset=(0.0, 0.0)):
  """Returns the lines of a match for `Result.lines`, weakest first.

  Args:
    features_1: features.LocalFeatures of the query.
    features_2: features.LocalFeatures of the result.
    match: matching.Match of them.
    offset: (y, x) in pixels of the query's features in its photo: the upper
      left corner of the box where the photo was cropped to one.

  Returns:
    [M, 4] float32, (x, y) in the query's photo and (x, y) in the result.
  """
  order = np.argsort(match.strengths, kind="stable")
  pairs = np.asarray(match.inliers)[order]
  first = np.reshape(features_1.locations, [-1, 2])[pairs[:, 0]] + offset
  second = np.reshape(features_2.locations, [-1, 2])[pairs[:, 1]]
  lines = [first[:, ::-1], second[:, ::-1]]
  return np.concatenate(lines, axis=1, dtype=np.float32)


# Symbol and word, so that no mark is told by its colour alone.
_MARKS = {
  TRUE: "✓ true",
  FALSE: "✗ false",
  JUNK: "○ junk",
}
_PLACES = 65535  # Lines are held as 16-bit shares of the photos' sides.


def escape(text):
  """Returns a text for HTML, between tags or as a quoted value of a tag."""
  return html.escape(str(text), quote=True)


def photo(thumbnail, data):
  """Returns the script that holds a copy; it is data, and never run."""
  number = thumbnail.number
  return f'<script type="text/plain" id="t{number}">{data}</script>\n'


def query_markup(number, asked, thumbnail, results):
  """Returns the section of a query.

  Args:
    number: Place of the query in the page, from 1.
    asked: content.Query.
    thumbnail: thumbnails.Thumbnail of its photo.
    results: List of thumbnails.Thumbnail of the results.

  Returns:
    str.
  """
  items = "".join(
    _result(rank, found, small, thumbnail)
    for rank, (found, small) in enumerate(
      zip(asked.results, results, strict=True), 1
    )
  )
  first = next(
    (each.label for each in asked.results if each.label != JUNK), None
  )
  note = f"<p>{escape(asked.note)}</p>" if asked.note else ""
  body = f"<ol>{items}</ol>" if items else "<p class=none>No results.</p>"
  return (
    f'<section class="query" id="q{number}" data-name="{escape(asked.name)}" '
    f'data-first="{first or ""}">'
    f"<header><h2><a href=#q{number}>{number}</a> "
    f'<bdi title="{escape(asked.name)}">{escape(asked.name)}</bdi></h2>'
    f"<figure>{_image(thumbnail)}{_box(asked.box, thumbnail)}</figure>{note}"
    f"</header>{body}</section>\n"
  )


def number_text(value):
  """Returns a score for people, in four digits; below 0.01 in three."""
  if not math.isfinite(value):
    return "–"
  return f"{value:.4g}" if abs(value) >= 0.01 else f"{value:.3g}"


def _result(rank, found, thumbnail, asked):
  label = found.label or ""
  mark = f"<b>{_MARKS[label]}</b>" if label else ""
  words = f"<span>score {number_text(found.score)}</span>"
  if found.inliers is not None:
    # Before the score: what is verified is ranked by them.
    plural = "" if found.inliers == 1 else "s"
    words = f"<span>{found.inliers} inlier{plural}</span> {words}"
  if found.box is not None:
    words += " <span>by region</span>"
  name = escape(found.name)
  return (
    f'<li class="{label}"><button type="button"'
    f'{_lines(found.lines, asked, thumbnail)} title="{name}" '
    f'aria-label="Compare with result {rank}">'
    f"{_image(thumbnail)}{_box(found.box, thumbnail)}</button>"
    f"<p><i>{rank}</i>{mark}</p><p class=name><bdi>{name}</bdi></p>"
    f"<p class=score>{words}</p></li>"
  )


def _image(thumbnail):
  if thumbnail.number is None:
    return "<span class=missing>no photo</span>"
  return (
    f'<img data-t="{thumbnail.number}" alt="" '
    f'width="{thumbnail.width}" height="{thumbnail.height}">'
  )


def _box(box, thumbnail):
  """Returns the frame of the part that was asked for."""
  if box is None or thumbnail.number is None:
    return ""
  width, height = thumbnail.width, thumbnail.height
  x1, y1, x2, y2 = np.clip(box, 0, [width, height, width, height]).tolist()
  if [x1, y1, x2, y2] == [0, 0, width, height]:
    return ""
  return (
    f'<svg class="box" viewBox="0 0 {width} {height}" aria-hidden="true">'
    f'<rect x="{x1:.1f}" y="{y1:.1f}" '
    f'width="{max(x2 - x1, 0):.1f}" height="{max(y2 - y1, 0):.1f}"/></svg>'
  )


def _lines(lines, asked, thumbnail):
  """Returns the attribute with the lines of a match, as base64."""
  if lines is None or None in (asked.number, thumbnail.number):
    return ""
  lines = np.asarray(lines, np.float64)
  # Pixel centres are at integers, so that a photo starts at -0.5.
  shares = (lines + 0.5) / [
    asked.width, asked.height, thumbnail.width, thumbnail.height
  ]  # fmt: skip
  width = asked.width / asked.height
  chosen = figures.choose(
    shares[:, :2] * [width, 1], np.arange(len(lines)), width
  )
  places = np.rint(np.clip(shares[chosen], 0, 1) * _PLACES).astype("<u2")
  return f' data-l="{base64.b64encode(places.tobytes()).decode("ascii")}"'


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
    report = escape(shown.report.strip("\n"))
    parts.append(
      "<details><summary>Report card</summary>"
      f"<pre tabindex=0>{report}</pre></details>"
    )
  body = "".join(parts)
  return f'<section id="evaluation"><h2>Evaluation</h2>{body}</section>\n'


def _table(table):
  head = "".join(f"<th scope=col>{escape(name)}</th>" for name in table.columns)
  rows = "".join(
    f"<tr><th scope=row>{_cell(row[0])}</th>"
    + "".join(f"<td>{_cell(value)}</td>" for value in row[1:])
    + "</tr>"
    for row in table.rows
  )
  return (
    f"<div class=table><table><caption>{escape(table.title)}</caption>"
    f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
  )


def _cell(value):
  if value is None or value != value:
    return "–"
  if isinstance(value, numbers.Real) and not isinstance(
    value, numbers.Integral
  ):
    return f"{value:.2f}"
  return escape(value)


def _curves(curves):
  """Returns precision-recall curves as one drawing and its legend."""
  lines = "".join(
    f'<polyline class="curve c{number % 6}" points="{_points(curve)}"/>'
    for number, curve in enumerate(curves)
  )
  names = "".join(
    f'<li><svg viewBox="0 0 36 8" aria-hidden="true"><line x1="0" y1="4" '
    f'x2="36" y2="4" class="curve c{number % 6}"/></svg>'
    f"{escape(curve.name)}</li>"
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


_EXTENSIONS = (".html", ".htm")


@dataclasses.dataclass(frozen=True)
class Report:
  """What was written.

  Attributes:
    queries: Number of queries.
    results: Number of results of all of them.
    photos: Number of photos that the page holds.
    size: Size of the page, in bytes.
    problems: One line for each photo that could not be shown.
  """

  queries: int
  results: int
  photos: int
  size: int
  problems: tuple[str, ...]


def check_path(path):
  """Refuses a name that no page can have, before any work is done.

  Args:
    path: File to be.

  Raises:
    InputError: If it does not end in .html or .htm, or is a folder.
  """
  if not os.fspath(path).lower().endswith(_EXTENSIONS):
    raise errors.InputError("a name that ends in .html", os.fspath(path))
  if os.path.isdir(path):
    raise errors.InputError("a file or a new name", "a folder", path)


def write(path, title, queries, evaluation=None, options=None):
  """Writes a page of queries with their results.

  The page holds small copies of all photos, and fetches nothing. A photo that
  cannot be read is shown as missing, and reported. At any moment one query is
  in memory, beside a few bytes for each photo.

  Args:
    path: File to be, .html; written whole or not at all.
    title: Words for the head of the page.
    queries: Iterable of content.Query; each is written before the next is
      asked for.
    evaluation: content.Evaluation to show before them, or None.
    options: thumbnails.Options, or None for the defaults.

  Returns:
    Report.

  Raises:
    InputError: If the name is none for a page.
    OSError: If it cannot be written; it names the path.
  """
  check_path(path)
  photos = thumbnails.Thumbnails(options or thumbnails.Options())
  start, end = _frame(title)
  number = results = 0
  with files.atomic_path(path) as temporary:
    # A file name that is no UTF-8 is shown with its bytes as \udcXX.
    with open(
      temporary, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
    ) as file:
      file.write(start)
      if evaluation is not None:
        file.write(section(evaluation))
      for number, query in enumerate(queries, 1):
        _write_query(file, number, query, photos)
        results += len(query.results)
      file.write(end)
    size = os.path.getsize(temporary)
  return Report(number, results, photos.number, size, tuple(photos.problems))


def _write_query(file, number, query, photos):
  """Writes what the page does not hold yet of a query's photos, and it."""
  small = []
  for path in (query.path, *(each.path for each in query.results)):
    thumbnail, data = photos.add(path)
    small.append(thumbnail)
    if data is not None:
      file.write(photo(thumbnail, data))
  file.write(query_markup(number, query, small[0], small[1:]))


def _frame(title):
  """Returns what comes before and after the content of a page."""
  parts = {
    name: _resource(f"page.{name}").strip() for name in ("css", "js", "html")
  }
  # Of all scripts and styles the browser runs these two alone, by their hash.
  policy = (
    "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
    f"style-src {_hash(parts['css'])}; script-src {_hash(parts['js'])}"
  )
  values = {
    "POLICY": policy,
    "STYLE": parts["css"],
    "SCRIPT": parts["js"],
    "TITLE": escape(title),
    "VERSION": escape(delf.__version__),
  }
  # Cut first, filled after: what a value holds is never taken for a mark.
  pieces = parts["html"].split("%%")
  filled = [values.get(piece, piece) for piece in pieces]
  middle = pieces.index("CONTENT")
  return "".join(filled[:middle]), "".join(filled[middle + 1 :]) + "\n"


def _resource(name):
  folder = importlib.resources.files("delf.pictures")
  return (folder / name).read_text(encoding="utf-8")


def _hash(text):
  digest = hashlib.sha256(text.encode("utf-8")).digest()
  return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
