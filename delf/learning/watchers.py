"""Observers of supervised training: lines, TensorBoard, warnings, pictures."""

# ruff: noqa: D102 (methods of observers are those of loop.Observer)

import contextlib
import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
import tensorflow as tf
from absl import logging

from delf.base import files, progress
from delf.learning import delg, delg_settings, delg_steps, loop
from delf.pictures import figures
from delf.records import photo_list, tfrecord

# Losses on the live line.
_LOSSES = {
  "desc": delg_steps.DESCRIPTOR,
  "attn": delg_steps.ATTENTION,
  "recon": delg_steps.RECONSTRUCTION,
}


def standard(settings: delg_settings.Settings) -> list[loop.Observer]:
  """Return the observers of a run.

  They show progress, warn of likely mistakes, and write `train_logs` for
  TensorBoard, `metrics.jsonl` and, if the folder of the run is local,
  `curves.png`, `attention.png` and `attention_before.png`.
  """
  every, folder = settings.reporting.report_every, settings.logdir
  measured = Measurements(every)
  observers = [Diagnosis(), Live(every), Summaries(every), measured]
  if files.is_remote(folder):
    logging.info("%s: no pictures are drawn in a remote folder", folder)
    return observers
  return [*observers, Curves(measured), Attention()]


class Live(loop.Live):
  """Shows step, losses, accuracy, speed and remaining time."""

  def __init__(self, every: int):
    super().__init__(loop.Budget(), every)

  def start(self, learner: Any) -> None:
    self._budget = loop.Budget(steps=learner.settings.learning.max_iters)
    super().start(learner)

  def on_measure(self, step: int, metrics: loop.Metrics) -> None:
    parts = [f"{n.rpartition('/')[2]} {v:.1%}" for n, v in metrics.items()]
    line = f"validation at step {step}: accuracy {', '.join(parts)}"
    if self._bar is None:
      logging.info("%s", line)
    else:
      progress.say(line)

  def describe(self, means: loop.Metrics) -> str:
    losses = [f"{n} {means[t]:.3g}" for n, t in _LOSSES.items() if t in means]
    shares = [f"{means[tag]:.1%}" for tag in delg_steps.ACCURACY.values()]
    return f"loss {', '.join(losses)}, accuracy {' and '.join(shares)}"


class Summaries(loop.BoardObserver):
  """Writes a summary for TensorBoard each `every` steps."""

  _photos = 3

  def __init__(self, every: int):
    self._every = every

  def start(self, learner: Any) -> None:
    super().start(learner)
    self._last = learner.step, time.monotonic()

  def needs_details(self, step: int) -> bool:
    return step % self._every == 0

  def on_step(self, step: int, metrics: loop.Metrics, details: Any) -> None:
    if not self.needs_details(step):
      return
    (before, begin), now = self._last, time.monotonic()
    self._last = step, now
    speed = {"global_steps_per_sec": (step - before) / max(now - begin, 1e-9)}
    scalars = {**metrics, **details.sparsity, **self._ranges(details), **speed}
    attention = details.attention[: self._photos].astype(np.float32)
    images = {
      "batch_images": np.clip((details.images[: self._photos] + 1) / 2, 0, 1),
      "batch_attention": attention / max(float(attention.max()), 1e-9),
    }
    self.write(step, scalars, images)

  def _ranges(self, batch):
    """Return extremes of a batch, and of its attention with percentiles."""
    attention = batch.attention.astype(np.float32)
    values = {
      "image_range/min": batch.images.min(),
      "image_range/max": batch.images.max(),
      "attention/max": attention.max(),
      "attention/min": attention.min(),
      "attention/mean": attention.mean(),
    }
    for percent in (25, 50, 75):
      nearest = np.percentile(attention, percent, method="nearest")
      values[f"attention/percent_{percent}"] = nearest
    return {tag: float(value) for tag, value in values.items()}

  def on_measure(self, step: int, metrics: loop.Metrics) -> None:
    self.write(step, metrics)

  def on_save(self, step: int, path: str | os.PathLike) -> None:
    self.flush()


# Rate and batch size of DELG's training; rates for other batches are in
# proportion (Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677).
_RATE, _BATCH = 0.01, 256
# Ratio to the advised rate above which a rate deserves a warning. The
# original's defaults, 0.01 for batches of 32, have a ratio of 8.
_FAR = 8.0
# Number of first steps whose labels are checked.
_FIRST = 10
# Photos of each class, and steps, after which accuracy exceeds chance in a run
# that learns.
_DIAGNOSIS_PHOTOS, _STEPS = 5, 500
# Mean number of photos per class after which an unseen class is taken for a
# missing one: by chance, a class is unseen with a probability of e^-20.
_LABELS = 20
# Standard deviations over the mean above which hits are not due to chance.
_SURE = 3.0


