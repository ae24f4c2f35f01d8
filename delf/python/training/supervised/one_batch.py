"""Self-test: can a model learn one batch by heart?

A network that cannot has a problem that no data and no patience will mend.
"""

import contextlib
import dataclasses
import tempfile

import tensorflow as tf

from delf.python.training.supervised import fitting, objectives, observers

# Steps until it gives up.
STEPS = 200
# What is left of a loss when it has fallen. Attention learns from what another
# loss makes of the backbone, so it comes later.
_FALLEN = {objectives.DESCRIPTOR: 0.5, objectives.ATTENTION: 0.9}
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
      fitting.fit(short, [losses, *watching], _OneBatch(source))
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


class _Losses(observers.Observer):
  """Remembers the losses, and ends a run that has shown it."""

  def __init__(self, attention):
    self._tags = [objectives.DESCRIPTOR]
    self._tags += [objectives.ATTENTION] if attention else []
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
