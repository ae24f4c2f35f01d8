"""The training loop, shared by all learners of the package.

A `Learner` makes a training step, and `run` repeats it until a budget is spent.
Learners: supervised training (`delg`), global descriptors (`pairs`), the
compact model (`compact_model`), detectors (`detector_training`).
"""

import collections
import contextlib
import dataclasses
import itertools
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from delf.base import arrays as base_arrays
from delf.base import concurrency, errors, files, progress
from delf.formats import checkpoints

Metrics = Mapping[str, float]

_LOWEST_RATE = 0.01  # Share of the highest learning rate.

# Number of last steps over which the live line averages metrics and speed.
_MEAN_OF = 20


class Learner:
  """Base class of learners.

  Subclasses define `batches`, `learn` and `save`, and override other methods
  as needed.
  """

  step: int = 0  # Steps made, in this run and the runs that it resumes.
  seconds: float = 0.0  # Time spent on these steps, counted by `run`.
  # Epochs completed and a fraction of the running one, where training has
  # epochs; an epoch is complete when its measurement is.
  epoch: float = 0
  checkpoint: str | os.PathLike | None = None  # The newest, for messages.
  details: Any = None  # Data of the last step that observers get with metrics.
  checked: Sequence[str] | None = None  # Metrics to be finite; None for all.
  rate_flag: str = "--rate"  # Flag that the message about other metrics names.

  def resume(self) -> None:
    """Restore the newest checkpoint, if there is one, and set `checkpoint`."""

  def batches(self) -> Iterable:
    """Return the batches from `step` on: endless, or the rest of an epoch."""
    raise NotImplementedError

  def learn(self, batch: Any, spent: float) -> Metrics:
    """Make one step, increment `step`, and return the metrics.

    `spent` is the share of the budget spent before the step, in [0, 1].
    """
    raise NotImplementedError

  def save(self) -> str | os.PathLike:
    """Write a checkpoint, whole or not at all, and return its path."""
    raise NotImplementedError

  def measure(self) -> Metrics:
    """Return metrics on held-out data; end the epoch, if there are epochs."""
    return {}

  def describe(self, batch: Any) -> str:
    """Identify the batch of the last step in error messages."""
    return f"batch {self.step - 1}"


class Observer:
  """Base class of observers of a run, whose methods do nothing."""

  def start(self, learner: Any) -> None:
    """Prepare for a run of a learner, which starts or resumes."""

  def needs_details(self, step: int) -> bool:
    """Return whether `on_step` needs the learner's details of this step."""
    return False

  def on_step(self, step: int, metrics: Metrics, details: Any, /) -> None:
    """Handle a step; `details` are those of the learner, or None."""

  def on_measure(self, step: int, metrics: Metrics, /) -> None:
    """Handle a measurement."""

  def on_save(self, step: int, path: str | os.PathLike, /) -> None:
    """Handle a checkpoint that was written."""

  def close(self) -> None:
    """Release resources; called however the run ends, even if `start` fails."""


@dataclasses.dataclass(frozen=True)
class Budget:
  """Length of training, over all resumed runs, in one of three units.

  Seconds count time spent on steps, not on measurements.
  """

  steps: int | None = None
  seconds: float | None = None
  epochs: int | None = None

  def share(self, learner: Learner) -> float:
    """Return the spent share of the budget: 0 to 1, or a little over."""
    if self.steps is not None:
      return learner.step / self.steps if self.steps else 1.0
    if self.seconds is not None:
      return learner.seconds / self.seconds if self.seconds else 1.0
    return learner.epoch / self.epochs if self.epochs else 1.0


class Every:
  """Condition of a periodic action, evaluated after each step.

  The period is one of `steps`, `seconds` (since the last time, or since the
  start of the run) and `parts`, the number of equal parts of a whole budget; at
  the end of the budget the action is due, too.
  """

  def __init__(
    self,
    steps: int | None = None,
    seconds: float | None = None,
    parts: int | None = None,
  ):
    self._steps, self._seconds, self._parts = steps, seconds or 0.0, parts
    self._last = time.monotonic()

  def __call__(self, learner: Learner, before: float, spent: float) -> bool:
    """Return whether it is due; `before` and `spent` are shares of a budget."""
    if self._steps is not None:
      return learner.step % self._steps == 0
    if self._parts is not None:
      return spent >= 1 or int(before * self._parts) < int(spent * self._parts)
    if time.monotonic() - self._last < self._seconds:
      return False
    self._last = time.monotonic()
    return True


