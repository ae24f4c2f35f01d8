"""Epochs of global training: tuples, batches, validation, searches."""

import math
import time

import numpy as np
from absl import logging

from delf.python import errors, progress
from delf.python.training import global_features_utils
from delf.python.training.global_features import evaluation, run_state


class Epochs:
  """The epochs of a run.

  Attributes:
    describer: evaluation.Describer of its searches.
  """

  def __init__(self, settings, data, learner, folder, place, writer):
    """Takes what there is to do, and how far it is.

    Args:
      settings: settings.Settings.
      data: Has `train`, `validation`, `tests`: tuples_dataset.TuplesDataset
        (validation may be None), and what `evaluation.open_tests` returns.
      learner: learning.Learner.
      folder: pathlib.Path of the run.
      place: run_state.Place, which moves on.
      writer: curves.Curves.
    """
    self._settings, self._data, self._learner = settings, data, learner
    self._folder, self._place, self._writer = folder, place, writer
    self._stop = None
    self.describer = evaluation.Describer(learner.net, settings.data)
    self._begin = time.monotonic(), self._done()

  def train(self, stop):
    """Trains what is left.

    Args:
      stop: stopping.Stop.

    Returns:
      Whether it came to the end, and was not stopped.

    Raises:
      InputError: If the loss is not finite, or negatives cannot be found.
      OSError: If a file cannot be written.
    """
    self._stop = stop
    while self._place.epoch < self._settings.learning.epochs:
      if not self._epoch():
        return False
    return True

  def _epoch(self):
    """Does one epoch, or what is left of it; returns False if stopped."""
    place, train = self._place, self._data.train
    if not place.batch and not len(train):
      place.distance = train.create_epoch_tuples(self._learner.net, place.epoch)
      place.losses = []
      self._save()
    if self._stop.signal is not None or not self._batches():
      return False
    if not place.losses:
      raise errors.InputError(
        "tuples that the network can learn from",
        f"none in epoch {place.epoch + 1}: all were left out",
        self._folder,
      )
    found = {"epoch": place.epoch + 1, "negative_distance": place.distance}
    found["loss/train"] = _mean(place.losses)
    last = place.epoch + 1 == self._settings.learning.epochs
    if last or (place.epoch + 1) % self._settings.test_every == 0:
      found |= self._evaluate()
    self._keep(found, last)
    return True

  def _batches(self):
    """Trains on the tuples that are left; returns False if stopped."""
    place, learning_ = self._place, self._settings.learning
    train, size = self._data.train, self._settings.learning.batch
    number = -(-len(train) // size)
    start = place.batch
    futures = train.load(range(start * size, len(train)))
    shown = progress.track(
      range(start, number), f"epoch {place.epoch + 1}", number - start
    )
    for batch in shown:
      for _ in range(min(size, len(train) - batch * size)):
        self._learn(next(futures), batch)
      whole = batch + 1 == number or (batch + 1) % learning_.update_every == 0
      if whole:
        place.batch = batch + 1
        self._learner.update(self._done())
        if self._pause(batch + 1, number):
          return False
      if (batch + 1) % self._settings.print_every == 0:
        shown.set_postfix_str(self._words())
        self._writer.write(
          self._step(batch + 1), {"loss/batch": _mean(place.losses[-size:])}
        )
    return True

  def _learn(self, future, batch):
    try:
      *images, _ = future.result()
      loss = self._learner.learn(images)
    except (errors.InputError, OSError) as error:
      logging.warning("left out: %s", errors.one_line(error))
      self._place.left_out += 1
      return
    if not math.isfinite(loss):
      raise errors.InputError(
        "a finite loss",
        f"{loss} in epoch {self._place.epoch + 1}, batch {batch + 1}; what was"
        " saved before stays",
        self._folder,
      )
    self._place.losses.append(loss)

  def _pause(self, batch, number):
    """Saves where it is time to; returns whether the run is to stop."""
    every = self._settings.save_every
    stopped = self._stop.signal is not None
    if stopped or batch == number or (every and batch % every == 0):
      self._save()
    return stopped

  def _evaluate(self):
    """Returns dict by tag of what validation and searches find."""
    found, data, net = {}, self._data, self._learner.net
    if data.validation is not None:
      data.validation.create_epoch_tuples(net, self._place.epoch)
      losses = []
      futures = data.validation.load(range(len(data.validation)))
      for future in progress.track(futures, "validation", len(data.validation)):
        try:
          losses.append(self._learner.loss(future.result()[:-1]))
        except (errors.InputError, OSError) as error:
          logging.warning("left out: %s", errors.one_line(error))
      found["loss/validation"] = _mean(losses)
    for test in data.tests:
      for protocol, value in evaluation.search(self.describer, test).items():
        found[f"{test['dataset']}/{protocol}"] = value
    return found

  def _keep(self, found, last):
    """Ends an epoch: reports, keeps the best, saves."""
    place, folder = self._place, self._folder
    score = self._score(found)
    better = score is not None and score < place.best_score
    if better or (last and not place.best_epoch):
      place.best_score = math.inf if score is None else score
      place.best_epoch = place.epoch + 1
      run_state.save_best(folder, self._learner.net, place.best_epoch)
    self._writer.write(
      self._step(0) + self._number(),
      {k: v for k, v in found.items() if k != "epoch"}
      | {"learning_rate": self._learner.rate()},
    )
    words = ", ".join(f"{k} {v:.4g}" for k, v in found.items() if k != "epoch")
    logging.info("epoch %d: %s", found["epoch"], words)
    place.history.append(found)
    place.epoch, place.batch, place.losses = place.epoch + 1, 0, []
    nothing = np.zeros([0], np.int64)
    self._data.train.set_tuples(
      nothing, nothing, np.zeros([0, self._settings.data.negatives], np.int64)
    )
    self._save()
    run_state.drop_older(folder, place.best_epoch)

  def _score(self, found):
    """Returns what the best network has least of, or None if not measured."""
    if self._data.validation is not None:
      return found.get("loss/validation")
    if self._data.tests:
      values = [v for k, v in found.items() if k.endswith("/medium")]
      return -float(np.nanmean(values)) if values else None
    return found["loss/train"]

  def _save(self):
    run_state.save(self._folder, self._place, self._data.train, self._learner)

  def _number(self):
    """Returns the batches of this epoch."""
    return max(1, -(-len(self._data.train) // self._settings.learning.batch))

  def _done(self):
    """Returns the epochs that are over, with a fraction."""
    return self._place.epoch + self._place.batch / self._number()

  def _step(self, batch):
    """Returns the place of a batch on the curves: batches of full epochs."""
    data, size = self._settings.data, self._settings.learning.batch
    pairs = min(data.queries, len(self._data.train.query_pool))
    return self._place.epoch * -(-pairs // size) + batch

  def _words(self):
    """Returns the loss, and how long the rest of the run will take."""
    begin, done = self._begin
    passed = self._done() - done
    words = f"loss {_mean(self._place.losses):.4f}"
    if passed > 0:
      left = self._settings.learning.epochs - self._done()
      seconds = (time.monotonic() - begin) / passed * left
      words += f", run: {global_features_utils.htime(seconds)} left"
    return words


def _mean(values):
  return float(np.mean(values)) if len(values) else math.nan
