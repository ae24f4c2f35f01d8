"""The frame of a picture: its margins, words and colours, its file."""

import os

import numpy as np
from matplotlib import colors, figure, patheffects
from PIL import Image

from delf.python import errors, files

DPI = 150
_WIDTH = 12.0  # Inches; with DPI, 1800 pixels.
_TALLEST = 9.0  # Inches of the photos, at most.
_MARGIN, _HEAD, _FOOT = 0.25, 0.62, 0.62  # Inches.
_INK = "#20262e"
_QUIET = "#6b7480"
# Weak to strong. Light enough on dark photos, outlined for light ones, and told
# apart by people who do not see red and green.
COLOURS = colors.LinearSegmentedColormap.from_list(
  "strength", ["#e4572e", "#f9a03f", "#ffe45e", "#7ee8a2", "#21c7c0"]
)
OUTLINE = [patheffects.withStroke(linewidth=2.6, foreground="#00000070")]


def check_format(path):
  """Returns the format of a picture by its extension.

  Args:
    path: File to be.

  Returns:
    str, such as "png".

  Raises:
    InputError: If pictures cannot be written in it.
  """
  known = figure.Figure().canvas.get_supported_filetypes()
  suffix = os.path.splitext(os.fspath(path))[1].lower().lstrip(".")
  if suffix not in known:
    raise errors.InputError(
      "a picture name that ends in " + ", ".join(f".{end}" for end in known),
      f".{suffix}" if suffix else "no extension",
      path,
    )
  return suffix


def canvas(aspect):
  """Returns a figure and axes of that width to height, with room for words."""
  width = min(_WIDTH - 2 * _MARGIN, _TALLEST * aspect)
  height = width / aspect
  full = (max(width, 5.5) + 2 * _MARGIN, height + _HEAD + _FOOT)
  drawing = figure.Figure(figsize=full, dpi=DPI, facecolor="white")
  left = (full[0] - width) / 2
  axes = drawing.add_axes(
    (left / full[0], _FOOT / full[1], width / full[0], height / full[1])
  )
  axes.axis("off")
  return drawing, axes


def words(drawing, heading, caption):
  """Writes the head line and the line at the foot."""
  width, height = drawing.get_size_inches()
  drawing.text(
    _MARGIN / width,
    1 - 0.5 * _HEAD / height,
    heading,
    color=_INK,
    size=14,
    weight="bold",
    va="center",
    parse_math=False,
  )
  drawing.text(
    _MARGIN / width,
    0.5 * _FOOT / height,
    caption,
    color=_QUIET,
    size=10,
    va="center",
  )


def colour_bar(drawing, mappable, low, high, label):
  """Draws what the colours mean, at the right of the head line."""
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
  axes.text(-0.05, 0.5, low, ha="right", va="center", **style)
  axes.text(1.05, 0.5, high, ha="left", va="center", **style)
  axes.set_title(label, color=_QUIET, size=9, pad=3)


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