def run(
  learner: Learner,
  budget: Budget,
  observers: Sequence[Observer] = (),
  save_when: Callable = lambda *_: False,
  measure_when: Callable = lambda *_: False,
) -> int | None:
  """Train from the newest checkpoint, if any, until the budget is spent.

  SIGTERM and SIGINT stop the run after the current step; return the number of
  this signal, or None. An epoch ends where `batches` ends: `run` measures, then
  draws the batches of the next epoch. Observers are closed however a run ends.

  `save_when` and `measure_when` are `Every`, or functions with its arguments:
  when to save, besides at the end, and to measure, besides at ends of epochs.

  Raises:
    InputError: If a metric is not finite; the last checkpoint remains.
    OSError: If a checkpoint cannot be written; the previous one remains.
  """
  with contextlib.ExitStack() as stack:
    learner.resume()
    for observer in observers:
      stack.callback(observer.close)
      observer.start(learner)
    stop = stack.enter_context(concurrency.stop_on_signals())
    _Run(learner, budget, observers, save_when, measure_when).go(stop)
  return stop.signal


class _Run:
  def __init__(self, learner, budget, observers, save_when, measure_when):
    self._learner, self._budget, self._observers = learner, budget, observers
    self._save_when, self._measure_when = save_when, measure_when
    # A run without steps may resume one that was killed while saving.
    self._unsaved = True

  def go(self, stop):
    learner, budget = self._learner, self._budget
    while budget.share(learner) < 1 and stop.signal is None:
      with contextlib.ExitStack() as stack:
        batches = learner.batches()
        if hasattr(batches, "close"):
          stack.callback(batches.close)
        if self._make_steps(iter(batches), stop):
          if budget.epochs is None:
            raise errors.InputError(
              f"the batches end after step {learner.step}: a budget of steps "
              "or seconds needs endless batches"
            )
          self._measure()
    if self._unsaved:
      self._save()

  def _make_steps(self, batches, stop):
    """Make the steps of an epoch; return whether its batches are used up."""
    learner, budget = self._learner, self._budget
    spent = budget.share(learner)
    while spent < 1 and stop.signal is None:
      begin = time.monotonic()
      try:
        batch = next(batches)
      except StopIteration:
        return True
      if stop.signal is not None:
        return False
      metrics = learner.learn(batch, min(1.0, spent))
      _check_finite(metrics, batch, learner)
      learner.seconds += time.monotonic() - begin
      self._unsaved = True
      before, spent = spent, budget.share(learner)
      self._notify("on_step", metrics, learner.details)
      if self._save_when(learner, before, spent):
        self._save()
      if self._measure_when(learner, before, spent):
        self._measure()
    return False

  def _notify(self, event, *arguments):
    for observer in self._observers:
      getattr(observer, event)(self._learner.step, *arguments)

  def _save(self):
    self._learner.checkpoint = self._learner.save()
    self._unsaved = False
    self._notify("on_save", self._learner.checkpoint)

  def _measure(self):
    metrics = self._learner.measure()
    if metrics:
      self._notify("on_measure", metrics)


def _check_finite(metrics, batch, learner):
  names = metrics if learner.checked is None else learner.checked
  wrong = {n: metrics[n] for n in names if not math.isfinite(metrics[n])}
  if wrong:
    raise diverged(learner, wrong, learner.describe(batch))


def diverged(learner: Learner, wrong: Metrics, batch: str) -> errors.InputError:
  """Return the error of a step that gave values that are not finite."""
  kept = "no checkpoint yet"
  if learner.checkpoint is not None:
    kept = f"the last good checkpoint is {os.fspath(learner.checkpoint)}"
  values = ", ".join(f"{value:g}" for value in wrong.values())
  return errors.InputError(
    f"{', '.join(wrong)} in step {learner.step} must be finite, not {values} "
    f"in {batch} (a lower {learner.rate_flag} may help); {kept}"
  )


