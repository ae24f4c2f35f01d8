"""Pictures of boxes in photos, drawn without a display."""

import numpy as np
from matplotlib import patches

from delf.python import errors, picture

# Boxes of one picture. More hide the photo and each other.
MAX_BOXES = 20

_LONGEST = 12.0  # Longer photos are drawn squeezed to this.
_INK = "#15191e"

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
  suffix = picture.check_path(path)
  image = picture.as_rgb(image)
  boxes = np.asarray(boxes, np.float64).reshape([-1, 4])
  scores = np.asarray(scores, np.float64)
  if scores.shape != boxes.shape[:1]:
    raise errors.InputError(
      f"a score of each of {len(boxes)} boxes", f"shape {list(scores.shape)}"
    )
  drawing, axes = picture.canvas(picture.aspect_of(image, _LONGEST))
  axes.imshow(picture.small(image), extent=(0, 1, 1, 0), aspect="auto")
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
  picture.words(drawing, heading, "  ·  ".join(words), bar)
  picture.save(drawing, path, suffix)


def _draw(drawing, axes, boxes, scores):
  """Draws boxes, best first, and what their colours mean; returns its left."""
  low, high = min(scores.min(), 0.0), max(scores.max(), 1.0)
  colours = picture.COLOURS((scores - low) / (high - low))
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
      path_effects=picture.OUTLINE,
      zorder=2 + (number - i) / number,
      clip_on=False,  # Whole at the edge of a photo too.
    )
    axes.add_patch(outline)
  taken = []
  for box, score, colour in zip(boxes, scores, colours, strict=True):
    taken.append(_tag(axes, box, f"{score:.2f}", colour, taken))
  shown = axes.scatter([], [], c=[], cmap=picture.COLOURS, vmin=low, vmax=high)
  return picture.colour_bar(drawing, shown, f"{low:g}", f"{high:g}", "score")


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
    color=_INK,
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
