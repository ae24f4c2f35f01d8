"""The training loop of the package, and what its learners share.

A `Learner` knows what a step is; `run` knows when to make one. Learners:
supervised training (`delg`), global descriptors (`pairs`), the compact model
(`compact_training`), detectors (`detector_training`).
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

_LOWEST_RATE = 0.01

# Steps whose mean and speed the live line shows.
_MEAN_OF = 20


class Learner:
  """Base class of what `run` trains.

  Subclasses write `batches`, `learn` and `save`, and override what else they
  need.
  """

  step: int = 0  # Steps made, over all runs that continue one another.
  seconds: float = 0.0  # Time spent on them; `run` counts it.
  # Epochs that are over, with a fraction that reaches the next one when it is
  # measured; where training has epochs.
  epoch: float = 0
  checkpoint: str | os.PathLike | None = None  # The newest, for messages.
  details: Any = None  # What observers get of the last step besides metrics.
  checked: Sequence[str] | None = None  # Metrics to be finite; None for all.
  rate_flag: str = "--rate"  # For the message if they are not.

  def resume(self) -> None:
    """Restore the newest checkpoint, if there is one, and set `checkpoint`."""

  def batches(self) -> Iterable:
    """Return the batches from `step` on: endless, or the rest of an epoch."""
    raise NotImplementedError

  def learn(self, batch, spent: float) -> Metrics:
    """Make one step, count it and return its metrics.

    `spent` is the share of the budget before the step, in [0, 1].
    """
    raise NotImplementedError

  def save(self) -> str | os.PathLike:
    """Write a checkpoint, whole or not at all, and return its path."""
    raise NotImplementedError

  def measure(self) -> Metrics:
    """Return metrics on held-out data; where there are epochs, end one."""
    return {}

  def describe(self, batch) -> str:
    """Return which batch the last step was made of, for error messages."""
    return f"batch {self.step - 1}"


class Observer:
  """Watches a run. Methods do nothing; subclasses override what they need."""

  def start(self, learner: Learner) -> None:
    """The run starts, or resumes, with this learner."""

  def wants(self, step: int) -> bool:
    """Return whether `on_step` is to get the details of this step."""
    return False

  def on_step(self, step: int, metrics: Metrics, details: Any) -> None:
    """A step was made; `details` are those of the learner, or None."""

  def on_measure(self, step: int, metrics: Metrics) -> None:
    """A measurement was made."""

  def on_save(self, step: int, path: str | os.PathLike) -> None:
    """A checkpoint was written."""

  def close(self) -> None:
    """Release resources; called however the run ends, even if `start` fails."""


@dataclasses.dataclass(frozen=True)
class Budget:
  """Length of a training, over all resumed runs: one of three is given.

  Seconds are those of steps, without measurements.
  """

  steps: int | None = None
  seconds: float | None = None
  epochs: int | None = None

  def share(self, learner: Learner) -> float:
    """Return the share that is spent: 0 to 1, or a little over."""
    if self.steps is not None:
      return learner.step / self.steps if self.steps else 1.0
    if self.seconds is not None:
      return learner.seconds / self.seconds if self.seconds else 1.0
    return learner.epoch / self.epochs


class Every:
  """Whether something that is done now and then is due after a step.

  Give one of `steps`, `seconds` (since the last time, or since the run began)
  and `parts`: so many times in a whole budget, and at its end.
  """

  def __init__(
    self,
    steps: int | None = None,
    seconds: float | None = None,
    parts: int | None = None,
  ):
    self._steps, self._seconds, self._parts = steps, seconds, parts
    self._last = time.monotonic()

  def __call__(self, learner: Learner, before: float, spent: float) -> bool:
    """Return whether it is due, by the shares spent before the step and now."""
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

  SIGTERM and SIGINT stop it after the running step. An epoch ends where
  `batches` does: it is measured, and more batches are drawn.

  Args:
    observers: Closed however the run ends.
    save_when: `Every`, or a function with its arguments: when to save, besides
      at the end.
    measure_when: The same of measurements, besides those at the end of epochs.

  Returns:
    Number of the signal that stopped the run, or None.

  Raises:
    InputError: If a metric is not finite; the last checkpoint stays.
    OSError: If a checkpoint cannot be written; the one before stays.
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
    self._learner, self._budget = learner, budget
    self._observers = observers
    self._save_when, self._measure_when = save_when, measure_when
    # A run that makes no step may follow one that was killed as it saved.
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
            received = f"{learner.step} batches"
            raise errors.InputError("batches without end", received)
          self._measure()
    if self._unsaved:
      self._save()

  def _make_steps(self, batches, stop):
    """Make the steps of an epoch; return whether it came to its end."""
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
      self._tell("on_step", metrics, learner.details)
      if self._save_when(learner, before, spent):
        self._save()
      if self._measure_when(learner, before, spent):
        self._measure()
    return False

  def _tell(self, event, *arguments):
    for observer in self._observers:
      getattr(observer, event)(self._learner.step, *arguments)

  def _save(self):
    self._learner.checkpoint = self._learner.save()
    self._unsaved = False
    self._tell("on_save", self._learner.checkpoint)

  def _measure(self):
    metrics = self._learner.measure()
    if metrics:
      self._tell("on_measure", metrics)


def _check_finite(metrics, batch, learner):
  names = metrics if learner.checked is None else learner.checked
  wrong = {n: metrics[n] for n in names if not math.isfinite(metrics[n])}
  if wrong:
    raise diverged(learner, wrong, learner.describe(batch))


def diverged(learner: Learner, wrong: Metrics, batch: str) -> errors.InputError:
  """Return the error of a step after which values are not finite."""
  kept = "no checkpoint yet"
  if learner.checkpoint is not None:
    kept = f"the last good checkpoint is {os.fspath(learner.checkpoint)}"
  values = ", ".join(f"{value:g}" for value in wrong.values())
  return errors.InputError(
    f"finite {', '.join(wrong)} in step {learner.step} (a lower "
    f"{learner.rate_flag} may help)",
    f"{values} in {batch}; {kept}",
  )


class Live(Observer):
  """Shows step, means over the last steps, speed and the time that is left.

  On a terminal that is a bar; elsewhere, as in a log, a line after each `every`
  steps or, without a number, each minute.
  """

  def __init__(self, budget: Budget, every: int | None = None):
    self._budget, self._every = budget, every
    self._recent = collections.deque(maxlen=_MEAN_OF)
    self._bar = None

  def start(self, learner):
    """Show where the run is."""
    budget, self._learner = self._budget, learner
    self._times = collections.deque([time.monotonic()], maxlen=_MEAN_OF + 1)
    if self._every is None or progress.is_terminal():
      self._total = budget.steps or budget.seconds or budget.epochs
      self._bar, self._shown = progress.spend("training", self._total), 0.0
      self._update()

  def on_step(self, step, metrics, details):
    """Show a step."""
    self._recent.append(metrics)
    self._times.append(time.monotonic())
    if self._bar is not None:
      self._bar.set_postfix_str(self._line(step), refresh=False)
      self._update()
    elif step % self._every == 0:
      left = progress.duration(self._seconds_left())
      logging.info("%s, %s left", self._line(step), left)

  def close(self):
    """Leave the line as it is."""
    if self._bar is not None:
      self._bar.close()

  def describe(self, means: Metrics) -> str:
    """Return the text for the means of metrics over the last steps."""
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
    for metrics in self._recent:
      for name, value in metrics.items():
        values[name].append(value)
    means = {name: sum(each) / len(each) for name, each in values.items()}
    speed = f"{self._speed():.3g} steps/s"
    return f"step {step}{steps}: {self.describe(means)}, {speed}"


def cosine_rate(spent: float, step: int, warm_up: int) -> float:
  """Return the share of the highest learning rate that a step has.

  It falls along a cosine to a hundredth where all of the budget is spent (1),
  and rises linearly in the first `warm_up` steps.
  """
  cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, spent))
  rate = _LOWEST_RATE + (1 - _LOWEST_RATE) * cosine
  return rate * min(1.0, (step + 1) / warm_up)


def linear_rate(first: float, step, steps: int, warm_up: int):
  """Return the learning rate of a step, a float32 tensor.

  It falls linearly from `first` to 0 in `steps`, and rises from 0 to that in
  the first `warm_up`; `step`, an integer or a tensor, counts those before.
  """
  import tensorflow as tf

  step = tf.cast(step, tf.float32)
  left = tf.maximum(0.0, 1.0 - step / steps)
  warm = tf.minimum(1.0, (step + 1.0) / max(1, warm_up))
  return first * left * warm


def write_state(
  path: pathlib.Path, variables: Sequence, digits: int = 3, **extra
) -> None:
  """Write Keras variables to an `.npz` file, whole or not at all.

  They are stored as `<number>/<path of the variable>`, numbers with `digits`;
  `extra` are further arrays by name.
  """
  arrays = {
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
  """Give variables the values of a state, all of them or none.

  Args:
    variables: The first ones of those that were written, in that order.
    named: How many of the variables must have the name that is in the file;
      None for all. Names of optimizers and of layers without one count up.

  Raises:
    InputError: If a variable is missing, or of another shape or name.
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
        f"{variable.path} {tuple(variable.shape)} as variable {i}",
        name if shape is None else f"{name} {shape}",
        path,
      )
  for i, variable in enumerate(variables):
    variable.assign(arrays[stored[i]])


