"""All that watches a training: lines, TensorBoard, measurements, pictures."""

import contextlib
import dataclasses
import json
import math
import os
import tempfile

import numpy as np
import tensorflow as tf
from absl import logging

from delf.base import files, progress
from delf.learning import delg, delg_steps, loop
from delf.pictures import figures
from delf.records import photo_list, tfrecord

# Metric and the word for it on the line; the rest is in TensorBoard.
_WORDS = {
  delg_steps.DESCRIPTOR: "desc",
  delg_steps.ATTENTION: "attn",
  delg_steps.RECONSTRUCTION: "recon",
}
# Where one metric differs from step to step, a mean says more; of so many.
_MEAN_OF = 20


class Live(delg.Observer):
  """Shows step, rate, losses, accuracy and the time that is left.

  On a terminal that is a bar; elsewhere, as in a log, it is a line at each
  report. Numbers are means over the last steps.
  """

  def __init__(self, every):
    """Creates it.

    Args:
      every: Steps from one line of a log to the next.
    """
    self._every = every
    self._recent = []
    self._bar = self._rate = self._last = None

  def start(self, run):
    """Shows where the run is."""
    self._last = run.settings.learning.max_iters
    self._rate = loop.StepRate(run.step)
    if progress.is_terminal():
      self._bar = progress.count("training", self._last, run.step)

  def on_step(self, step, metrics, batch):
    """Shows a step."""
    self._recent = [*self._recent[1 - _MEAN_OF :], metrics]
    if self._bar is not None:
      self._bar.set_postfix_str(self._words(), refresh=False)
      self._bar.update(1)
    elif step % self._every == 0:
      rate = self._rate.since(step)
      left = progress.duration((self._last - step) / max(rate, 1e-9))
      words = f"{self._words()}, {rate:.3g} steps/s, {left} left"
      logging.info("step %d of %d: %s", step, self._last, words)

  def on_validation(self, step, metrics):
    """Shows the accuracy on validation photos."""
    parts = [f"{n.rpartition('/')[2]} {v:.1%}" for n, v in metrics.items()]
    words = f"validation at step {step}: accuracy {', '.join(parts)}"
    if self._bar is None:
      logging.info("%s", words)
    else:
      progress.say(words)

  def close(self):
    """Leaves the line as it is."""
    if self._bar is not None:
      self._bar.close()

  def _words(self):
    losses = [
      f"{word} {self._mean(name):.3g}"
      for name, word in _WORDS.items()
      if name in self._recent[-1]
    ]
    shares = [
      f"{self._mean(name):.1%}" for name in delg_steps.ACCURACY.values()
    ]
    return f"loss {', '.join(losses)}, accuracy {' and '.join(shares)}"

  def _mean(self, name):
    return sum(each[name] for each in self._recent) / len(self._recent)


_PERCENTILES = (25, 50, 75)
# Photos of a batch that are shown.
_SHOWN = 3


class Summaries(delg.Observer):
  """Writes the files of TensorBoard."""

  def __init__(self, every):
    """Creates it.

    Args:
      every: Steps from one summary to the next.
    """
    self._every = every
    self._file = self._rate = None

  def start(self, run):
    """Begins a file; those of earlier runs stay."""
    self._file = loop.BoardFile(run.train_logs)
    self._rate = loop.StepRate(run.step)

  def wants(self, step):
    """Returns whether a summary is due."""
    return step % self._every == 0

  def on_step(self, step, metrics, batch):
    """Writes losses, rates and what a batch looks like."""
    if not self.wants(step):
      return
    scalars = metrics | batch.sparsity | _ranges(batch)
    scalars["global_steps_per_sec"] = self._rate.since(step)
    attention = batch.attention[:_SHOWN].astype(np.float32)
    images = {
      "batch_images": np.clip((batch.images[:_SHOWN] + 1) / 2, 0, 1),
      "batch_attention": attention / max(float(attention.max()), 1e-9),
    }
    self._file.write(step, scalars, images)

  def on_validation(self, step, metrics):
    """Writes the accuracy on validation photos."""
    self._file.write(step, metrics)

  def on_save(self, step, path):
    """Writes out what is waiting: a checkpoint is worth its curve."""
    self._file.flush()

  def close(self):
    """Closes the file."""
    if self._file is not None:
      self._file.close()