class Live(Observer):
  """Shows step, means over the last steps, speed and remaining time.

  On a terminal it is a progress bar; elsewhere, as in a log, a line after each
  `every` steps or, if this is None, each minute.
  """

  def __init__(self, budget: Budget, every: int | None = None):
    self._budget, self._every = budget, every
    self._recent = collections.deque[Metrics](maxlen=_MEAN_OF)
    self._bar: Any = None

  def start(self, learner: Any) -> None:
    """Show the progress of the runs before."""
    budget, self._learner = self._budget, learner
    self._times = collections.deque([time.monotonic()], maxlen=_MEAN_OF + 1)
    if self._every is None or progress.is_terminal():
      self._total = budget.steps or budget.seconds or budget.epochs or 1
      self._bar, self._shown = progress.spend("training", self._total), 0.0
      self._update()

  def on_step(self, step: int, metrics: Metrics, details: Any) -> None:
    """Show a step."""
    self._recent.append(metrics)
    self._times.append(time.monotonic())
    if self._bar is not None:
      self._bar.set_postfix_str(self._line(step), refresh=False)
      self._update()
    elif self._every and step % self._every == 0:
      left = progress.duration(self._seconds_left())
      logging.info("%s, %s left", self._line(step), left)

  def close(self) -> None:
    """Leave the line as it is."""
    if self._bar is not None:
      self._bar.close()

  def describe(self, means: Metrics) -> str:
    """Format the means of metrics over the last steps."""
    return ", ".join(f"{name} {value:.3g}" for name, value in means.items())

  def _update(self):
    spent = min(1.0, self._budget.share(self._learner))
    self._bar.update((spent - self._shown) * self._total)
    self._shown = spent

  def _speed(self):
    return (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-9)

  def _seconds_left(self):
    learner = self._learner
    if self._budget.steps is not None:
      return (self._budget.steps - learner.step) / max(self._speed(), 1e-9)
    spent = self._budget.share(learner)
    return learner.seconds * (1 / min(1.0, max(spent, 1e-9)) - 1)

  def _line(self, step):
    steps = f" of {self._budget.steps}" if self._budget.steps else ""
    values = collections.defaultdict(list)
    for name, value in itertools.chain(*(m.items() for m in self._recent)):
      values[name].append(value)
    means = {name: sum(each) / len(each) for name, each in values.items()}
    speed = f"{self._speed():.3g} steps/s"
    return f"step {step}{steps}: {self.describe(means)}, {speed}"


def cosine_rate(spent: float, step: int, warm_up: int) -> float:
  """Return the learning rate of a step as a share of the highest one.

  It falls along a cosine to 0.01 at the end of the budget, where `spent` is 1,
  after a linear rise in the first `warm_up` steps.
  """
  cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, spent))
  rate = _LOWEST_RATE + (1 - _LOWEST_RATE) * cosine
  return rate * min(1.0, (step + 1) / warm_up)


def linear_rate(first: float, step: Any, steps: int, warm_up: int) -> Any:
  """Return the learning rate of a step, a float32 tensor.

  It falls linearly from `first` to 0 in `steps`, after a linear rise from 0 in
  the first `warm_up`; `step`, an integer or a tensor, is the number of steps
  before.
  """
  import tensorflow as tf

  step = tf.cast(step, tf.float32)
  left = tf.maximum(0.0, 1.0 - step / steps)
  warm = tf.minimum(1.0, (step + 1.0) / max(1, warm_up))
  return first * left * warm


def write_state(
  path: pathlib.Path, variables: Sequence, digits: int = 3, **extra: Any
) -> None:
  """Write Keras variables to an `.npz` file, atomically.

  Keys are `<number>/<path of the variable>`, the number with `digits`; `extra`
  are further arrays by name.
  """
  arrays: dict[str, Any] = {
    f"{i:0{digits}d}/{variable.path}": np.asarray(variable.value)
    for i, variable in enumerate(variables)
  }
  with files.atomic_path(path) as temporary:
    np.savez(temporary, **arrays, **extra)


def assign_state(
  variables: Sequence,
  arrays: Mapping[str, np.ndarray],
  path: str | os.PathLike,
  named: int | None = None,
) -> None:
  """Assign the values of a state to variables, all of them or none.

  They are the first variables that were written, in the same order; `arrays`
  are the contents of the file. Names of the first `named` (None: of all) must
  match: Keras numbers optimizers and unnamed layers anew in each process.

  Raises InputError if a variable is missing, or has another shape or name.
  """
  stored = {
    int(name.partition("/")[0]): name for name in arrays if name[:1].isdigit()
  }
  for i, variable in enumerate(variables):
    name = stored.get(i, "nothing")
    shape = arrays[name].shape if name in arrays else None
    same = name.rpartition("/")[2] == variable.path.rpartition("/")[2]
    same = same or (named is not None and i >= named)
    if not same or shape != tuple(variable.shape):
      raise errors.InputError(
        f"variable {i} must be {variable.path} {tuple(variable.shape)}, not "
        + (name if shape is None else f"{name} {shape}"),
        path=path,
      )
  for i, variable in enumerate(variables):
    variable.assign(arrays[stored[i]])


