"""The run: steps, checkpoints, validations, and how it goes on or ends."""

import contextlib
import dataclasses
import math

import keras
from absl import logging

from delf.python import errors
from delf.python.datasets.google_landmarks_dataset import googlelandmarks
from delf.python.training.model import layer_tree
from delf.python.training.supervised import (
  data_source,
  devices,
  networks,
  objectives,
  observers,
  run_files,
  stepping,
  stopping,
)


@dataclasses.dataclass(frozen=True)
class Report:
  """How a run ended.

  Attributes:
    step: Steps made, over all runs that went on from each other.
    metrics: dict of tag to float, of the last step (empty if there was none).
    signal: Number of the signal that ended it, or None.
    checkpoint: Prefix of the newest checkpoint.
    weights: Prefix of the model's weights, for exporters.
  """

  step: int
  metrics: dict
  signal: int | None
  checkpoint: str | None
  weights: str


def fit(settings, watching=None, source=None):
  """Trains a model, from where an earlier run of the folder stopped.

  A run that was stopped and goes on equals one that was not, to the last bit,
  where the machine computes alike each time: the checkpoint holds model,
  momenta and step, and the batch follows from the step (`run_files`).

  Args:
    settings: settings.Settings.
    watching: list of observers.Observer, or None for one that logs.
    source: data_source.Source, or one with its functions; None for TFRecords.

  Returns:
    Report.

  Raises:
    FileNotFoundError: If there are no weights to start from.
    InputError: If settings or data are not what they can be, if the folder
      holds a checkpoint of another model, or if a loss is no number; the last
      checkpoint is then the good one.
    OSError: If a checkpoint cannot be written.
  """
  settings.check()
  if source is None:
    source = data_source.Source(settings.data, settings.learning.seed)
  if watching is None:
    watching = [observers.Log(settings.reporting.report_every)]
  keras.utils.set_random_seed(settings.learning.seed)
  strategy = devices.strategy(settings.execution)
  run = _Run(settings, stepping.Stepper(settings, strategy), watching, source)
  # Observers draw batches of their own.
  with googlelandmarks.clear_errors(), contextlib.ExitStack() as closing:
    run.begin(closing)
    with stopping.on_signals() as stop:
      run.go_on(stop)
  return run.report(stop.signal)


class _Run:
  def __init__(self, settings, stepper, watching, source):
    self._settings, self._stepper = settings, stepper
    self._watching, self._source = watching, source
    self._files = run_files.RunFiles(
      settings.logdir, stepper.model, stepper.optimizer
    )
    self._metrics, self._saved, self._saved_step = {}, None, None

  def begin(self, closing):
    """Goes on from the newest checkpoint, or starts.

    Args:
      closing: contextlib.ExitStack that closes the observers in the end.
    """
    self._files.remove_leftovers()
    found = self._files.resume()
    differing = self._files.settings_that_differ(self._settings)
    if found is None:
      networks.start(self._stepper.model, self._settings.network)
    else:
      logging.info("goes on from %s, step %d", found, self._stepper.step)
      for words in differing:
        logging.warning("not as the run began: %s", words)
      self._saved = found
    about = observers.Run(
      self._settings,
      self._stepper.model,
      self._source,
      self._stepper.step,
      self._files.train_logs,
    )
    for observer in self._watching:
      closing.callback(observer.close)
      observer.start(about)

  def go_on(self, stop):
    """Makes steps until it is done or stopped."""
    step, last = self._stepper.step, self._settings.learning.max_iters
    reporting = self._settings.reporting
    if step < last:
      dataset = self._source.training(start_batch=step)
      batches = iter(self._stepper.distribute(dataset))
    while step < last and stop.signal is None:
      self._step(step, batches)
      step += 1
      if step % reporting.save_every == 0:
        self._save(step)
      if step % reporting.validate_every == 0:
        self._validate(step)
    # A run that makes no step may be one that was killed before its weights
    # were written.
    if self._saved_step != step:
      self._save(step)

  def report(self, signal):
    """Returns the Report."""
    return Report(
      self._stepper.step,
      self._metrics,
      signal,
      self._saved,
      self._files.weights,
    )

  def _tell(self, what, *arguments):
    for observer in self._watching:
      getattr(observer, what)(*arguments)

  def _step(self, step, batches):
    images, labels = self._next(batches, step)
    look = any(observer.wants(step + 1) for observer in self._watching)
    metrics, outputs = self._stepper.train(images, labels, look)
    for name in (objectives.TOTAL, stepping.GRADIENT_NORM):
      if not math.isfinite(metrics[name]):
        raise self._diverged(step, name, metrics[name])
    self._metrics = metrics
    batch = observers.Batch(**outputs()) if look else None
    self._tell("on_step", step + 1, metrics, batch)

  def _diverged(self, step, name, value):
    """Returns the error of a step from whose batch something is no number."""
    parts = ", ".join(
      f"{n} {v:g}" for n, v in self._metrics.items() if n.startswith("loss")
    )
    photos = ""
    if hasattr(self._source, "identities"):
      photos = f" (photos {layer_tree.listed(self._source.identities(step))})"
    kept = "no checkpoint yet"
    if self._saved:
      kept = f"the last good one is {self._saved}"
    return errors.InputError(
      f"{name} that is a number in step {step + 1}",
      f"{value:g} for batch {step} of seed "
      f"{self._settings.learning.seed}{photos}, after {parts or 'no step'}; "
      f"{kept}",
      self._settings.logdir,
    )

  @staticmethod
  def _next(batches, step):
    try:
      return next(batches)
    except StopIteration:
      raise errors.InputError("photos without end", f"{step} batches") from None

  def _save(self, step):
    if not self._stepper.is_finite():
      raise self._diverged(step - 1, "weights, each", math.nan)
    self._saved, self._saved_step = self._files.save(step), step
    self._tell("on_save", step, self._saved)

  def _validate(self, step):
    dataset = self._source.validation()
    if dataset is None:
      return
    data = self._settings.data
    counts = {"desc": 0, "attn": 0, "number": 0}
    most = max(1, data.validation_images // data.batch_size)
    for images, labels in self._stepper.distribute(dataset.take(most)):
      for name, count in self._stepper.validate(images, labels).items():
        counts[name] += count
    number = counts.pop("number")
    if number:
      metrics = {f"validation/{n}": c / number for n, c in counts.items()}
      self._tell("on_validation", step, metrics)