def _ranges(batch):
  """Returns a dict of tag to float: extremes of a batch and of its attention.

  A percentile is the value that is nearest to it, as the original has it.
  """
  attention = batch.attention.astype(np.float32)
  found = {
    "image_range/min": batch.images.min(),
    "image_range/max": batch.images.max(),
    "attention/max": attention.max(),
    "attention/min": attention.min(),
    "attention/mean": attention.mean(),
  }
  values = np.percentile(attention, _PERCENTILES, method="nearest")
  for percent, value in zip(_PERCENTILES, values, strict=True):
    found[f"attention/percent_{percent}"] = value
  return {tag: float(value) for tag, value in found.items()}


# What DELG was trained with, and what is in proportion to it: Goyal et al.,
# "Accurate, Large Minibatch SGD", arXiv:1706.02677.
_RATE, _BATCH = 0.01, 256
# A rate that is more than so many times as high is worth a warning; that of the
# original's defaults, 0.01 for 32, is not.
_FAR = 8.0

# Steps in which labels are looked at first.
_FIRST = 10
# Photos of each class, and steps, after which accuracy should tell.
_DIAGNOSIS_PHOTOS, _STEPS = 5, 500
# Labels of each class after which one that did not come is a missing one: each
# comes at least once but with a chance of e^-20.
_LABELS = 20
# Hits that are so many standard deviations over their mean are no chance.
_SURE = 3.0


def advised_rate(batch_size):
  """Returns the learning rate that is in proportion to a batch's size."""
  return _RATE * batch_size / _BATCH


def is_chance(hits, photos, share):
  """Returns whether guesses are no better than always the same one.

  Args:
    hits: Number of right guesses.
    photos: Number of guesses.
    share: Of the photos, those of the most frequent class.
  """
  mean = photos * share
  return hits <= mean + _SURE * math.sqrt(mean) + 1


class Diagnosis(delg.Observer):
  """Logs what is wrong with a run, or what may be."""

  def start(self, run):
    """Says what settings and counts of photos make likely."""
    self._data, self._begin = run.settings.data, run.step
    classes = self._data.num_classes
    self._length = max(
      _STEPS, _DIAGNOSIS_PHOTOS * classes // self._data.batch_size
    )
    self._hits, self._steps = {}, 0
    self._seen, self._looked = np.zeros(classes, np.int64), False
    self._share = 1 / classes
    labels = photo_list.read_labels_beside(self._data.train_file_pattern)
    counts = (
      np.array(labels.counts.get("train", ())) if labels else np.array(())
    )
    if counts.sum():
      self._share = counts.max() / counts.sum()
      _warn_of_counts(labels.names, counts)
    _advise(run.settings)

  def wants(self, step):
    """Returns whether the labels of this step are looked at."""
    return step - self._begin <= _FIRST

  def on_step(self, step, metrics, batch):
    """Looks at labels and accuracy."""
    if batch is not None:
      np.add.at(self._seen, batch.labels, 1)
      self._look_at_labels(step)
    self._steps += 1
    if self._steps > self._length // 2:
      # In the steps before, a run that learns may have been at chance.
      for word, name in delg_steps.ACCURACY.items():
        hits = metrics[name] * self._data.batch_size
        self._hits[word] = self._hits.get(word, 0) + hits
    if self._steps == self._length:
      self._look_at_accuracy(step)
      # A run that goes on like that is not told of it again and again.
      self._hits, self._steps, self._length = {}, 0, 2 * self._length

  def _look_at_labels(self, step):
    """Warns once of one label in all first batches, and of labels of none."""
    classes, number = len(self._seen), self._seen.sum()
    if step - self._begin == _FIRST and classes > 1:
      (found,) = self._seen.nonzero()
      if len(found) == 1 and number > 1:
        logging.warning(
          "all %d photos of the first %d batches are of class %d of %d: are "
          "the TFRecords labelled, and of more than one class?",
          *(number, _FIRST, found[0], classes),
        )
    if not self._looked and number >= _LABELS * classes:
      self._looked = True
      missing = int((self._seen == 0).sum())
      if missing:
        logging.warning(
          "%d of %d classes did not come among %d photos: nothing is learnt "
          "of them; is the number of classes that of the TFRecords?",
          *(missing, classes, number),
        )

  def _look_at_accuracy(self, step):
    steps = self._length - self._length // 2
    photos = steps * self._data.batch_size
    words = [
      word
      for word, hits in self._hits.items()
      if is_chance(hits, photos, self._share)
    ]
    if not words or len(self._seen) == 1:
      return
    logging.warning(
      "step %d: the accuracy of %s is that of chance over the last %d steps. "
      "Does --overfit_one_batch learn? If so, a learning rate of a tenth, "
      "warm-up, or weights to start from may help; if not, look at the labels "
      "and at batch_images in TensorBoard",
      *(step, " and ".join(words), steps),
    )