class BoardObserver(Observer):
  """Observer with a new file of TensorBoard in the learner's `train_logs`.

  Methods raise an OSError that names the folder if writing fails.
  """

  _writer: Any = None  # Set by `start`, which may fail.

  def start(self, learner: Any) -> None:
    """Create the file; files of earlier runs remain."""
    import tensorflow as tf

    self._learner, self._summary = learner, tf.summary
    with self._errors():
      self._writer = tf.summary.create_file_writer(str(learner.train_logs))

  def write(
    self,
    step: int,
    scalars: Metrics,
    images: Mapping[str, np.ndarray] | None = None,
  ) -> None:
    """Write scalars, and images [N, H, W, C], uint8 or float in [0, 1]."""
    with self._errors(), self._writer.as_default(step=step):
      for tag, value in scalars.items():
        self._summary.scalar(tag, value)
      for tag, pictures in (images or {}).items():
        self._summary.image(tag, pictures, max_outputs=len(pictures))

  def flush(self) -> None:
    """Write buffered data to disk."""
    with self._errors():
      self._writer.flush()

  def close(self) -> None:
    """Write buffered data to disk, and close the file."""
    if self._writer is not None:
      with self._errors():
        self._writer.close()

  def _errors(self):
    folder = str(self._learner.train_logs)
    return checkpoints.writing("TensorBoard's file", folder)


class FileLearner(Learner):
  """Base class of learners of self-supervised models and of detectors."""

  terms: Sequence[str] = ()  # Names of the metrics of a step.
  kind: str = "a checkpoint of training"  # Its name in error messages.

  def __init__(
    self,
    draw: Callable[[int], Any] | None = None,
    path: str | os.PathLike | None = None,
  ):
    """Store the function that draws batches, and the path of the checkpoint.

    `draw` returns the batch of a step, and is called in threads, ahead of time;
    a batch has `pools`, the numbers of the places in it.
    """
    self._draw = draw
    self.path = None if path is None else pathlib.Path(path)

  def variables(self) -> list:
    """Return the variables of a checkpoint, always in the same order."""
    raise NotImplementedError

  def resume(self) -> None:
    """Restore the checkpoint, if any; raise InputError if it does not fit."""
    if self.path is not None and self.path.exists():
      arrays = restore(self.variables(), self.path, self.kind)
      self.step, self.seconds = int(arrays["step"]), float(arrays["seconds"])
      self.checkpoint = self.path

  def save(self) -> pathlib.Path:
    """Write the variables and the counters."""
    if self.path is None:
      raise ValueError("a learner without a path cannot save")
    step, seconds = np.int64(self.step), np.float64(self.seconds)
    write_state(self.path, self.variables(), step=step, seconds=seconds)
    return self.path

  def batches(self) -> Iterator:
    """Return endless batches, from that of the next step on."""
    if self._draw is None:
      raise ValueError("a learner without `draw` has no batches")
    workers = max(1, concurrency.core_count() // 2)
    steps = itertools.count(self.step)
    return concurrency.map_ahead(self._draw, steps, workers, workers + 2)

  def describe(self, batch: Any) -> str:
    """List the places in a batch."""
    return f"a batch of places {', '.join(map(str, batch.pools))}"

  def metrics(self, values: Any) -> dict[str, float]:
    """Return the tensor of a step's `terms` as numbers by name."""
    return dict(zip(self.terms, values.numpy().tolist(), strict=True))


def restore(
  variables: Sequence, path: str | os.PathLike, kind: str = FileLearner.kind
) -> Mapping[str, np.ndarray]:
  """Assign the first variables of a checkpoint, and return all its arrays."""
  arrays = base_arrays.read_npz(path, kind, ["step", "seconds"])
  assign_state(variables, arrays, path)
  return arrays
