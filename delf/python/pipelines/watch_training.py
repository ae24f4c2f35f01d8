"""All that watches a training: lines, TensorBoard, measurements, pictures."""

import os

import numpy as np
import tensorflow as tf
from absl import logging

from delf.python import files, viz_training
from delf.python.datasets.labelled_records import clear_errors
from delf.python.training.supervised import (
  board_file,
  diagnosis,
  live,
  measurements,
  objectives,
  observers,
  stepping,
  summaries,
)

CURVES, ATTENTION = "curves.png", "attention.png"
ATTENTION_BEFORE = "attention_before.png"
# Photos whose attention is drawn again and again.
_PHOTOS = 4

_PANELS = {
  "loss": {
    "descriptor": objectives.DESCRIPTOR,
    "attention": objectives.ATTENTION,
  },
  "accuracy": {
    "descriptor": objectives.ACCURACY["desc"],
    "attention": objectives.ACCURACY["attn"],
    "validation, descriptor": "validation/desc",
    "validation, attention": "validation/attn",
  },
  "reconstruction": {"mean squared error": objectives.RECONSTRUCTION},
  "learning rate": {"": stepping.LEARNING_RATE},
}


def watching(settings):
  """Returns the observers of a run.

  Args:
    settings: training.supervised.settings.Settings.

  Returns:
    list of observers.Observer: a line for people, `train_logs` for TensorBoard,
    `metrics.jsonl`, what is wrong, and, where the run is in a local folder,
    `curves.png`, `attention.png` and `attention_before.png`.
  """
  every = settings.reporting.report_every
  measured = measurements.Measurements(every)
  found = [
    diagnosis.Diagnosis(),
    live.Live(every),
    summaries.Summaries(every),
    measured,
  ]
  if files.is_remote(settings.logdir):
    logging.info("%s: no pictures in a remote folder", settings.logdir)
  else:
    found += [Curves(measured), Attention()]
  return found


class Curves(observers.Observer):
  """Draws the curves at each checkpoint and validation."""

  def __init__(self, measured):
    """Creates it.

    Args:
      measured: measurements.Measurements, which is told before this one.
    """
    self._measured = measured

  def start(self, run):
    """Remembers where to draw, and what chance is."""
    self._path = os.path.join(run.settings.logdir, CURVES)
    data = run.settings.data
    self._caption = (
      f"batches of {data.batch_size}; {data.num_classes} classes, of which "
      f"chance guesses {1 / data.num_classes:.2g}"
    )

  def on_save(self, step, path):
    """Draws."""
    self._draw(step)

  def on_validation(self, step, metrics):
    """Draws."""
    self._draw(step)

  def _draw(self, step):
    rows = self._measured.rows
    panels = {}
    for words, tags in _PANELS.items():
      curves = {
        name: measurements.curve(rows, tag)
        for name, tag in tags.items()
        if any(tag in row for row in rows)
      }
      if curves:
        panels[words] = curves
    if panels:
      title = f"Training, {step} steps"
      viz_training.draw_curves(self._path, panels, title, self._caption)


class Attention(observers.Observer):
  """Draws where attention is on the same photos, at each validation.

  They are the first of validation or, where there is none, of training.
  """

  _file = None

  def start(self, run):
    """Takes the photos, and draws what attention is before the first step."""
    self._run, self._drawn = run, None
    self._file = board_file.BoardFile(run.train_logs)
    self._photos = _first_photos(run.source)
    if run.step == 0:
      self._draw(0, ATTENTION_BEFORE)

  def on_save(self, step, path):
    """Draws."""
    self._draw(step, ATTENTION)

  def on_validation(self, step, metrics):
    """Draws."""
    self._draw(step, ATTENTION)

  def close(self):
    """Closes the file of TensorBoard."""
    if self._file is not None:
      self._file.close()

  def _draw(self, step, name):
    if self._photos is None or self._drawn == step:
      return
    self._drawn = step
    attention = _attention(self._run.model, self._photos)
    if not np.isfinite(attention).all():
      return  # The next step says so.
    photos = np.clip(np.rint(self._photos * 128 + 128), 0, 255).astype(np.uint8)
    over = viz_training.attention_over(photos, attention)
    self._file.write(step, {}, {"attention_on_photos": over})
    self._file.flush()
    path = os.path.join(self._run.settings.logdir, name)
    title = f"Attention after {step} steps"
    lowest, highest = attention.min(), attention.max()
    caption = f"the same photos each time; {lowest:.3g} to {highest:.3g}"
    viz_training.draw_attention(path, photos, attention, title, caption)


def _first_photos(source):
  """Returns the first photos of a source, float32 [N, H, W, 3], or None.

  Raises:
    InputError: If a record of them is not what it should be.
  """
  dataset = source.validation()
  if dataset is None:
    dataset = source.training()
  with clear_errors.clear_errors():
    for images, _ in dataset.take(1):
      return images[:_PHOTOS].numpy()
  return None


def _attention(model, images):
  """Returns the attention of a model, float32 [N, H', W']."""
  outputs = model.global_and_local_forward_pass(images, training=False)
  return tf.cast(outputs[2], tf.float32).numpy()[..., 0]
