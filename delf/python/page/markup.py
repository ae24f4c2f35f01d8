"""HTML of queries and their results; all that is not ours is escaped."""

import base64
import html
import math

import numpy as np

from delf.python import spread
from delf.python.page import content

# Symbol and word, so that no mark is told by its colour alone.
_MARKS = {
  content.TRUE: "✓ true",
  content.FALSE: "✗ false",
  content.JUNK: "○ junk",
}
_PLACES = 65535  # Lines are held as 16-bit shares of the photos' sides.


def escape(text):
  """Returns a text for HTML, between tags or as a quoted value of a tag."""
  return html.escape(str(text), quote=True)


def photo(thumbnail, data):
  """Returns the script that holds a copy; it is data, and never run."""
  number = thumbnail.number
  return f'<script type="text/plain" id="t{number}">{data}</script>\n'


def query(number, asked, thumbnail, results):
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
    (each.label for each in asked.results if each.label != content.JUNK), None
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
  chosen = spread.choose(
    shares[:, :2] * [width, 1], np.arange(len(lines)), width
  )
  places = np.rint(np.clip(shares[chosen], 0, 1) * _PLACES).astype("<u2")
  return f' data-l="{base64.b64encode(places.tobytes()).decode("ascii")}"'
