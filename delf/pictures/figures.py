"""Pictures of matches, boxes and training, drawn with matplotlib.

The extension of a path decides the format. Every picture has a heading above
and a caption below; images are [H, W, 3] or [H, W] uint8.
"""

import io
import os
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import collections, colors, figure, patches, patheffects, ticker
from matplotlib.backends import backend_agg
from PIL import Image

from delf.base import errors, files
from delf.formats import features
from delf.pictures import results_page

FORMATS = ("png", "jpg", "jpeg", "pdf", "svg", "tif", "tiff", "webp")
MAX_BOXES = 20  # More would hide the photo and each other.
# Weak to strong. Light enough for dark photos, outlined for light ones, and
# distinguishable with red-green colour blindness.
COLOURS = colors.LinearSegmentedColormap.from_list(
  "strength", ["#e4572e", "#f9a03f", "#ffe45e", "#7ee8a2", "#21c7c0"]
)

_OUTLINE = [patheffects.withStroke(linewidth=2.6, foreground="#00000070")]
_INK, _QUIET, _SCORE_INK = "#20262e", "#6b7480", "#15191e"
# Colours of curves, equally distinguishable (Okabe and Ito).
_CURVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")

_DPI = 150
_WIDTH = 12.0  # Inches: 1800 pixels.
_TALLEST = 9.0  # Inches of the photos, at most.
_MARGIN, _HEAD, _FOOT = 0.25, 0.62, 0.62  # Inches.
_MAX_LETTERS = 600  # Of a heading or caption; no picture has room for more.
_SEPARATOR = "  ·  "  # Between the parts of a caption.

_GAP = 0.012  # Between two photos, as a fraction of their total width.
# Photos of larger ratios of sides are squeezed: in pairs, and alone.
_LONGEST_OF_TWO, _LONGEST = 4.0, 12.0

# Corners of a box for its score, in order of preference: the corner (x, y), the
# offset from it in points, and the alignment.
_CORNERS = (
  ((0, 0), (4, -4), ("left", "top")),
  ((1, 0), (-4, -4), ("right", "top")),
  ((0, 1), (4, 4), ("left", "bottom")),
  ((1, 1), (-4, 4), ("right", "bottom")),
)
_SCORE_PADDING = 6  # Pixels.

_ATTENTION_PHOTOS = 4  # Side by side.
# Opacity of the colours of the lowest and highest attention.
_LEAST_OPACITY, _MOST_OPACITY = 0.15, 0.75


def check_path(path: str | os.PathLike) -> str:
  """Return the format of a picture, one of FORMATS, by its extension.

  Raises InputError if its folder, which may be missing, cannot be written to.
  """
  path = pathlib.Path(path)
  suffix = path.suffix.lower()
  if suffix[1:] not in FORMATS:
    endings = ", ".join(f".{end}" for end in FORMATS)
    problem = f"a picture name must end in {endings}, not {suffix!r}"
    raise errors.InputError(problem, path=path)
  if path.is_dir():
    raise errors.InputError("a folder, not the name of a picture", path=path)
  folder = next(each for each in path.absolute().parents if each.exists())
  if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
    kind = "a read-only folder" if folder.is_dir() else "a file"
    raise errors.InputError(f"{kind}, not a folder to write to", path=folder)
  return suffix[1:]


def draw_matches(
  path: str | os.PathLike,
  image_1: np.ndarray,
  image_2: np.ndarray,
  features_1: features.LocalFeatures,
  features_2: features.LocalFeatures,
  match: Any,
  title: str | None = None,
) -> None:
  """Draw two photos side by side, with lines between inliers.

  At most 100 lines are drawn, the strongest of each region of image 1; the
  caption has the number of inliers. Both images get the same height; ratios of
  sides over 4 to 1 are squeezed. `match` is the `matcher.Match` of the features
  and gives the default heading, its verdict.
  """
  suffix = check_path(path)
  pair = (features_1, features_2)
  drawing = _matches_figure((image_1, image_2), pair, match, title)
  _save(drawing, path, suffix)


def matches_jpeg(
  image_1: np.ndarray,
  image_2: np.ndarray,
  features_1: features.LocalFeatures,
  features_2: features.LocalFeatures,
  match: Any,
) -> bytes:
  """Return the picture of `draw_matches` as a JPEG file."""
  pair = (features_1, features_2)
  drawing = _matches_figure((image_1, image_2), pair, match, None)
  buffer = io.BytesIO()
  drawing.savefig(buffer, format="jpeg", dpi=_DPI)
  return buffer.getvalue()


