"""The frame of a picture: its margins, words and colours, its file."""

import io
import os
import pathlib
import textwrap

import numpy as np
from matplotlib import collections, colors, figure, patches, patheffects, ticker
from matplotlib.backends import backend_agg
from PIL import Image

from delf.base import errors, files

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


def words_picture(drawing, heading, caption, bar=None):
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


# Boxes of one picture. More hide the photo and each other.
MAX_BOXES = 20

_LONGEST = 12.0  # Longer photos are drawn squeezed to this.
_VIZ_BOXES_INK = "#15191e"

_PAD = 6  # Pixels around the digits of a score.

# Corners that a score may stand in, the first that is free: of the box (x, y),
# the offset from it in points, and the alignment.
_CORNERS = (
  ((0, 0), (4, -4), ("left", "top")),
  ((1, 0), (-4, -4), ("right", "top")),
  ((0, 1), (4, 4), ("left", "bottom")),
  ((1, 1), (-4, 4), ("right", "bottom")),
)


def draw_boxes(path, image, boxes, scores, title=None, caption=""):
  """Draws a photo with boxes and their scores, the best on top.

  At most the 20 with the highest score are drawn; the caption says so.

  Args:
    path: File to be; the extension decides the format (.png, .jpg, .pdf, ...).
    image: [H, W, 3] or [H, W] uint8.
    boxes: [N, 4] (ymin, xmin, ymax, xmax) in [0, 1].
    scores: [N].
    title: Words for the head line, or None for the number of boxes.
    caption: Words for the foot.

  Raises:
    InputError: If the format is unknown, the array is no image, or the numbers
      of boxes and scores differ.
  """
  suffix = check_path(path)
  image = as_rgb(image)
  boxes = np.asarray(boxes, np.float64).reshape([-1, 4])
  scores = np.asarray(scores, np.float64)
  if scores.shape != boxes.shape[:1]:
    raise errors.InputError(
      f"a score of each of {len(boxes)} boxes", f"shape {list(scores.shape)}"
    )
  drawing, axes = canvas(aspect_of(image, _LONGEST))
  axes.imshow(small(image), extent=(0, 1, 1, 0), aspect="auto")
  axes.set(xlim=(0, 1), ylim=(1, 0))
  best = np.argsort(-scores, kind="stable")[:MAX_BOXES]
  bar = None
  if len(best):
    bar = _draw(drawing, axes, boxes[best], scores[best])
  number = len(boxes)
  words = [caption] if caption else []
  if number > len(best):
    words.insert(0, f"the {len(best)} with the highest score")
  heading = title or f"{number or 'No'} box{'' if number == 1 else 'es'}"
  words_picture(drawing, heading, "  ·  ".join(words), bar)
  save(drawing, path, suffix)


def _draw(drawing, axes, boxes, scores):
  """Draws boxes, best first, and what their colours mean; returns its left."""
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
      path_effects=OUTLINE,
      zorder=2 + (number - i) / number,
      clip_on=False,  # Whole at the edge of a photo too.
    )
    axes.add_patch(outline)
  taken = []
  for box, score, colour in zip(boxes, scores, colours, strict=True):
    taken.append(_tag(axes, box, f"{score:.2f}", colour, taken))
  shown = axes.scatter([], [], c=[], cmap=COLOURS, vmin=low, vmax=high)
  return colour_bar(drawing, shown, f"{low:g}", f"{high:g}", "score")


def _tag(axes, box, words, colour, taken):
  """Writes a score in a corner of a box that is free; returns its place.

  Args:
    axes: Axes of the photo.
    box: [4].
    words: The score.
    colour: Of the box.
    taken: Places of the scores that are written, in pixels of the picture.
  """
  top, left, bottom, right = box
  note = axes.annotate(
    words,
    (left, top),
    xytext=(4, -4),
    textcoords="offset points",
    size=9,
    weight="bold",
    color=_VIZ_BOXES_INK,
    bbox={"boxstyle": "square,pad=0.25", "fc": colour, "ec": "none"},
    zorder=4,
  )
  for (x, y), offset, (horizontal, vertical) in _CORNERS:
    note.xy = (right if x else left, bottom if y else top)
    note.set(position=offset, ha=horizontal, va=vertical)
    place = note.get_window_extent().padded(_PAD)
    if not any(place.overlaps(other) for other in taken):
      break
  return place


