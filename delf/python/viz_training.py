"""Pictures of how a training goes: its curves, and what attention looks at."""

import numpy as np
from matplotlib import ticker
from PIL import Image

from delf.python import picture

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
  suffix = picture.check_path(path)
  rows = -(-len(panels) // 2)
  drawing, axes = picture.canvas(2.5 / rows)
  for i, (words, curves) in enumerate(panels.items()):
    left, bottom = (i % 2) / 2 + 0.05, 1 - (i // 2 + 1) / rows
    place = (left, bottom + 0.08 / rows, 0.44, 0.8 / rows)
    _panel(axes.inset_axes(place), words, curves)
  picture.words(drawing, title, caption)
  picture.save(drawing, path, suffix)


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
  suffix = picture.check_path(path)
  photos, attention = photos[:_COLUMNS], attention[:_COLUMNS]
  rows = [np.concatenate(list(photos), axis=1)]
  rows.append(np.concatenate(list(attention_over(photos, attention)), axis=1))
  both = np.concatenate(rows)
  drawing, axes = picture.canvas(both.shape[1] / both.shape[0])
  axes.imshow(both)
  picture.words(drawing, title, caption)
  picture.save(drawing, path, suffix)


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
    colours = picture.COLOURS(np.asarray(strength))[..., :3] * 255
    share = _LEAST + (_MOST - _LEAST) * np.asarray(strength)[..., None]
    grey = np.asarray(Image.fromarray(photo).convert("L"))[..., None]
    found.append((1 - share) * grey + share * colours)
  return np.rint(np.stack(found)).astype(np.uint8)
