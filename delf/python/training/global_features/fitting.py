"""Training of a global descriptor, from its first epoch or where it was."""

import dataclasses
import math

import keras

from delf.python.datasets.sfm120k import sfm120k
from delf.python.training.global_features import (
  curves,
  epochs,
  evaluation,
  learning,
  run_state,
)
from delf.python.training.model import checkpoints, global_model
from delf.python.training.supervised import stopping

WHITENING = "whitening.datum"


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of a run.

  Attributes:
    folder: pathlib.Path of the run.
    epochs: Epochs that are over.
    best_epoch: Epoch of the best network, from 1; 0 for none yet.
    best_score: Its score: validation loss, or less its mean average precision
      where there is no validation, or else its training loss.
    left_out: Tuples that could not be loaded.
    signal: Number of the signal that stopped it, or None.
    history: A dict of each epoch.
    whitened: dict by data set of what `evaluation.search` found in the end
      with a whitening; None without.
  """

  folder: object
  epochs: int
  best_epoch: int
  best_score: float
  left_out: int
  signal: int | None
  history: tuple
  whitened: dict | None = None


def fit(settings, make_net=global_model.GlobalFeatureNet):
  """Trains, and learns a whitening in the end if asked for.

  Args:
    settings: settings.Settings.
    make_net: Function of the arguments of GlobalFeatureNet that makes one.

  Returns:
    Report.

  Raises:
    FileNotFoundError: If data or a photo of it is missing.
    InputError: If a setting cannot be, data is other than it should be, there
      is a run that is not to go on or of other settings, or the loss is not
      finite.
    OSError: If a file cannot be written; what was saved before stays.
  """
  settings.check()
  data = _Data(settings)
  keras.utils.set_random_seed(settings.learning.seed)
  network = settings.network
  net = make_net(
    network.architecture,
    network.pooling,
    network.whitening,
    network.pretrained,
    settings.data.data_root,
  )
  folder = settings.open_folder()
  learner = learning.Learner(net, settings.learning)
  place = run_state.restore(folder, data.train, learner)
  with stopping.on_signals() as stop, curves.Curves(folder) as writer:
    run = epochs.Epochs(settings, data, learner, folder, place, writer)
    ended = run.train(stop)
  whitened = _whiten(run.describer, net, data, folder) if ended else None
  return Report(
    folder=folder,
    epochs=place.epoch,
    best_epoch=place.best_epoch,
    best_score=place.best_score,
    left_out=place.left_out,
    signal=stop.signal,
    history=tuple(place.history),
    whitened=whitened,
  )


class _Data:
  """All that is read, checked before anything is computed."""

  def __init__(self, settings):
    data = settings.data
    options = {"seed": settings.learning.seed, "workers": data.workers}
    self.train = sfm120k.CreateDataset(
      "train",
      data.data_root,
      data.image_size,
      data.negatives,
      data.queries,
      data.pool,
      **options,
    )
    self.validation = None
    if data.validation or data.validation_2020:
      self.validation = sfm120k.CreateDataset(
        "val",
        data.data_root,
        data.image_size,
        data.negatives,
        math.inf,
        math.inf,
        data.validation_2020,
        **options,
      )
    for tuples in (self.train, self.validation):
      if tuples is None:
        continue
      listed = f"the {tuples.mode} part of {tuples.name}"
      evaluation.require_files(tuples.images, listed)
      tuples.require_negatives()
    self.tests = evaluation.open_tests(data.tests, data.data_root)
    self.whitening = None
    if data.whitening:
      pairs = evaluation.whitening_paths(data.whitening, data.data_root)
      self.whitening = pairs


def _whiten(describer, net, data, folder):
  """Learns a whitening for the best network, and searches with it."""
  if data.whitening is None:
    return None
  checkpoints.load_weights(net, run_state.best_path(folder))
  whitening = evaluation.learn_whitening(
    describer, data.whitening, folder / WHITENING
  )
  return {
    test["dataset"]: evaluation.search(describer, test, whitening)
    for test in data.tests
  }
