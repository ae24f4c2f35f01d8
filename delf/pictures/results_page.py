"""Search results as one self-contained HTML page."""

import base64
import dataclasses
import hashlib
import html
import importlib.resources
import io
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

import delf
from delf.base import errors, files
from delf.formats import features
from delf.python import utils

_QUALITY = 72
# Photos are decoded at least at this multiple of the copy's size, for quality.
_OVERSAMPLING = 2


@dataclasses.dataclass(frozen=True)
class Options:
  """Sizes of thumbnails, longer sides in pixels, and rotation of photos."""

  side: int = 160
  large_side: int = 480  # Used until the JPEGs of a page have `large_bytes`.
  large_bytes: int = 6_000_000
  apply_rotation: bool = False  # By EXIF, as when features were extracted.


@dataclasses.dataclass(frozen=True)
class Thumbnail:
  """A small copy: its number in the page, and the size of the photo."""

  number: int | None = None  # None if the photo cannot be shown.
  width: int = 4
  height: int = 3


class Thumbnails:
  """Creates copies; keeps their numbers but not their content."""

  def __init__(self, options: Options):
    self._options = options
    self._known: dict[str | None, Thumbnail] = {None: Thumbnail()}
    self._bytes = 0
    self.number = 0  # Of created copies.
    self.problems: list[str] = []  # A line for each photo that cannot be shown.

  def add(self, path: str | os.PathLike | None) -> tuple[Thumbnail, str | None]:
    """Return the copy of a photo, and its JPEG in base64 if it is new."""
    key = None if path is None else os.fspath(path)
    if key in self._known:
      return self._known[key], None
    try:
      size, data = self._make(key)
    except (OSError, errors.InputError) as error:
      self.problems.append(errors.one_line(error))
      return self._known.setdefault(key, Thumbnail()), None
    copy = self._known[key] = Thumbnail(self.number, *size)
    self.number += 1
    self._bytes += len(data)
    return copy, _base64(data)

  def _make(self, path):
    """Return (width, height) of a photo, and the copy as JPEG."""
    options = self._options
    large = self._bytes < options.large_bytes
    side = max(options.large_side if large else 0, options.side)
    height, width = utils.image_size(path)
    photo = utils.RgbLoader(
      path,
      apply_rotation=options.apply_rotation,
      at_least=fit(width, height, side * _OVERSAMPLING),
    )
    if (photo.width > photo.height) != (width > height):  # Turned by EXIF.
      width, height = height, width
    size = fit(width, height, side)
    copy = photo.resize(size, resample=Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    copy.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return (width, height), buffer.getvalue()


def fit(width: int, height: int, side: int) -> tuple[int, int]:
  """Return (width, height), shrunk if the longer one is over `side`."""
  factor = min(1.0, side / max(width, height))
  return max(1, round(width * factor)), max(1, round(height * factor))


# Labels of results, from ground truth.
TRUE, JUNK, FALSE = "true", "junk", "false"

Path = str | os.PathLike | None
Box = tuple[float, float, float, float] | None

# Symbol and text, so that labels do not differ by colour alone.
_MARKS = {TRUE: "✓ true", FALSE: "✗ false", JUNK: "○ junk"}
_PLACES = 65535  # Lines are stored as 16-bit fractions of the photos' sides.
_EXTENSIONS = (".html", ".htm")
# Size of the picture of curves, and the area inside of the axes of page.svg.
_WIDTH, _HEIGHT = 420, 320
_LEFT, _TOP, _SIDE_X, _SIDE_Y = 48, 12, 356, 260
MAX_LINES = 100  # More would hide the photos and each other.
_GRID = 8  # Cells along each side of image 1 over which lines are spread.
_MAX_POINTS = 400  # Of a curve; more would not be visible.


@dataclasses.dataclass(frozen=True)
class Result:
  """One result of a query."""

  name: str
  path: Path  # None if there is no photo to show.
  score: float
  inliers: int | None = None  # Of a verified search, which ranks by them.
  label: str | None = None  # TRUE, JUNK or FALSE.
  # [M, 4] float, (x, y) in the query's photo and (x, y) in this one, in pixels
  # of the whole stored images, weakest first; see `match_lines`.
  lines: np.ndarray | None = None
  box: Box = None  # Most similar region (x1, y1, x2, y2), pixels.

  def __post_init__(self) -> None:
    _check_box(self.box, self.name)
    labels = (TRUE, JUNK, FALSE, None)
    if self.label not in labels:
      raise errors.InputError(f"a label is one of {labels}, not {self.label!r}")
    if self.lines is None:
      return
    shape = np.shape(self.lines)
    if len(shape) != 2 or shape[1] != 4 or not np.isfinite(self.lines).all():
      problem = f"must be finite and of shape [M, 4], not {list(shape)}"
      raise errors.InputError(f"lines {problem}")


@dataclasses.dataclass(frozen=True)
class Query:
  """A query and its results, best first."""

  name: str
  path: Path  # None if there is no photo to show.
  results: tuple[Result, ...]
  box: Box = None  # Part of the photo that is the query, in pixels.
  note: str = ""  # For example its average precision.

  def __post_init__(self) -> None:
    _check_box(self.box, self.name)


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of metrics: two decimals for floats, None and NaN as unknown."""

  title: str
  columns: tuple[str, ...]
  rows: tuple[tuple[object, ...], ...]  # The first cell is the row's heading.

  def __post_init__(self) -> None:
    for row in self.rows:
      if len(row) != len(self.columns):
        problem = f"a row has {len(row)} cells, not {len(self.columns)}"
        raise errors.InputError(problem, path=self.title)


@dataclasses.dataclass(frozen=True)
class Curve:
  """A precision-recall curve: [N] float in [0, 1], recalls ascending."""

  name: str
  recalls: np.ndarray
  precisions: np.ndarray

  def __post_init__(self) -> None:
    points = np.array([self.recalls, self.precisions], np.float64)
    inside = np.all((points >= 0) & (points <= 1))
    if points.ndim != 2 or not inside or np.any(np.diff(points[0]) < 0):
      problem = (
        "recalls and precisions must be in [0, 1], and recalls ascending"
      )
      raise errors.InputError(problem, path=self.name)


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Section of an evaluation; curves share one picture, `report` is text."""

  tables: tuple[Table, ...] = ()
  curves: tuple[Curve, ...] = ()
  report: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
  """Counts of a written page, and its missing photos."""

  queries: int
  results: int
  photos: int
  size: int  # In bytes.
  problems: tuple[str, ...]  # One line for each missing photo.


def match_lines(
  features_1: features.LocalFeatures,
  features_2: features.LocalFeatures,
  match: Any,
  offset: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
  """Return the lines of a `matcher.Match` for `Result.lines`, [M, 4] float32.

  `features_1` belong to the query, whose photo was cropped to a box at `offset`
  (y, x) in pixels.
  """
  order = np.argsort(match.strengths, kind="stable")
  pairs = np.asarray(match.inliers)[order]
  first = np.reshape(features_1.locations, [-1, 2])[pairs[:, 0]] + offset
  second = np.reshape(features_2.locations, [-1, 2])[pairs[:, 1]]
  return np.concatenate([first[:, ::-1], second[:, ::-1]], 1, dtype=np.float32)


def spread_lines(
  points: np.ndarray, strengths: np.ndarray, width: float, most: int = MAX_LINES
) -> np.ndarray:
  """Select inliers to draw: the strongest of each region first.

  Points are [M, 2] float, (x, y) in image 1, x in [0, width], y in [0, 1].
  Returns [min(M, most)] int indices, weakest first.
  """
  cells = np.floor(points * [_GRID / max(width, 1e-9), _GRID]).astype(int)
  order = np.lexsort((-strengths, *cells.T))
  places = np.arange(len(order))
  starts = np.diff(cells[order], axis=0, prepend=-1).any(axis=1)
  # First the best of each cell, then the second best, and so on.
  turns = places - np.maximum.accumulate(np.where(starts, places, 0))
  chosen = order[np.lexsort((-strengths[order], turns))][:most]
  return chosen[np.argsort(strengths[chosen], kind="stable")]


def check_path(path: str | os.PathLike) -> None:
  """Raise InputError if a page cannot have this name; call before any work."""
  if not os.fspath(path).lower().endswith(_EXTENSIONS):
    raise errors.InputError("the name of a page must end in .html", path=path)
  if os.path.isdir(path):
    raise errors.InputError("a folder, not the name of a page", path=path)


def write(
  path: str | os.PathLike,
  title: str,
  queries: Iterable[Query],
  evaluation: Evaluation | None = None,
  options: Options | None = None,
) -> Report:
  """Write a page of queries with their results, atomically.

  The page includes small copies of all photos and fetches nothing. A photo that
  cannot be read is marked as missing and reported. Memory is needed for one
  query, and a few bytes for each photo.
  """
  check_path(path)
  photos = Thumbnails(options or Options())
  start, end = _frame(title)
  number = results = 0
  with files.atomic_path(path) as temporary:
    # In file names, bytes that are not UTF-8 become \udcXX.
    with open(
      temporary, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
    ) as file:
      file.write(start)
      if evaluation is not None:
        file.write(_evaluation_section(evaluation))
      for number, query in enumerate(queries, 1):
        copies = []
        for photo in (query.path, *(result.path for result in query.results)):
          copy, data = photos.add(photo)
          copies.append(copy)
          if data is not None:  # The script is data, which never runs.
            script = f'<script type="text/plain" id="t{copy.number}">'
            file.write(f"{script}{data}</script>\n")
        file.write(_query_section(number, query, *copies))
        results += len(query.results)
      file.write(end)
    size = os.path.getsize(temporary)
  return Report(number, results, photos.number, size, tuple(photos.problems))


def _check_box(box, name):
  if box is None:
    return
  edges = np.asarray(box, np.float64)
  if edges.shape != (4,) or not np.isfinite(edges).all():
    problem = f"a box must have four finite numbers, not {box!r}"
    raise errors.InputError(problem, path=name)


def _frame(title):
  css, js, page = map(_part, ("css", "js", "html"))
  # By their hashes, these are the only script and style the browser accepts.
  policy = (
    "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
    f"style-src {_hash(css)}; script-src {_hash(js)}"
  )
  values = {
    "POLICY": policy,
    "STYLE": css,
    "SCRIPT": js,
    "TITLE": _escape(title),
    "VERSION": _escape(delf.__version__),
  }
  # Split before filling, so that no value is taken for a mark.
  pieces = page.split("%%")
  filled = [values.get(piece, piece) for piece in pieces]
  middle = pieces.index("CONTENT")
  return "".join(filled[:middle]), "".join(filled[middle + 1 :]) + "\n"


def _part(extension):
  file = importlib.resources.files("delf.pictures") / f"page.{extension}"
  return file.read_text(encoding="utf-8").strip()


def _hash(text):
  digest = hashlib.sha256(text.encode("utf-8")).digest()
  return f"'sha256-{_base64(digest)}'"


def _base64(data):
  return base64.b64encode(data).decode("ascii")


def _escape(text):
  return html.escape(str(text), quote=True)


def _query_section(number, query, photo, *copies):
  """Return the section of a query; `copies` are those of the results."""
  ranked = enumerate(zip(query.results, copies, strict=True), 1)
  items = "".join(_result_item(rank, *each, photo) for rank, each in ranked)
  labels = (result.label for result in query.results)
  first = next((label for label in labels if label != JUNK), None)
  note = f"<p>{_escape(query.note)}</p>" if query.note else ""
  body = f"<ol>{items}</ol>" if items else "<p class=none>No results.</p>"
  name = _escape(query.name)
  return (
    f'<section class="query" id="q{number}" data-name="{name}" '
    f'data-first="{first or ""}">'
    f"<header><h2><a href=#q{number}>{number}</a> "
    f'<bdi title="{name}">{name}</bdi></h2>'
    f"<figure>{_image(photo, query.box)}</figure>{note}"
    f"</header>{body}</section>\n"
  )


def _result_item(rank, result, copy, query_photo):
  label = result.label or ""
  mark = f"<b>{_MARKS[label]}</b>" if label else ""
  facts = f"<span>score {_score_text(result.score)}</span>"
  if result.inliers is not None:
    plural = "" if result.inliers == 1 else "s"
    facts = f"<span>{result.inliers} inlier{plural}</span> {facts}"
  if result.box is not None:
    facts += " <span>by region</span>"
  name = _escape(result.name)
  return (
    f'<li class="{label}"><button type="button"'
    f'{_line_data(result.lines, query_photo, copy)} title="{name}" '
    f'aria-label="Compare with result {rank}">'
    f"{_image(copy, result.box)}</button>"
    f"<p><i>{rank}</i>{mark}</p><p class=name><bdi>{name}</bdi></p>"
    f"<p class=score>{facts}</p></li>"
  )


def _score_text(value):
  if not math.isfinite(value):
    return "–"
  return f"{value:.4g}" if abs(value) >= 0.01 else f"{value:.3g}"


def _image(copy, box):
  """Return a photo, with the frame of a box unless it is the whole photo."""
  if copy.number is None:
    return "<span class=missing>no photo</span>"
  width, height = copy.width, copy.height
  size = f'width="{width}" height="{height}"'
  image = f'<img data-t="{copy.number}" alt="" {size}>'
  if box is None:
    return image
  x1, y1, x2, y2 = np.clip(box, 0, [width, height, width, height]).tolist()
  if [x1, y1, x2, y2] == [0, 0, width, height]:
    return image
  return (
    f'{image}<svg class="box" viewBox="0 0 {width} {height}"'
    f' aria-hidden="true"><rect x="{x1:.1f}" y="{y1:.1f}" '
    f'width="{max(x2 - x1, 0):.1f}" height="{max(y2 - y1, 0):.1f}"/></svg>'
  )


def _line_data(points, query_photo, copy):
  if points is None or None in (query_photo.number, copy.number):
    return ""
  points = np.asarray(points, np.float64)
  query_size, size = ([p.width, p.height] for p in (query_photo, copy))
  # Pixel centres are at integers, so that a photo starts at -0.5.
  shares = (points + 0.5) / (query_size + size)
  aspect = query_size[0] / query_size[1]
  starts = shares[:, :2] * [aspect, 1]
  chosen = spread_lines(starts, np.arange(len(points)), aspect)
  places = np.rint(np.clip(shares[chosen], 0, 1) * _PLACES).astype("<u2")
  return f' data-l="{_base64(places.tobytes())}"'


def _evaluation_section(evaluation):
  body = _curves(evaluation.curves) if evaluation.curves else ""
  tables = "".join(map(_table, evaluation.tables))
  body += f"<div class=tables>{tables}</div>"
  if evaluation.report:
    report = _escape(evaluation.report.strip("\n"))
    body += "<details><summary>Report card</summary>"
    body += f"<pre tabindex=0>{report}</pre></details>"
  return f'<section id="evaluation"><h2>Evaluation</h2>{body}</section>\n'


def _table(table):
  columns = (f"<th scope=col>{_escape(name)}</th>" for name in table.columns)
  rows = []
  for first, *others in table.rows:
    cells = "".join(f"<td>{_cell(value)}</td>" for value in others)
    rows.append(f"<tr><th scope=row>{_cell(first)}</th>{cells}</tr>")
  return (
    f"<div class=table><table><caption>{_escape(table.title)}</caption>"
    f"<thead><tr>{''.join(columns)}</tr></thead>"
    f"<tbody>{''.join(rows)}</tbody></table></div>"
  )


def _cell(value):
  if value is None or value != value:
    return "–"
  if isinstance(value, (float, np.floating)):
    return f"{value:.2f}"
  return _escape(value)


def _curves(curves):
  axes = _part("svg").replace("\n", "")
  drawn, names = [], []
  for number, curve in enumerate(curves):
    style = f'class="curve c{number % 6}"'
    drawn.append(f'<polyline {style} points="{_points(curve)}"/>')
    names.append(
      '<li><svg viewBox="0 0 36 8" aria-hidden="true"><line x1="0" y1="4" '
      f'x2="36" y2="4" {style}/></svg>{_escape(curve.name)}</li>'
    )
  return (
    f'<figure class="curves"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    f'aria-label="Precision-recall curves">{axes}{"".join(drawn)}</svg>'
    f"<ul>{''.join(names)}</ul><figcaption>Precision by recall, mean of the"
    " queries</figcaption></figure>"
  )


def _points(curve):
  number = len(curve.recalls)
  kept = np.linspace(0, number - 1, min(number, _MAX_POINTS))
  kept = np.unique(kept.round().astype(int))
  x = _LEFT + _SIDE_X * np.asarray(curve.recalls, np.float64)[kept]
  y = _TOP + _SIDE_Y * (1 - np.asarray(curve.precisions, np.float64)[kept])
  return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
