"""Epochs of global training: tuples, batches, validation, searches."""

import math
import os
import time

import numpy as np
from absl import logging

from delf.base import errors, progress
from delf.learning import pairs
from delf.python import whiten
from delf.python.datasets.revisited_op import dataset as revisited
from delf.python.datasets.sfm120k import sfm120k
from delf.python.training import global_features_utils
from delf.python.training.model import global_model
from delf.records import tuples

_PROTOCOLS = ("easy", "medium", "hard")
# Power of the mean over scales of descriptors that GeM has pooled, as in
# Radenovic et al., arXiv:1711.02512, section 5.2.
_GEM_POWER = 3.0


def open_tests(names, data_root):
  """Reads the ground truth of data sets, and looks for their photos.

  Args:
    names: "roxford5k", "rparis6k".
    data_root: Folder with `gnd_<name>.pkl` and the photos' folders.

  Returns:
    list of dict, as `dataset.CreateConfigForTestDataset` makes them.

  Raises:
    FileNotFoundError: If ground truth or a photo is missing.
    InputError: If ground truth is none.
  """
  tests = [revisited.CreateConfigForTestDataset(n, data_root) for n in names]
  for test in tests:
    require_files(_queries(test) + _index(test), test["gnd_fname"])
  return tests


def require_files(paths, listed_in):
  """Raises FileNotFoundError if photos that a file lists are missing."""
  missing = [path for path in paths if not os.path.exists(path)]
  if missing:
    raise FileNotFoundError(
      f"{missing[0]}: expected the {len(paths)} photos that {listed_in} lists,"
      f" found {len(paths) - len(missing)}"
    )


class Describer:
  """Describes photos as the searches of a run do."""

  def __init__(self, net, data):
    """Takes the network and how photos are read.

    Args:
      net: GlobalFeatureNet.
      data: settings.Data.
    """
    self._net, self._data = net, data
    gem = net.meta["pooling"] == "gem" and not net.meta["whitening"]
    self._power = _GEM_POWER if gem and len(data.scales) > 1 else 1.0

  def describe(self, paths, boxes=None):
    """Returns [D, N] float32 of photos, or of the boxes in them."""
    return global_model.extract_global_descriptors_from_list(
      self._net,
      paths,
      self._data.image_size,
      boxes,
      self._data.scales,
      self._power,
      workers=self._data.workers,
    )


def search(describer, test, whitening=None):
  """Searches a data set, and prints what it measures.

  Args:
    describer: Describer.
    test: One of `open_tests`.
    whitening: (mean, projection) as of `whiten.learn_whitening`, or None.

  Returns:
    dict by protocol of mean average precision in [0, 1], NaN where no query
    has positives.
  """
  boxes = [truth.get("bbx") for truth in test["gnd"]]
  index = describer.describe(_index(test))
  queries = describer.describe(_queries(test), boxes)
  if whitening is not None:
    index, queries = (
      whiten.apply_whitening(each, *whitening) for each in (index, queries)
    )
  ranks = np.argsort(-(queries.T @ index), axis=1, kind="stable")
  number = ranks.shape[1]
  metrics = global_features_utils.compute_metrics_and_print(
    test["dataset"],
    ranks,
    test["gnd"],
    [rank for rank in (1, 5, 10) if rank <= number],
    log=False,
  )
  return {
    protocol: float(found[0])
    for protocol, found in zip(_PROTOCOLS, metrics, strict=True)
  }


def whitening_paths(name, data_root):
  """Reads the pairs that a whitening is learned of.

  Args:
    name: "retrieval-SfM-30k" or "retrieval-SfM-120k".
    data_root: Folder with `train/<name>/<name>-whiten.pkl`.

  Returns:
    list of N paths of photos; [P] int, [P] int, the places of pairs in it.

  Raises:
    FileNotFoundError: If there is no such file, or photo.
    InputError: If the file is another one.
  """
  path = os.path.join(data_root, "train", name, f"{name}-whiten.pkl")
  pairs = tuples.read_pairs(path)
  folder = tuples.images_folder(path, data_root, name)
  if not os.path.isdir(folder):  # The photos of 30k are among those of 120k.
    folder = tuples.images_folder(path, data_root, sfm120k.NAME)
  used, places = np.unique(
    np.concatenate([pairs.queries, pairs.positives]), return_inverse=True
  )
  paths = [tuples.image_path(pairs.names[i], folder) for i in used]
  require_files(paths, path)
  return paths, *np.split(places, 2)


def learn_whitening(describer, pairs, path):
  """Learns a whitening, and writes it.

  Args:
    describer: Describer.
    pairs: What `whitening_paths` returns.
    path: Path of the `whitening.datum` to be.

  Returns:
    (mean [D, 1], projection [D, D]), float64.

  Raises:
    InputError: If a photo cannot be read, or pairs are all of one photo.
  """
  paths, first, second = pairs
  try:
    found = whiten.learn_whitening(describer.describe(paths), first, second)
  except np.linalg.LinAlgError:
    raise errors.InputError(
      "pairs that a whitening can be learned of", "others", path
    ) from None
  whiten.write_whitening(path, *found)
  return found


def _index(test):
  return [test["im_fname"](test, i) for i in range(test["n"])]


def _queries(test):
  return [test["qim_fname"](test, i) for i in range(test["nq"])]


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
    self.describer = Describer(learner.net, settings.data)
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
      for protocol, value in search(self.describer, test).items():
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
      pairs.save_best(folder, self._learner.net, place.best_epoch)
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
    pairs.drop_older(folder, place.best_epoch)

  def _score(self, found):
    """Returns what the best network has least of, or None if not measured."""
    if self._data.validation is not None:
      return found.get("loss/validation")
    if self._data.tests:
      values = [v for k, v in found.items() if k.endswith("/medium")]
      return -float(np.nanmean(values)) if values else None
    return found["loss/train"]

  def _save(self):
    pairs.save(self._folder, self._place, self._data.train, self._learner)

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