class BoardFile:
  """Numbers and pictures of steps for TensorBoard, in a new file in a folder.

  Methods raise an OSError that names the folder if they cannot write.
  """

  def __init__(self, folder: str | os.PathLike):
    import tensorflow as tf

    self._folder, self._summary = str(folder), tf.summary
    with self._errors():
      self._writer = self._summary.create_file_writer(self._folder)

  def write(
    self,
    step: int,
    scalars: Metrics,
    images: Mapping[str, np.ndarray] | None = None,
  ) -> None:
    """Write points of curves, and images [N, H, W, C], in [0, 1] or uint8."""
    with self._errors(), self._writer.as_default(step=step):
      for tag, value in scalars.items():
        self._summary.scalar(tag, value)
      for tag, pictures in (images or {}).items():
        self._summary.image(tag, pictures, max_outputs=len(pictures))

  def flush(self) -> None:
    """Write out what is buffered."""
    with self._errors():
      self._writer.flush()

  def close(self) -> None:
    """Write out what is buffered, and close the file."""
    with self._errors():
      self._writer.close()

  def _errors(self):
    return checkpoints.writing("TensorBoard's file", self._folder)


class BoardObserver(Observer):
  """Observer with a `BoardFile` in the folder `train_logs` of the learner."""

  _file = None

  def start(self, learner):
    """Begin a file; those of earlier runs stay."""
    self._learner, self._file = learner, BoardFile(learner.train_logs)

  def close(self):
    """Close the file."""
    if self._file is not None:
      self._file.close()