def advised_rate(batch_size: int) -> float:
  """Return the learning rate of DELG, in proportion to the batch size."""
  return _RATE * batch_size / _BATCH


def is_chance(hits: float, photos: int, share: float) -> bool:
  """Return whether `hits` correct predictions may be due to chance.

  `share` is that of the photos in the most frequent class.
  """
  mean = photos * share
  return hits <= mean + _SURE * math.sqrt(mean) + 1


class Diagnosis(loop.Observer):
  """Logs likely mistakes: in the labels, the learning rate, the accuracy."""

  def start(self, learner: Any) -> None:
    self._data, self._begin = learner.settings.data, learner.step
    classes = self._data.num_classes
    self._length = max(
      _STEPS, _DIAGNOSIS_PHOTOS * classes // self._data.batch_size
    )
    self._hits = dict.fromkeys(delg_steps.ACCURACY, 0.0)
    self._steps = 0
    self._counts, self._checked = np.zeros(classes, np.int64), False
    self._share = 1 / classes
    labels = photo_list.read_labels_beside(self._data.train_file_pattern)
    if labels is not None:
      counts = np.array(labels.counts.get("train", ()))
      if counts.sum():
        self._share = counts.max() / counts.sum()
        _warn_of_counts(labels.names, counts)
    _advise(learner.settings)

  def needs_details(self, step: int) -> bool:
    return step - self._begin <= _FIRST

  def on_step(self, step: int, metrics: loop.Metrics, details: Any) -> None:
    if details is not None:
      np.add.at(self._counts, details.labels, 1)
      self._check_labels(step)
    self._steps += 1
    if self._steps > self._length // 2:
      # Before, even a run that learns may be at chance.
      for name, tag in delg_steps.ACCURACY.items():
        self._hits[name] += metrics[tag] * self._data.batch_size
    if self._steps == self._length:
      self._check_accuracy(step)
      # Check again, at growing intervals.
      self._hits = dict.fromkeys(self._hits, 0.0)
      self._steps, self._length = 0, 2 * self._length

  def _check_labels(self, step):
    """Warn once if all first photos have one label, and of missing labels."""
    classes, number = len(self._counts), self._counts.sum()
    if step - self._begin == _FIRST and classes > 1:
      (present,) = self._counts.nonzero()
      if len(present) == 1 and number > 1:
        logging.warning(
          "all %d photos of the first %d batches are of class %d of %d: are "
          "the TFRecords labelled, and of more than one class?",
          *(number, _FIRST, present[0], classes),
        )
    if not self._checked and number >= _LABELS * classes:
      self._checked = True
      missing = int((self._counts == 0).sum())
      if missing:
        logging.warning(
          "%d of %d classes are missing among %d photos, and are not learnt: "
          "is the number of classes that of the TFRecords?",
          *(missing, classes, number),
        )

  def _check_accuracy(self, step):
    steps = self._length - self._length // 2
    photos = steps * self._data.batch_size
    hits = self._hits.items()
    names = [n for n, h in hits if is_chance(h, photos, self._share)]
    if not names or len(self._counts) == 1:
      return
    logging.warning(
      "step %d: the accuracy of %s is that of chance over the last %d steps. "
      "Does --overfit_one_batch learn? If so, a tenth of the learning rate, "
      "warm-up, or initial weights may help; if not, check the labels and "
      "batch_images in TensorBoard",
      *(step, " and ".join(names), steps),
    )


def _advise(settings):
  rate, batch = settings.learning.initial_lr, settings.data.batch_size
  advised = advised_rate(batch)
  advice = (
    f"learning rate {rate:g} for batches of {batch}; {_RATE:g} for {_BATCH}, "
    f"in proportion, is {advised:g} (--initial_lr={advised:g})"
  )
  if rate <= _FAR * advised:
    logging.info("%s", advice)
    return
  warm_up = settings.learning.warm_up
  more = "" if warm_up else "; --warm_up=1000 helps to start at a high rate"
  logging.warning("%s%s", advice, more)


def _warn_of_counts(names, counts):
  """Warn of classes without photos, and of many with a single photo."""
  (none,), one = np.nonzero(counts == 0), int((counts == 1).sum())
  if len(none):
    logging.warning(
      "%d of %d classes have no training photo (the first is %s): they are "
      "not learnt",
      *(len(none), len(counts), names[none[0]]),
    )
  if 2 * one > len(counts):
    logging.warning(
      "%d of %d classes have a single training photo: too few to learn how "
      "photos of one class differ",
      *(one, len(counts)),
    )