# Colours that people who do not see red and green tell apart (Okabe and Ito).
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
# How much of a photo gives way to the colour of its attention, from its least
# attention to its most.
_LEAST, _MOST = 0.15, 0.75
# Photos that stand side by side.
_COLUMNS = 4


def draw_curves(path, panels, title, caption=""):
  """Draws how values change from step to step, two panels in a row.

  Args:
    path: File to be; the extension decides the format (.png, .jpg, .pdf, ...).
    panels: dict of words for what is measured to a dict of name to (steps,
      values), each [N]. A name that begins with "validation" gets points.
      Values that are no numbers are left out.
    title: Words for the head line.
    caption: Words for the foot.

  Raises:
    InputError: If the format is unknown.
  """
  suffix = check_path(path)
  rows = -(-len(panels) // 2)
  drawing, axes = canvas(2.5 / rows)
  for i, (words, curves) in enumerate(panels.items()):
    left, bottom = (i % 2) / 2 + 0.05, 1 - (i // 2 + 1) / rows
    place = (left, bottom + 0.08 / rows, 0.44, 0.8 / rows)
    _panel(axes.inset_axes(place), words, curves)
  words_picture(drawing, title, caption)
  save(drawing, path, suffix)


def _panel(axes, words, curves):
  for (name, (steps, values)), colour in zip(
    curves.items(), _LINES, strict=False
  ):
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
  axes.set_title(words, loc="left", fontsize=10)
  axes.grid(alpha=0.25)
  axes.spines[["top", "right"]].set_visible(False)
  axes.tick_params(labelsize=8)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
  axes.margins(x=0.02)
  if len(curves) > 1:
    axes.legend(frameon=False, fontsize=8)


def draw_attention(path, photos, attention, title, caption=""):
  """Draws photos, and each again under the attention it gets.

  Args:
    path: File to be; the extension decides the format (.png, .jpg, .pdf, ...).
    photos: [N, H, W, 3] uint8; the first four are drawn.
    attention: [N, H', W'] float; colours go from each photo's own lowest to
      its highest.
    title: Words for the head line.
    caption: Words for the foot.

  Raises:
    InputError: If the format is unknown.
  """
  suffix = check_path(path)
  photos, attention = photos[:_COLUMNS], attention[:_COLUMNS]
  rows = [np.concatenate(list(photos), axis=1)]
  rows.append(np.concatenate(list(attention_over(photos, attention)), axis=1))
  both = np.concatenate(rows)
  drawing, axes = canvas(both.shape[1] / both.shape[0])
  axes.imshow(both)
  words_picture(drawing, title, caption)
  save(drawing, path, suffix)


def attention_over(photos, attention):
  """Colours photos, turned grey, by attention.

  Args:
    photos: [N, H, W, 3] uint8.
    attention: [N, H', W'] float.

  Returns:
    [N, H, W, 3] uint8.
  """
  height, width = photos.shape[1:3]
  found = []
  for photo, values in zip(photos, attention, strict=True):
    values = np.asarray(values, np.float32)
    values = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    strength = Image.fromarray(values).resize((width, height), Image.BILINEAR)
    colours = COLOURS(np.asarray(strength))[..., :3] * 255
    share = _LEAST + (_MOST - _LEAST) * np.asarray(strength)[..., None]
    grey = np.asarray(Image.fromarray(photo).convert("L"))[..., None]
    found.append((1 - share) * grey + share * colours)
  return np.rint(np.stack(found)).astype(np.uint8)


# Lines of one picture. More hide the photos and each other.
MAX_LINES = 100

_GRID = 8  # Cells along each side that lines are spread over.


def choose(points, strengths, width, most=MAX_LINES):
  """Returns which inliers to draw: the strongest of each region first.

  Args:
    points: [M, 2] float, (x, y) in image 1, x in [0, width], y in [0, 1].
    strengths: [M] float, larger for a better inlier.
    width: Width of the photo by its height.
    most: Largest number of lines.

  Returns:
    [min(M, most)] int indices, weakest first.
  """
  cells = np.floor(points * [_GRID / max(width, 1e-9), _GRID]).astype(int)
  order = np.lexsort((-strengths, *cells.T))
  places = np.arange(len(order))
  starts = np.diff(cells[order], axis=0, prepend=-1).any(axis=1)
  # The best of each cell come first, then the second best, and so on.
  turns = places - np.maximum.accumulate(np.where(starts, places, 0))
  chosen = order[np.lexsort((-strengths[order], turns))][:most]
  return chosen[np.argsort(strengths[chosen], kind="stable")]


MAX_CIRCLES = 400

_GAP = 0.012  # Between the photos, as a share of their width together.
# Longer photos are drawn squeezed to this: two in a row, and one alone.
_VIZ_LONGEST, _LONGEST_ALONE = 4.0, 12.0


def draw_matches(
  path, image_1, image_2, features_1, features_2, match, title=None
):
  """Draws two photos side by side, with lines between what agrees.

  At most 100 lines are drawn, the strongest of each region of image 1; the
  caption says how many there are. Where nothing matches, it says so. A photo
  whose sides differ more than 4 to 1 is drawn squeezed.

  Args:
    path: File to be; the extension decides the format (.png, .jpg, .pdf, ...).
    image_1: [H1, W1, 3] or [H1, W1] uint8.
    image_2: [H2, W2, 3] or [H2, W2] uint8; drawn as high as image 1.
    features_1: features.LocalFeatures, with (y, x) in pixels of image 1.
    features_2: features.LocalFeatures, with (y, x) in pixels of image 2.
    match: matching.Match of these features.
    title: Words for the head line, or None for the verdict.

  Raises:
    InputError: If the format is unknown or an array is no image.
  """
  suffix = check_path(path)
  drawing = _matches_figure(
    (image_1, image_2), (features_1, features_2), match, title
  )
  save(drawing, path, suffix)


def matches_jpeg(image_1, image_2, features_1, features_2, match):
  """Returns the picture of `draw_matches` as the bytes of a JPEG file."""
  drawing = _matches_figure(
    (image_1, image_2), (features_1, features_2), match, None
  )
  buffer = io.BytesIO()
  drawing.savefig(buffer, format="jpeg", dpi=DPI)
  return buffer.getvalue()


def draw_features(path, image, features, title=None):
  """Draws a photo with its features: as wide as their scale, by attention.

  At most the 400 with the highest attention are drawn.

  Args:
    path: File to be; the extension decides the format (.png, .jpg, .pdf, ...).
    image: [H, W, 3] or [H, W] uint8.
    features: features.LocalFeatures, with (y, x) in pixels of the image.
    title: Words for the head line, or None for the number of features.

  Raises:
    InputError: If the format is unknown or the array is no image.
  """
  suffix = check_path(path)
  image = as_rgb(image)
  height, width = image.shape[:2]
  drawing, axes = canvas(aspect_of(image, _LONGEST_ALONE))
  extent = (-0.5, width - 0.5, height - 0.5, -0.5)
  axes.imshow(small(image), extent=extent, aspect="auto")
  order = np.argsort(-np.asarray(features.attention), kind="stable")
  order, bar = order[:MAX_CIRCLES], None
  if len(order):
    circles = _circles(features, order, max(height, width))
    axes.add_collection(circles)
    low, high = circles.get_clim()
    bar = colour_bar(drawing, circles, f"{low:.3g}", f"{high:.3g}", "attention")
  axes.set(xlim=extent[:2], ylim=extent[2:])
  number = len(features)
  caption = "circles grow with scale" if number else ""
  if number > len(order):
    caption = f"the {len(order)} with the highest attention; {caption}"
  words_picture(drawing, title or f"{number} local features", caption, bar)
  save(drawing, path, suffix)


def _matches_figure(images, features, match, title):
  """Returns the figure of `draw_matches`."""
  images = [as_rgb(image) for image in images]
  # Both as high as 1; x of the second starts after the first and a gap.
  widths = [aspect_of(image, _VIZ_LONGEST) for image in images]
  gap = _GAP * sum(widths)
  starts = (0.0, widths[0] + gap)
  total = sum(widths) + gap
  drawing, axes = canvas(total)
  for image, start, width in zip(images, starts, widths, strict=True):
    axes.imshow(small(image), extent=(start, start + width, 1, 0))
  points = []
  for side, (image, start) in enumerate(zip(images, starts, strict=True)):
    locations = np.asarray(features[side].locations, np.float64)
    located = locations.reshape([-1, 2])[match.inliers[:, side]]
    # Pixel centres are at integers, so that the image starts at -0.5.
    shares = (located + 0.5) / image.shape[:2]
    points.append(shares[:, ::-1] * [widths[side], 1] + [start, 0])
  drawn, bar = choose(points[0], match.strengths, starts[1]), None
  if len(drawn):
    lines = _lines(axes, points[0][drawn], points[1][drawn], match, drawn)
    limit = f"{match.residual_threshold:g} px off"
    bar = colour_bar(drawing, lines, limit, "on the spot", "inlier strength")
  axes.set(xlim=(0, total), ylim=(1, 0))
  caption = _caption(match, len(drawn))
  words_picture(drawing, title or _verdict(match), caption, bar)
  return drawing


def _lines(axes, starts, ends, match, drawn):
  """Draws the inliers, the strongest on top; returns the coloured lines."""
  segments = np.stack([starts, ends], axis=1)
  lines = collections.LineCollection(
    segments,
    cmap=COLOURS,
    linewidths=1.1,
    alpha=0.85,
    path_effects=OUTLINE,
  )
  lines.set_array(match.strengths[drawn])
  lines.set_clim(0, 1)
  axes.add_collection(lines)
  ends = np.concatenate([starts, ends])
  axes.scatter(
    ends[:, 0],
    ends[:, 1],
    s=16,
    c=np.tile(match.strengths[drawn], 2),
    cmap=COLOURS,
    vmin=0,
    vmax=1,
    edgecolors="#000000b0",
    linewidths=0.7,
    zorder=3,
    clip_on=False,  # Whole at the edge of a photo too.
  )
  return lines


def _circles(features, order, side):
  """Returns the circles of features, weakest first."""
  order = order[::-1]
  scales = np.asarray(features.scales, np.float64)[order]
  smallest = scales[scales > 0].min() if (scales > 0).any() else 1.0
  # The finest scale is 0.6 % of the photo's longer side in radius.
  radii = 0.006 * side * np.sqrt(np.maximum(scales / smallest, 1))
  attention = np.asarray(features.attention, np.float64)[order]
  centres = np.asarray(features.locations)[order][:, ::-1]
  circles = collections.PatchCollection(
    [patches.Circle(*each) for each in zip(centres, radii, strict=True)],
    cmap=COLOURS,
    facecolors="none",
    linewidths=1.2,
    path_effects=OUTLINE,
  )
  circles.set_array(attention)
  circles.set_clim(attention.min(), attention.max())
  return circles


def _verdict(match):
  word = "Match" if match.is_match else "No match"
  if match.model is None:
    return f"{word}: nothing agrees"
  return f"{word}: {match.score} inliers"


def _caption(match, drawn):
  putative = len(match.putative)
  parts = [f"{match.score} of {putative} putative matches agree with one map"]
  parts.append(f"{match.min_inliers} make a match")
  if drawn < match.score:
    parts.append(f"{drawn} lines drawn")
  return "  ·  ".join(parts)
