"""The steps of a training: budget, progress, checkpoints, stopping."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import signal
import threading
import time

import numpy as np

from delf.python import errors, files, progress

CHECKPOINT, CURVE = "checkpoint.npz", "curve.json"

# Seconds from one checkpoint to the next; what is lost when a run is killed.
_SAVE_INTERVAL = 60.0

# Rows of the learning curve, over the whole budget.
_ROWS = 40


@dataclasses.dataclass(frozen=True)
class Budget:
  """How long to learn: steps, or seconds. The other one is None."""

  steps: int | None = None
  seconds: float | None = None

  def share(self, trainer):
    """Returns how much of it is spent, 0 to 1 or a little over."""
    if self.steps is not None:
      return trainer.step / max(1, self.steps)
    return trainer.seconds / max(1e-9, self.seconds)


class Stopped(Exception):  # noqa: N818 - it is no error
  """A signal ended the learning, after a checkpoint was written.

  Attributes:
    number: Of the signal.
  """

  def __init__(self, number, step):
    super().__init__(f"stopped at step {step}; the same command goes on there")
    self.number = number


def learn(trainer, terms, draw, budget, folder, check):
  """Learns until the budget is spent, from the checkpoint if there is one.

  Args:
    trainer: self_supervised.trainer.Trainer.
    terms: Names of what it returns of a step.
    draw: Function from the number of a step, from 0 on, to its data.Batch.
    budget: Budget.
    folder: pathlib.Path for checkpoint and curve.
    check: Function of no arguments: a measure of held-out photos, or NaN.

  Returns:
    list of dict, rows of the learning curve: step, seconds, rate of steps, mean
    of each of the terms since the row before, and held_out.

  Raises:
    Stopped: After SIGINT or SIGTERM.
    InputError: If a loss is not finite; the last checkpoint stays.
  """
  trainer.resume(folder / CHECKPOINT)
  curve = _Curve(folder / CURVE, trainer, terms, check)
  total = budget.steps or budget.seconds
  bar = progress.spend("training", total)
  saved = time.monotonic()
  with (
    bar,
    _signals() as signals,
    contextlib.closing(_ahead(draw, trainer.step)) as batches,
  ):
    spent = budget.share(trainer)
    bar.update(min(1.0, spent) * total)
    while spent < 1:
      begin = time.monotonic()
      batch = next(batches)
      values = np.asarray(trainer.learn(batch, spent), float)
      _check_finite(values, batch, trainer, folder)
      trainer.seconds += time.monotonic() - begin
      before, spent = spent, budget.share(trainer)
      bar.update((min(1.0, spent) - min(1.0, before)) * total)
      curve.add(values, spent)
      bar.set_postfix_str(curve.words())
      if signals or spent >= 1 or time.monotonic() - saved > _SAVE_INTERVAL:
        saved = time.monotonic()
        _save(trainer, curve, folder)
      if signals and spent < 1:
        raise Stopped(signals[0], trainer.step)
  return curve.rows


def _save(trainer, curve, folder):
  # The curve first: rows after the checkpoint are left out when it is read.
  curve.save()
  trainer.save(folder / CHECKPOINT)


def _check_finite(values, batch, trainer, folder):
  if np.isfinite(values).all():
    return
  kept = "none was written"
  if (folder / CHECKPOINT).exists():
    kept = f"the last one is {folder / CHECKPOINT}"
  raise errors.InputError(
    "finite losses (a lower --rate may help)",
    f"{', '.join(f'{value:g}' for value in values)} at step {trainer.step}, "
    f"batch of places {', '.join(map(str, batch.pools))}; checkpoint: {kept}",
  )


class _Curve:
  """Rows of the learning curve, and what is new since the last."""

  def __init__(self, path, trainer, terms, check):
    self.rows = []
    self._path, self._trainer, self._check = path, trainer, check
    self._terms = terms
    self._values, self._recent = [], collections.deque(maxlen=20)
    if path.exists() and trainer.step:
      rows = json.loads(files.read_bytes(path))
      self.rows = [row for row in rows if row["step"] <= trainer.step]
    self._next = self.rows[-1]["spent"] + 1 / _ROWS if self.rows else 0.0
    if not self.rows:
      self._add_row([np.nan] * len(self._terms), 0.0)
    self._times = collections.deque([time.monotonic()], maxlen=50)

  def add(self, values, spent):
    self._values.append(values)
    self._recent.append(values)
    self._times.append(time.monotonic())
    if spent >= self._next or spent >= 1:
      self._add_row(np.mean(self._values, axis=0), spent)
      self._values = []

  def _add_row(self, values, spent):
    row = {
      "step": self._trainer.step,
      "seconds": round(self._trainer.seconds, 2),
      "spent": spent,
      "held_out": float(self._check()),
    }
    values = {
      name: float(v) for name, v in zip(self._terms, values, strict=True)
    }
    # JSON has no NaN.
    row |= {name: v for name, v in values.items() if np.isfinite(v)}
    self.rows.append(row)
    self._next = spent + 1 / _ROWS

  def words(self):
    """Returns words for the last steps."""
    passed = self._times[-1] - self._times[0]
    rate = (len(self._times) - 1) / max(passed, 1e-9)
    means = np.mean(self._recent, axis=0)
    values = " ".join(
      f"{name} {value:.3f}"
      for name, value in zip(self._terms, means, strict=True)
    )
    return f"step {self._trainer.step}, {rate:.1f} steps/s, {values}"

  def save(self):
    files.write_bytes(self._path, json.dumps(self.rows).encode())


@contextlib.contextmanager
def _signals():
  """Gives a list that fills with signals in place of their ending the run.

  A second SIGINT ends it at once.
  """
  caught = []

  def catch(number, frame):
    if caught and number == signal.SIGINT:
      raise KeyboardInterrupt
    caught.append(number)

  if threading.current_thread() is not threading.main_thread():
    yield caught
    return
  numbers = (signal.SIGINT, signal.SIGTERM)
  before = {number: signal.signal(number, catch) for number in numbers}
  try:
    yield caught
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def _ahead(draw, start):
  """Yields the batches from step `start` on, made by threads ahead of time."""
  workers = max(1, (os.cpu_count() or 1) // 2)
  pool = concurrent.futures.ThreadPoolExecutor(workers)
  try:
    waiting = collections.deque()
    while True:
      while len(waiting) < workers + 2:
        waiting.append(pool.submit(draw, start))
        start += 1
      yield waiting.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)