def draw_boxes(
  path: str | os.PathLike,
  image: np.ndarray,
  boxes: np.ndarray,
  scores: np.ndarray,
  title: str | None = None,
  caption: str = "",
) -> None:
  """Draw a photo with boxes and their scores, the highest on top.

  At most the 20 boxes with the highest scores are drawn, as the caption then
  says. Boxes are [N, 4] (ymin, xmin, ymax, xmax) in [0, 1], scores [N].
  """
  suffix = check_path(path)
  image = _as_rgb(image)
  boxes = np.asarray(boxes, np.float64).reshape([-1, 4])
  scores = np.asarray(scores, np.float64)
  if scores.shape != boxes.shape[:1]:
    problem = f"needs a score, but scores have shape {list(scores.shape)}"
    raise errors.InputError(f"each of {len(boxes)} boxes {problem}")
  drawing, axes = _canvas(_aspect(image, _LONGEST))
  axes.imshow(_shrink(image), extent=(0, 1, 1, 0), aspect="auto")
  axes.set(xlim=(0, 1), ylim=(1, 0))
  best = np.argsort(-scores, kind="stable")[:MAX_BOXES]
  number, bar = len(boxes), None
  if number:
    bar = _add_boxes(drawing, axes, boxes[best], scores[best])
  left_out = number > len(best)
  first = f"the {len(best)} with the highest score" if left_out else ""
  heading = title or f"{number or 'No'} box{'' if number == 1 else 'es'}"
  caption = _SEPARATOR.join(filter(None, (first, caption)))
  _add_text(drawing, heading, caption, bar)
  _save(drawing, path, suffix)


