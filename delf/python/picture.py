"""The frame of a picture: its margins, words and colours, its file."""

import os
import pathlib
import textwrap

import numpy as np
from matplotlib import colors, figure, patheffects
from matplotlib.backends import backend_agg
from PIL import Image

from delf.python import errors, files

DPI = 150
FORMATS = ("png", "jpg", "jpeg", "pdf", "svg", "tif", "tiff", "webp")
_WIDTH = 12.0  # Inches; with DPI, 1800 pixels.
_TALLEST = 9.0  # Inches of the photos, at most.
_MARGIN, _HEAD, _FOOT = 0.25, 0.62, 0.62  # Inches.
_INK = "#20262e"
_QUIET = "#6b7480"

_MOST_LETTERS = 600  # Of a heading or caption; no page holds more.
# Weak to strong. Light enough on dark photos, outlined for light ones, and told
# apart by people who do not see red and green.
COLOURS = colors.LinearSegmentedColormap.from_list(
  "strength", ["#e4572e", "#f9a03f", "#ffe45e", "#7ee8a2", "#21c7c0"]
)
OUTLINE = [patheffects.withStroke(linewidth=2.6, foreground="#00000070")]


def check_path(path):
  """Returns the format of a picture by its extension.

  Args:
    path: File to be. Missing folders are made later.

  Returns:
    str, one of FORMATS.

  Raises:
    InputError: If pictures are not written in it, or not to such a place.
  """
  path = pathlib.Path(path)
  suffix = path.suffix.lower().lstrip(".")
  if suffix not in FORMATS:
    raise errors.InputError(
      "a picture name that ends in " + ", ".join(f".{end}" for end in FORMATS),
      f".{suffix}" if suffix else "no extension",
      path,
    )
  if path.is_dir():
    raise errors.InputError("the name of a picture", "a folder", path)
  folder = next(each for each in path.absolute().parents if each.exists())
  if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
    received = "a read-only one" if folder.is_dir() else "a file"
    raise errors.InputError("a folder to write to", received, folder)
  return suffix


def aspect_of(image, longest):
  """Returns the width of a photo as it is drawn, by its height.

  Args:
    image: [H, W, 3].
    longest: Sides that differ more than this are drawn squeezed.
  """
  return np.clip(image.shape[1] / image.shape[0], 1 / longest, longest)


def canvas(aspect):
  """Returns a figure and axes of that width to height, with room for words."""
  width = min(_WIDTH - 2 * _MARGIN, _TALLEST * aspect)
  height = width / aspect
  full = (max(width, 5.5) + 2 * _MARGIN, height + _HEAD + _FOOT)
  drawing = figure.Figure(figsize=full, dpi=DPI, facecolor="white")
  backend_agg.FigureCanvasAgg(drawing)  # It measures words.
  left = (full[0] - width) / 2
  axes = drawing.add_axes(
    (left / full[0], _FOOT / full[1], width / full[0], height / full[1])
  )
  axes.axis("off")
  return drawing, axes


def words(drawing, heading, caption, bar=None):
  """Writes the words at the head and at the foot, in lines that fit.

  Args:
    drawing: Figure of `canvas`.
    heading: Words for the head, left of the colour bar.
    caption: Words for the foot.
    bar: What `colour_bar` returned, or None where there is none.
  """
  width, height = drawing.get_size_inches()
  right = width - _MARGIN if bar is None else bar - _MARGIN
  style = {"color": _INK, "weight": "bold"}
  middle = 1 - 0.5 * _HEAD / height
  _fit(drawing, heading, middle, right, ((14, 1), (13, 2), (9, 3)), style)
  middle, style = 0.5 * _FOOT / height, {"color": _QUIET}
  sizes = ((10, 1), (10, 2), (9, 3))
  _fit(drawing, caption, middle, width - _MARGIN, sizes, style)


def _fit(drawing, said, middle, right, sizes, style):
  """Writes words from the left margin to `right` inches.

  In the first of `sizes`, (points, lines), that holds them; in the last one
  what is too long ends in "…".
  """
  said = " ".join(said.split())[:_MOST_LETTERS]
  start = _MARGIN / drawing.get_size_inches()[0]
  text = drawing.text(start, middle, "", va="center", parse_math=False, **style)
  for size, lines in sizes:
    text.set_size(size)
    letters, wrapped = len(said), []
    while letters > 0:
      wrapped = textwrap.wrap(said, letters, max_lines=lines, placeholder="…")
      text.set_text("\n".join(wrapped))
      if text.get_window_extent().width <= (right - _MARGIN) * DPI:
        break
      letters -= 1 + letters // 20
    if "".join(wrapped).replace(" ", "") == said.replace(" ", ""):
      break


def colour_bar(drawing, mappable, low, high, label):
  """Draws what the colours mean, at the right of the head line.

  Returns:
    Inches from the left of the picture to where it starts.
  """
  width, height = drawing.get_size_inches()
  long, thick = 1.4, 0.11
  right = width - _MARGIN - 0.12 - 0.066 * len(high)
  place = (right - long, height - 0.55 * _HEAD - 0.5 * thick)
  axes = drawing.add_axes(
    (place[0] / width, place[1] / height, long / width, thick / height)
  )
  bar = drawing.colorbar(mappable, cax=axes, orientation="horizontal")
  bar.set_alpha(1)
  bar.outline.set_visible(False)
  bar.set_ticks([])
  style = {"transform": axes.transAxes, "color": _QUIET, "size": 9}
  first = axes.text(-0.05, 0.5, low, ha="right", va="center", **style)
  axes.text(1.05, 0.5, high, ha="left", va="center", **style)
  axes.set_title(label, color=_QUIET, size=9, pad=3)
  return first.get_window_extent().x0 / DPI


def as_rgb(image):
  """Returns an image as [H, W, 3] uint8."""
  image = np.asarray(image)
  channels = image.shape[2] if image.ndim == 3 else None
  if image.ndim == 2:
    image, channels = np.repeat(image[..., None], 3, axis=2), 3
  if channels not in (3, 4) or image.dtype != np.uint8 or not image.size:
    raise errors.InputError(
      "an image as uint8 of shape [H, W, 3] or [H, W]",
      f"{image.dtype} of shape {list(image.shape)}",
    )
  return image[..., :3]


def small(image):
  """Returns an image with no more pixels than the picture shows."""
  most = int(_WIDTH * DPI)
  height, width = image.shape[:2]
  share = most / max(height, width)
  if share >= 1:
    return image
  size = (max(1, round(width * share)), max(1, round(height * share)))
  return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def save(drawing, path, suffix):
  """Writes a figure, whole or not at all."""
  with files.atomic_path(path) as temporary:
    drawing.savefig(temporary, format=suffix, dpi=DPI)