METRICS = "metrics.jsonl"

# Metrics of which a line has the last value; of others it has the mean.
_LAST = (delg_steps.LEARNING_RATE, "desc/scale_factor")


class Measurements(loop.Observer):
  """Writes the mean metrics of each `every` steps to `metrics.jsonl`.

  `rows` are the lines in the order of steps: metrics by tag, with `step`. A
  resumed run replaces lines of steps that it repeats.
  """

  def __init__(self, every: int):
    self._every = every
    self._file: IO[bytes] | None = None
    self._sums: dict[str, float] = {}
    self._number = 0
    self.rows: list[dict[str, float]] = []

  def start(self, learner: Any) -> None:
    self._path = os.path.join(learner.settings.logdir, METRICS)
    self.rows = [
      r for r in read_metrics(self._path) if r["step"] <= learner.step
    ]
    self._write_all()
    if not files.is_remote(self._path):
      self._file = files.open_to_append(self._path)

  def on_step(self, step: int, metrics: loop.Metrics, details: Any) -> None:
    for name, value in metrics.items():
      total = 0.0 if name in _LAST else self._sums.get(name, 0.0)
      self._sums[name] = total + value
    self._number += 1
    if step % self._every == 0:
      means = {
        name: value if name in _LAST else value / self._number
        for name, value in self._sums.items()
      }
      self._sums, self._number = {}, 0
      self.on_measure(step, means)

  def on_measure(self, step: int, metrics: loop.Metrics) -> None:
    self.rows.append({"step": step, **metrics})
    if self._file is None:  # Object stores cannot append.
      self._write_all()
      return
    try:
      self._file.write(_line(self.rows[-1]))
      self._file.flush()
    except OSError as error:
      raise OSError(error.errno, error.strerror, self._path) from error

  def close(self) -> None:
    if self._file is not None:
      # Lines are flushed one by one: an error here was raised before.
      with contextlib.suppress(OSError):
        self._file.close()

  def _write_all(self):
    files.write_bytes(self._path, *map(_line, self.rows))


def _line(row):
  return f"{json.dumps(row)}\n".encode()


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
  """Read the `metrics.jsonl` of a run, without an incomplete last line.

  Return an empty list if the file is missing or, with a warning, unreadable.
  """
  try:
    lines = files.read_bytes(path).split(b"\n")
    rows = [json.loads(line) for line in lines[:-1]]
    if all(isinstance(row["step"], int) for row in rows):
      return rows
  except FileNotFoundError:
    return []
  except (ValueError, KeyError, TypeError):
    pass
  logging.warning("%s: not the metrics of a run; the file is replaced", path)
  return []


def curve(rows: Sequence[Mapping], tag: str) -> tuple[list, list]:
  """Return the steps that have a tag, and its values."""
  points = [(row["step"], row[tag]) for row in rows if tag in row]
  return [step for step, _ in points], [value for _, value in points]


CURVES, ATTENTION = "curves.png", "attention.png"
ATTENTION_BEFORE = "attention_before.png"
# Number of photos whose attention is drawn.
_PHOTOS = 4

_PANELS = {
  "loss": {
    "descriptor": delg_steps.DESCRIPTOR,
    "attention": delg_steps.ATTENTION,
  },
  "accuracy": {
    "descriptor": delg_steps.ACCURACY["desc"],
    "attention": delg_steps.ACCURACY["attn"],
    "validation, descriptor": "validation/desc",
    "validation, attention": "validation/attn",
  },
  "reconstruction": {"mean squared error": delg_steps.RECONSTRUCTION},
  "learning rate": {"": delg_steps.LEARNING_RATE},
}


class Curves(loop.Observer):
  """Draws the rows of an earlier observer at checkpoints and validations."""

  def __init__(self, measured: Measurements):
    self._measured = measured

  def start(self, learner: Any) -> None:
    self._path = os.path.join(learner.settings.logdir, CURVES)
    data = learner.settings.data
    self._caption = (
      f"batches of {data.batch_size}; {data.num_classes} classes, accuracy of "
      f"chance {1 / data.num_classes:.2g}"
    )

  def on_save(self, step: int, _: Any) -> None:
    rows = self._measured.rows
    panels: dict[str, dict] = {}
    for title, tags in _PANELS.items():
      curves = {name: curve(rows, tag) for name, tag in tags.items()}
      curves = {name: points for name, points in curves.items() if points[0]}
      panels |= {title: curves} if curves else {}
    if panels:
      title = f"Training, {step} steps"
      figures.draw_curves(self._path, panels, title, self._caption)

  on_measure = on_save