def _advise(settings):
  rate, batch = settings.learning.initial_lr, settings.data.batch_size
  advised = advised_rate(batch)
  words = (
    f"learning rate {rate:g} for batches of {batch}; {_RATE:g} for {_BATCH}, "
    f"in proportion, is {advised:g} (--initial_lr={advised:g})"
  )
  if rate <= _FAR * advised:
    logging.info("%s", words)
    return
  warm_up = settings.learning.warm_up
  more = "" if warm_up else "; --warm_up=1000 helps a high rate to begin"
  logging.warning("%s%s", words, more)


def _warn_of_counts(names, counts):
  """Warns of classes with no photos, and says how many have few."""
  none, one = int((counts == 0).sum()), int((counts == 1).sum())
  if none:
    logging.warning(
      "%d of %d classes have no training photo (the first is %s): nothing is "
      "learnt of them",
      *(none, len(counts), names[np.flatnonzero(counts == 0)[0]]),
    )
  if 2 * one > len(counts):
    logging.warning(
      "%d of %d classes have a single training photo: what they share with "
      "another one cannot be learnt",
      *(one, len(counts)),
    )


NAME = "metrics.jsonl"

# Of these a line has the last one; of all else the mean since the line before.
_LAST = (delg_steps.LEARNING_RATE, "desc/scale_factor")


class Measurements(delg.Observer):
  """Writes lines, each step once, however often a run is stopped.

  Attributes:
    rows: list of dict of tag to float, with `step`, in the order of steps.
  """

  def __init__(self, every):
    """Creates it.

    Args:
      every: Steps from one line to the next.
    """
    self._every = every
    self._path = self._file = None
    self._sums, self._number = {}, 0
    self.rows = []

  def start(self, run):
    """Reads the lines of earlier runs, and drops those past where it goes on.

    A run that was killed leaves lines of steps that are made again, and perhaps
    half a line.
    """
    self._path = os.path.join(run.settings.logdir, NAME)
    self.rows = [row for row in read(self._path) if row["step"] <= run.step]
    self._write_all()
    if not files.is_remote(self._path):
      self._file = files.open_to_append(self._path)

  def on_step(self, step, metrics, batch):
    """Counts a step, and writes a line at each report."""
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
      self._add(step, means)

  def on_validation(self, step, metrics):
    """Writes a line."""
    self._add(step, metrics)

  def close(self):
    """Closes the file."""
    if self._file is not None:
      # Lines are written out one by one: what fails here has failed before.
      with contextlib.suppress(OSError):
        self._file.close()

  def _add(self, step, metrics):
    self.rows.append({"step": step} | metrics)
    if self._file is None:
      # Object stores cannot append.
      self._write_all()
      return
    try:
      self._file.write(_line(self.rows[-1]))
      self._file.flush()
    except OSError as error:
      raise OSError(error.errno, error.strerror, self._path) from error

  def _write_all(self):
    files.write_bytes(self._path, *map(_line, self.rows))


def _line(row):
  return f"{json.dumps(row)}\n".encode()


