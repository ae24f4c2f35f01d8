"""Pictures of features and matches, drawn without a display."""

import io

import numpy as np
from matplotlib import collections, patches

from delf.python import picture, spread

MAX_CIRCLES = 400

_GAP = 0.012  # Between the photos, as a share of their width together.
# Longer photos are drawn squeezed to this: two in a row, and one alone.
_LONGEST, _LONGEST_ALONE = 4.0, 12.0


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
  suffix = picture.check_path(path)
  drawing = _matches_figure(
    (image_1, image_2), (features_1, features_2), match, title
  )
  picture.save(drawing, path, suffix)


def matches_jpeg(image_1, image_2, features_1, features_2, match):
  """Returns the picture of `draw_matches` as the bytes of a JPEG file."""
  drawing = _matches_figure(
    (image_1, image_2), (features_1, features_2), match, None
  )
  buffer = io.BytesIO()
  drawing.savefig(buffer, format="jpeg", dpi=picture.DPI)
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
  suffix = picture.check_path(path)
  image = picture.as_rgb(image)
  height, width = image.shape[:2]
  drawing, axes = picture.canvas(picture.aspect_of(image, _LONGEST_ALONE))
  extent = (-0.5, width - 0.5, height - 0.5, -0.5)
  axes.imshow(picture.small(image), extent=extent, aspect="auto")
  order = np.argsort(-np.asarray(features.attention), kind="stable")
  order, bar = order[:MAX_CIRCLES], None
  if len(order):
    circles = _circles(features, order, max(height, width))
    axes.add_collection(circles)
    low, high = circles.get_clim()
    bar = picture.colour_bar(
      drawing, circles, f"{low:.3g}", f"{high:.3g}", "attention"
    )
  axes.set(xlim=extent[:2], ylim=extent[2:])
  number = len(features)
  caption = "circles grow with scale" if number else ""
  if number > len(order):
    caption = f"the {len(order)} with the highest attention; {caption}"
  picture.words(drawing, title or f"{number} local features", caption, bar)
  picture.save(drawing, path, suffix)


def _matches_figure(images, features, match, title):
  """Returns the figure of `draw_matches`."""
  images = [picture.as_rgb(image) for image in images]
  # Both as high as 1; x of the second starts after the first and a gap.
  widths = [picture.aspect_of(image, _LONGEST) for image in images]
  gap = _GAP * sum(widths)
  starts = (0.0, widths[0] + gap)
  total = sum(widths) + gap
  drawing, axes = picture.canvas(total)
  for image, start, width in zip(images, starts, widths, strict=True):
    axes.imshow(picture.small(image), extent=(start, start + width, 1, 0))
  points = []
  for side, (image, start) in enumerate(zip(images, starts, strict=True)):
    locations = np.asarray(features[side].locations, np.float64)
    located = locations.reshape([-1, 2])[match.inliers[:, side]]
    # Pixel centres are at integers, so that the image starts at -0.5.
    shares = (located + 0.5) / image.shape[:2]
    points.append(shares[:, ::-1] * [widths[side], 1] + [start, 0])
  drawn, bar = spread.choose(points[0], match.strengths, starts[1]), None
  if len(drawn):
    lines = _lines(axes, points[0][drawn], points[1][drawn], match, drawn)
    limit = f"{match.residual_threshold:g} px off"
    bar = picture.colour_bar(
      drawing, lines, limit, "on the spot", "inlier strength"
    )
  axes.set(xlim=(0, total), ylim=(1, 0))
  caption = _caption(match, len(drawn))
  picture.words(drawing, title or _verdict(match), caption, bar)
  return drawing


def _lines(axes, starts, ends, match, drawn):
  """Draws the inliers, the strongest on top; returns the coloured lines."""
  segments = np.stack([starts, ends], axis=1)
  lines = collections.LineCollection(
    segments,
    cmap=picture.COLOURS,
    linewidths=1.1,
    alpha=0.85,
    path_effects=picture.OUTLINE,
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
    cmap=picture.COLOURS,
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
    cmap=picture.COLOURS,
    facecolors="none",
    linewidths=1.2,
    path_effects=picture.OUTLINE,
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
