"""Says why a run that does not learn may not: its rate, labels, accuracy."""

import math

import numpy as np
from absl import logging

from delf.python.datasets.labelled_records import labels_file
from delf.python.training.supervised import objectives, observers

# What DELG was trained with, and what is in proportion to it: Goyal et al.,
# "Accurate, Large Minibatch SGD", arXiv:1706.02677.
_RATE, _BATCH = 0.01, 256
# A rate that is more than so many times as high is worth a warning; that of the
# original's defaults, 0.01 for 32, is not.
_FAR = 8.0

# Steps in which labels are looked at first.
_FIRST = 10
# Photos of each class, and steps, after which accuracy should tell.
_PHOTOS, _STEPS = 5, 500
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


class Diagnosis(observers.Observer):
  """Logs what is wrong with a run, or what may be."""

  def start(self, run):
    """Says what settings and counts of photos make likely."""
    self._data, self._begin = run.settings.data, run.step
    classes = self._data.num_classes
    self._length = max(_STEPS, _PHOTOS * classes // self._data.batch_size)
    self._hits, self._steps = {}, 0
    self._seen, self._looked = np.zeros(classes, np.int64), False
    self._share = 1 / classes
    labels = labels_file.beside(self._data.train_file_pattern)
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
      for word, name in objectives.ACCURACY.items():
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