def read(path):
  """Reads the lines of a run.

  Args:
    path: Path of `metrics.jsonl`.

  Returns:
    list of dict of tag to float, with `step`, without a last line that lacks
    its end; [] if there is no file, or one of something else, which is logged.
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
  logging.warning("%s: no measurements of a run, written anew", path)
  return []


def curve(rows, tag):
  """Returns the steps and the values of one tag, two lists."""
  found = [(row["step"], row[tag]) for row in rows if tag in row]
  return [step for step, _ in found], [value for _, value in found]


CURVES, ATTENTION = "curves.png", "attention.png"
ATTENTION_BEFORE = "attention_before.png"
# Photos whose attention is drawn again and again.
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
  measured = Measurements(every)
  found = [
    Diagnosis(),
    Live(every),
    Summaries(every),
    measured,
  ]
  if files.is_remote(settings.logdir):
    logging.info("%s: no pictures in a remote folder", settings.logdir)
  else:
    found += [Curves(measured), Attention()]
  return found


class Curves(delg.Observer):
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
        name: curve(rows, tag)
        for name, tag in tags.items()
        if any(tag in row for row in rows)
      }
      if curves:
        panels[words] = curves
    if panels:
      title = f"Training, {step} steps"
      figures.draw_curves(self._path, panels, title, self._caption)


class Attention(delg.Observer):
  """Draws where attention is on the same photos, at each validation.

  They are the first of validation or, where there is none, of training.
  """

  _file = None

  def start(self, run):
    """Takes the photos, and draws what attention is before the first step."""
    self._run, self._drawn = run, None
    self._file = loop.BoardFile(run.train_logs)
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
    over = figures.attention_over(photos, attention)
    self._file.write(step, {}, {"attention_on_photos": over})
    self._file.flush()
    path = os.path.join(self._run.settings.logdir, name)
    title = f"Attention after {step} steps"
    lowest, highest = attention.min(), attention.max()
    caption = f"the same photos each time; {lowest:.3g} to {highest:.3g}"
    figures.draw_attention(path, photos, attention, title, caption)


def _first_photos(source):
  """Returns the first photos of a source, float32 [N, H, W, 3], or None.

  Raises:
    InputError: If a record of them is not what it should be.
  """
  dataset = source.validation()
  if dataset is None:
    dataset = source.training()
  with tfrecord.clear_errors():
    for images, _ in dataset.take(1):
      return images[:_PHOTOS].numpy()
  return None


def _attention(model, images):
  """Returns the attention of a model, float32 [N, H', W']."""
  outputs = model.global_and_local_forward_pass(images, training=False)
  return tf.cast(outputs[2], tf.float32).numpy()[..., 0]


# Steps until it gives up.
STEPS = 200
# What is left of a loss when it has fallen. Attention learns from what another
# loss makes of the backbone, so it comes later.
_FALLEN = {delg_steps.DESCRIPTOR: 0.5, delg_steps.ATTENTION: 0.9}
# What is left of all when there is no doubt.
_ENOUGH = 0.1


@dataclasses.dataclass(frozen=True)
class Verdict:
  """How it went.

  Attributes:
    steps: Steps made.
    losses: dict of tag to (first, last) of the losses that should fall.
  """

  steps: int
  losses: dict

  @property
  def learns(self):
    """Whether all losses have fallen, that of the descriptor to a half."""
    return all(b <= _FALLEN[tag] * a for tag, (a, b) in self.losses.items())

  def __str__(self):
    """Says it in one line."""
    parts = [f"{t} {a:.4g} -> {b:.4g}" for t, (a, b) in self.losses.items()]
    end = "it learns" if self.learns else "it does not learn"
    return f"one batch, {self.steps} steps: {', '.join(parts)}: {end}"


def overfit(settings, source, watching=()):
  """Trains on one batch until its losses have fallen.

  Nothing of it is kept.

  Args:
    settings: settings.Settings of the run that is in question; of its steps no
      more than `STEPS` are made, and the learning rate falls over these.
    source: data_source.Source, or one with its functions.
    watching: observers.Observer that are told of it.

  Returns:
    Verdict.

  Raises:
    InputError: As `fitting.fit` does, as where a loss is no number.
  """
  losses = _Losses(settings.learning.attention_loss_weight > 0)
  steps = min(settings.learning.max_iters, STEPS)
  with tempfile.TemporaryDirectory() as folder:
    short = dataclasses.replace(
      settings,
      logdir=folder,
      learning=dataclasses.replace(
        settings.learning, max_iters=steps, warm_up=0
      ),
      reporting=dataclasses.replace(
        settings.reporting, save_every=steps + 1, validate_every=steps + 1
      ),
    )
    with contextlib.suppress(_Enough):
      delg.fit(short, [losses, *watching], _OneBatch(source))
  return losses.verdict()


class _OneBatch:
  """The first batch of a source, over and over."""

  def __init__(self, source):
    self._source = source

  def training(self, start_batch=0):
    """Returns the batch without end."""
    for batch in self._source.training().take(1):
      return tf.data.Dataset.from_tensors(batch).repeat()
    return tf.data.Dataset.range(0)

  def validation(self):
    """Returns none."""
    return None


class _Enough(Exception):  # noqa: N818 (never leaves this module)
  """The losses have fallen as far as anybody could ask."""


class _Losses(delg.Observer):
  """Remembers the losses, and ends a run that has shown it."""

  def __init__(self, attention):
    self._tags = [delg_steps.DESCRIPTOR]
    self._tags += [delg_steps.ATTENTION] if attention else []
    self._first = self._last = None
    self._steps = 0

  def on_step(self, step, metrics, batch):
    """Compares the losses of a step with the first ones."""
    self._last = {tag: metrics[tag] for tag in self._tags}
    self._first = self._first or self._last
    self._steps = step
    if all(self._last[t] <= _ENOUGH * self._first[t] for t in self._tags):
      raise _Enough

  def verdict(self):
    """Returns the Verdict."""
    return Verdict(
      self._steps, {t: (self._first[t], self._last[t]) for t in self._tags}
    )