def draw_curves(
  path: str | os.PathLike,
  panels: Mapping[str, Mapping[str, tuple[Sequence, Sequence]]],
  title: str,
  caption: str = "",
) -> None:
  """Draw curves of values over steps, two panels in a row.

  `panels` maps headings to curves, which map names to (steps, values), [N].
  Omits values that are not finite; curves named "validation..." have markers.
  """
  suffix = check_path(path)
  rows = -(-len(panels) // 2)
  drawing, axes = _canvas(2.5 / rows)
  for i, (heading, curves) in enumerate(panels.items()):
    left, bottom = (i % 2) / 2 + 0.05, 1 - (i // 2 + 1) / rows
    place = (left, bottom + 0.08 / rows, 0.44, 0.8 / rows)
    _fill_panel(axes.inset_axes(place), heading, curves)
  _add_text(drawing, title, caption)
  _save(drawing, path, suffix)


def draw_attention(
  path: str | os.PathLike,
  photos: np.ndarray,
  attention: np.ndarray,
  title: str,
  caption: str = "",
) -> None:
  """Draw photos in a row, and the same photos coloured by attention below.

  The first four of [N, H, W, 3] uint8 are drawn. Colours range from the lowest
  to the highest attention, [N, H', W'] float, of each photo.
  """
  suffix = check_path(path)
  photos, attention = photos[:_ATTENTION_PHOTOS], attention[:_ATTENTION_PHOTOS]
  coloured = attention_over(photos, attention)
  image = np.vstack([np.hstack([*row]) for row in (photos, coloured)])
  drawing, axes = _canvas(image.shape[1] / image.shape[0])
  axes.imshow(image)
  _add_text(drawing, title, caption)
  _save(drawing, path, suffix)


def attention_over(photos: np.ndarray, attention: np.ndarray) -> np.ndarray:
  """Return grey photos coloured by attention, of shapes as `draw_attention`."""
  height, width = photos.shape[1:3]
  coloured = []
  for photo, values in zip(photos, attention, strict=True):
    values = np.asarray(values, np.float32)
    values = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    bilinear = Image.Resampling.BILINEAR
    resized = Image.fromarray(values).resize((width, height), bilinear)
    strength = np.asarray(resized)[..., None]
    opacity = _LEAST_OPACITY + (_MOST_OPACITY - _LEAST_OPACITY) * strength
    grey = np.asarray(Image.fromarray(photo).convert("L"))[..., None]
    colour = COLOURS(strength[..., 0])[..., :3] * 255
    coloured.append((1 - opacity) * grey + opacity * colour)
  return np.rint(np.stack(coloured)).astype(np.uint8)


def _matches_figure(images, local, match, title):
  images = [_as_rgb(image) for image in images]
  # Both have height 1; the second starts after the first and a gap.
  widths = [_aspect(image, _LONGEST_OF_TWO) for image in images]
  gap = _GAP * sum(widths)
  starts = (0.0, widths[0] + gap)
  total = sum(widths) + gap
  drawing, axes = _canvas(total)
  points = []
  for side, (image, start) in enumerate(zip(images, starts, strict=True)):
    extent = (start, start + widths[side], 1, 0)
    axes.imshow(_shrink(image), extent=extent)
    locations = np.asarray(local[side].locations, np.float64)
    located = locations.reshape([-1, 2])[match.inliers[:, side]]
    # Pixel centres are at integers, so that the image starts at -0.5.
    shares = (located + 0.5) / image.shape[:2]
    points.append(shares[:, ::-1] * [widths[side], 1] + [start, 0])
  drawn = results_page.spread_lines(points[0], match.strengths, starts[1])
  bar = None
  if len(drawn):
    strengths = match.strengths[drawn]
    coloured = _add_lines(axes, points[0][drawn], points[1][drawn], strengths)
    limit = f"{match.residual_threshold:g} px off"
    label = "inlier strength"
    bar = _colour_bar(drawing, coloured, limit, "on the spot", label)
  axes.set(xlim=(0, total), ylim=(1, 0))
  verdict = "Match" if match.is_match else "No match"
  agree = f"{match.score} inliers" if match.model is not None else ""
  number = f"{match.score} of {len(match.putative)}"
  parts = [
    f"{number} putative matches agree with one map",
    f"{match.min_inliers} make a match",
  ]
  if len(drawn) < match.score:
    parts.append(f"{len(drawn)} lines drawn")
  heading = title or f"{verdict}: {agree or 'nothing agrees'}"
  _add_text(drawing, heading, _SEPARATOR.join(parts), bar)
  return drawing


def _add_lines(axes, starts, ends, strengths):
  """Draw inliers, the strongest on top, and return the coloured lines."""
  coloured = collections.LineCollection(
    [*np.stack([starts, ends], axis=1)],
    cmap=COLOURS,
    linewidths=1.1,
    alpha=0.85,
    path_effects=_OUTLINE,
  )
  coloured.set_array(strengths)
  coloured.set_clim(0, 1)
  axes.add_collection(coloured)
  axes.scatter(
    *np.concatenate([starts, ends]).T,
    s=16,
    c=np.tile(strengths, 2),
    cmap=COLOURS,
    vmin=0,
    vmax=1,
    edgecolors="#000000b0",
    linewidths=0.7,
    zorder=3,
    clip_on=False,  # Whole at the edge of a photo too.
  )
  return coloured


def _add_boxes(drawing, axes, boxes, scores):
  """Draw boxes, best first, and a colour bar; return the left edge of it."""
  low, high = min(scores.min(), 0.0), max(scores.max(), 1.0)
  colours = COLOURS((scores - low) / (high - low))
  number = len(boxes)
  for i, (top, left, bottom, right) in enumerate(boxes):
    outline = patches.Rectangle(
      (left, top),
      right - left,
      bottom - top,
      fill=False,
      edgecolor=colours[i],
      linewidth=2.4,
      joinstyle="miter",
      path_effects=_OUTLINE,
      zorder=2 + (number - i) / number,
      clip_on=False,  # Whole at the edge of a photo too.
    )
    axes.add_patch(outline)
  taken: list = []
  for box, score, colour in zip(boxes, scores, colours, strict=True):
    taken.append(_add_score(axes, box, f"{score:.2f}", colour, taken))
  mappable = axes.scatter([], [], c=[], cmap=COLOURS, vmin=low, vmax=high)
  return _colour_bar(drawing, mappable, f"{low:g}", f"{high:g}", "score")


def _add_score(axes, box, text, colour, taken):
  """Write a score in a corner of a box outside of `taken`; return its place."""
  top, left, bottom, right = box
  note = axes.annotate(
    text,
    (left, top),
    xytext=(4, -4),
    textcoords="offset points",
    size=9,
    weight="bold",
    color=_SCORE_INK,
    bbox={"boxstyle": "square,pad=0.25", "fc": colour, "ec": "none"},
    zorder=4,
  )
  for (x, y), offset, (horizontal, vertical) in _CORNERS:
    note.xy = (right if x else left, bottom if y else top)
    note.set(position=offset, ha=horizontal, va=vertical)
    place = note.get_window_extent().padded(_SCORE_PADDING)
    if not any(place.overlaps(other) for other in taken):
      break
  return place


def _fill_panel(axes, heading, curves):
  coloured = zip(curves.items(), _CURVES, strict=False)
  for (name, (steps, values)), colour in coloured:
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values)
    marker = "o" if name.startswith("validation") or len(values) == 1 else ""
    axes.plot(
      np.asarray(steps)[finite],
      values[finite],
      color=colour,
      marker=marker,
      markersize=4,
      linewidth=1.6,
      label=name,
    )
  axes.set_title(heading, loc="left", fontsize=10)
  axes.grid(alpha=0.25)
  axes.spines[["top", "right"]].set_visible(False)
  axes.tick_params(labelsize=8)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
  axes.margins(x=0.02)
  if len(curves) > 1:
    axes.legend(frameon=False, fontsize=8)


def _canvas(aspect):
  """Return a figure with room for text, and axes of an aspect width/height."""
  width = min(_WIDTH - 2 * _MARGIN, _TALLEST * aspect)
  height = width / aspect
  full = (max(width, 5.5) + 2 * _MARGIN, height + _HEAD + _FOOT)
  drawing = figure.Figure(figsize=full, dpi=_DPI, facecolor="white")
  backend_agg.FigureCanvasAgg(drawing)  # It measures text.
  left = (full[0] - width) / 2
  axes = drawing.add_axes(
    (left / full[0], _FOOT / full[1], width / full[0], height / full[1])
  )
  axes.axis("off")
  return drawing, axes


def _add_text(drawing, heading, caption, bar=None):
  """Write heading and caption; `bar` is the left edge of the colour bar."""
  width, height = drawing.get_size_inches()
  right = (width if bar is None else bar) - _MARGIN
  style = {"color": _INK, "weight": "bold"}
  sizes = ((14, 1), (13, 2), (9, 3))
  _fit_text(drawing, heading, 1 - 0.5 * _HEAD / height, right, sizes, style)
  middle, right, style = (
    0.5 * _FOOT / height,
    width - _MARGIN,
    {"color": _QUIET},
  )
  sizes = ((10, 1), (10, 2), (9, 3))
  _fit_text(drawing, caption, middle, right, sizes, style)


def _fit_text(drawing, content, middle, right, sizes, style):
  """Write text up to `right` inches, in the first of `sizes` that fits."""
  content = " ".join(content.split())[:_MAX_LETTERS]
  start = _MARGIN / drawing.get_size_inches()[0]
  text = drawing.text(start, middle, "", va="center", parse_math=False, **style)
  for size, rows in sizes:
    text.set_size(size)
    letters, wrapped = len(content), []
    while letters > 0:
      wrapped = textwrap.wrap(content, letters, max_lines=rows, placeholder="…")
      text.set_text("\n".join(wrapped))
      if text.get_window_extent().width <= (right - _MARGIN) * _DPI:
        break
      letters -= 1 + letters // 20
    if "".join(wrapped).replace(" ", "") == content.replace(" ", ""):
      break


def _colour_bar(drawing, mappable, low, high, label):
  """Draw a colour bar beside the heading; return its left edge in inches."""
  width, height = drawing.get_size_inches()
  length, thickness = 1.4, 0.11
  right = width - _MARGIN - 0.12 - 0.066 * len(high)
  place = (right - length, height - 0.55 * _HEAD - 0.5 * thickness)
  axes = drawing.add_axes(
    (place[0] / width, place[1] / height, length / width, thickness / height)
  )
  bar = drawing.colorbar(mappable, cax=axes, orientation="horizontal")
  bar.set_alpha(1)
  bar.outline.set_visible(False)
  bar.set_ticks([])
  style = {"transform": axes.transAxes, "color": _QUIET, "size": 9}
  first = axes.text(-0.05, 0.5, low, ha="right", va="center", **style)
  axes.text(1.05, 0.5, high, ha="left", va="center", **style)
  axes.set_title(label, color=_QUIET, size=9, pad=3)
  return first.get_window_extent().x0 / _DPI


def _aspect(image, longest):
  return np.clip(image.shape[1] / image.shape[0], 1 / longest, longest)


def _as_rgb(image):
  image = np.asarray(image)
  if image.ndim == 2:
    image = np.repeat(image[..., None], 3, axis=2)
  is_colour = image.ndim == 3 and image.shape[2] in (3, 4)
  if not is_colour or image.dtype != np.uint8 or not image.size:
    actual = f"{image.dtype} of shape {list(image.shape)}"
    shapes = "shape [H, W, 3] or [H, W]"
    raise errors.InputError(f"an image must be uint8 of {shapes}, not {actual}")
  return image[..., :3]


def _shrink(image):
  """Return the image with no more pixels than the picture has."""
  height, width = image.shape[:2]
  size = results_page.fit(width, height, int(_WIDTH * _DPI))
  if size == (width, height):
    return image
  return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _save(drawing, path, suffix):
  with files.atomic_path(path) as temporary:
    drawing.savefig(temporary, format=suffix, dpi=_DPI)