_COUNTERS = ("step", "seconds")


class FileLearner(Learner):
  """Base class of learners of self-supervised models and of detectors."""

  terms: Sequence[str] = ()  # Names of the metrics of a step.
  kind: str = "a checkpoint of training"  # In error messages.

  def __init__(
    self,
    draw: Callable[[int], Any] | None = None,
    path: str | os.PathLike | None = None,
  ):
    """Create the learner with the file of its checkpoint.

    `draw` makes the batch of a step, in threads ahead of time; the batch has
    `pools`, the numbers of the places that it shows.
    """
    self._draw = draw
    self.path = None if path is None else pathlib.Path(path)

  def variables(self) -> list:
    """Return all that later steps depend on, always in the same order."""
    raise NotImplementedError

  def resume(self) -> None:
    """Restore the checkpoint, if there is one; InputError if it is another."""
    if self.path.exists():
      arrays = restore(self.variables(), self.path, self.kind)
      self.step, self.seconds = int(arrays["step"]), float(arrays["seconds"])
      self.checkpoint = self.path

  def save(self) -> pathlib.Path:
    """Write the variables and the counters."""
    counters = {"step": np.int64(self.step)}
    counters["seconds"] = np.float64(self.seconds)
    write_state(self.path, self.variables(), **counters)
    return self.path

  def batches(self) -> Iterator:
    """Return the batches of the steps from here on, without end."""
    workers = max(1, concurrency.core_count() // 2)
    steps = itertools.count(self.step)
    return concurrency.map_ahead(self._draw, steps, workers, workers + 2)

  def describe(self, batch) -> str:
    """Return the places that a batch shows."""
    return f"a batch of places {', '.join(map(str, batch.pools))}"

  def metrics(self, values) -> dict[str, float]:
    """Return the values of `terms` by name."""
    return dict(zip(self.terms, values.numpy().tolist(), strict=True))


def restore(
  variables: Sequence, path: str | os.PathLike, kind: str = FileLearner.kind
) -> Mapping[str, np.ndarray]:
  """Assign the first variables of a checkpoint; return all of its arrays."""
  arrays = base_arrays.read_npz(path, kind, _COUNTERS)
  assign_state(variables, arrays, path)
  return arrays