class Attention(loop.BoardObserver):
  """Draws attention on the same photos at checkpoints and validations.

  They are the first validation photos or, without validation, the first
  training photos.
  """

  def start(self, learner: Any) -> None:
    super().start(learner)
    self._drawn = self._photos = None
    dataset = learner.source.validation()
    if dataset is None:
      dataset = learner.source.training()
    with tfrecord.clear_errors():
      for images, _ in dataset.take(1):
        self._photos = images[:_PHOTOS].numpy()
    if learner.step == 0:
      self._draw(0, ATTENTION_BEFORE)

  def on_save(self, step: int, _: Any) -> None:
    self._draw(step, ATTENTION)

  on_measure = on_save

  def _draw(self, step, name):
    if self._photos is None or self._drawn == step:
      return
    self._drawn = step
    outputs = self._learner.model.global_and_local_forward_pass(
      self._photos, training=False
    )
    attention = tf.cast(outputs[2], tf.float32).numpy()[..., 0]
    if not np.isfinite(attention).all():
      return  # The next step raises an error.
    photos = np.clip(np.rint(self._photos * 128 + 128), 0, 255).astype(np.uint8)
    over = figures.attention_over(photos, attention)
    self.write(step, {}, {"attention_on_photos": over})
    self.flush()
    path = os.path.join(self._learner.settings.logdir, name)
    title = f"Attention after {step} steps"
    lowest, highest = attention.min(), attention.max()
    caption = f"the same photos each time; {lowest:.3g} to {highest:.3g}"
    figures.draw_attention(path, photos, attention, title, caption)


# Steps until `overfit` gives up.
STEPS = 200
# Ratios of last to first loss at which a model learns. Attention is slower: it
# uses features that the descriptor's loss trains.
_FALLEN = {delg_steps.DESCRIPTOR: 0.5, delg_steps.ATTENTION: 0.9}
# Ratio, of all losses, at which training may stop early.
_ENOUGH = 0.1


@dataclasses.dataclass(frozen=True)
class Verdict:
  """Result of training on one batch."""

  steps: int
  # First and last value of the losses that should fall, by tag.
  losses: dict[str, tuple[float, float]]

  @property
  def learns(self) -> bool:
    """Whether each loss has fallen enough: the descriptor's to a half."""
    return all(b <= _FALLEN[tag] * a for tag, (a, b) in self.losses.items())

  def __str__(self) -> str:
    parts = [f"{t} {a:.4g} -> {b:.4g}" for t, (a, b) in self.losses.items()]
    end = "it learns" if self.learns else "it does not learn"
    return f"one batch, {self.steps} steps: {', '.join(parts)}: {end}"


def overfit(
  settings: delg_settings.Settings,
  source: delg.Source,
  observers: Sequence[loop.Observer] = (),
) -> Verdict:
  """Train on the first batch until its losses have fallen; keep no files.

  The learning rate falls to 0 in at most `STEPS` steps.
  """
  learning, replace = settings.learning, dataclasses.replace
  losses = _Losses(learning.attention_loss_weight > 0)
  steps = min(learning.max_iters, STEPS)
  learning = replace(learning, max_iters=steps, warm_up=0)
  never = {"save_every": steps + 1, "validate_every": steps + 1}
  reporting = replace(settings.reporting, **never)
  with tempfile.TemporaryDirectory() as folder:
    short = replace(
      settings, logdir=folder, learning=learning, reporting=reporting
    )
    with contextlib.suppress(_Enough):
      delg.fit(short, [losses, *observers], _OneBatch(source))
  return Verdict(
    losses.steps, {t: (losses.first[t], losses.last[t]) for t in losses.tags}
  )


class _OneBatch:
  """The first batch of a source, repeated."""

  def __init__(self, source):
    self._source = source

  def training(self, start_batch=0):
    for batch in self._source.training().take(1):
      return tf.data.Dataset.from_tensors(batch).repeat()
    return tf.data.Dataset.range(0)

  def validation(self):
    return None


class _Enough(Exception):  # noqa: N818 (never leaves this module)
  """The losses have fallen far enough."""


class _Losses(loop.Observer):
  """Keeps the first and last losses, and ends the run if they have fallen."""

  def __init__(self, attention):
    self.tags = list(_FALLEN) if attention else [delg_steps.DESCRIPTOR]
    self.first: loop.Metrics = {}
    self.steps = 0

  def on_step(self, step: int, metrics: loop.Metrics, details: Any) -> None:
    self.last, self.steps = metrics, step
    self.first = self.first or metrics
    if all(self.last[t] <= _ENOUGH * self.first[t] for t in self.tags):
      raise _Enough
