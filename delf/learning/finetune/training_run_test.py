import json
import os
import signal

import numpy as np
import pytest

from delf.base import errors
from delf.learning.finetune import training_run

_TERMS = ("local", "attention", "found", "score")


class _Batch:
  def __init__(self, step):
    self.values = np.random.default_rng((7, step)).random(4)
    self.pools = np.array([step])


class _Trainer:
  """Weights that all batches have had a part in, in their order."""

  def __init__(self, hook=None):
    self.step, self.seconds, self.weights = 0, 0.0, np.zeros(4)
    self.drawn, self._hook = [], hook

  def learn(self, batch, progress):
    self.weights = 0.9 * self.weights + (1 - progress) * batch.values
    self.drawn.append(int(batch.pools[0]))
    self.step += 1
    if self._hook:
      self._hook(self)
    return self.weights

  def save(self, path):
    state = [self.step, self.seconds, self.weights.tolist()]
    path.write_text(json.dumps(state))

  def resume(self, path):
    if path.exists():
      self.step, self.seconds, weights = json.loads(path.read_text())
      self.weights = np.array(weights)


def _learn(trainer, folder, steps=20, seconds=None):
  budget = training_run.Budget(steps, seconds)
  return training_run.learn(
    trainer, _TERMS, _Batch, budget, folder, lambda: 0.5
  )


def _at(step, number):
  def hook(trainer):
    if trainer.step == step:
      os.kill(os.getpid(), number)

  return hook


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed_is_as_never_stopped(tmp_path, number):
  whole, stopped = _Trainer(), _Trainer(_at(7, number))
  curve = _learn(whole, tmp_path / "whole")
  handler = signal.getsignal(number)
  with pytest.raises(training_run.Stopped, match="step 7") as caught:
    _learn(stopped, tmp_path / "stopped")
  assert caught.value.number == number
  assert signal.getsignal(number) is handler
  resumed = _Trainer()
  again = _learn(resumed, tmp_path / "stopped")
  assert stopped.drawn + resumed.drawn == whole.drawn == list(range(20))
  np.testing.assert_array_equal(resumed.weights, whole.weights)
  rows = [[row["step"] for row in rows] for rows in (curve, again)]
  assert rows[0] == rows[1]


def test_what_a_killed_run_did_after_its_checkpoint_is_done_again(tmp_path):
  whole, killed = _Trainer(), _Trainer(_at(7, signal.SIGTERM))
  _learn(whole, tmp_path / "whole")
  with pytest.raises(training_run.Stopped):
    _learn(killed, tmp_path / "killed")
  # Rows of the curve that are newer than the checkpoint.
  rows = json.loads((tmp_path / "killed" / training_run.CURVE).read_text())
  rows.append(rows[-1] | {"step": 9, "spent": 0.45})
  (tmp_path / "killed" / training_run.CURVE).write_text(json.dumps(rows))
  resumed = _Trainer()
  curve = _learn(resumed, tmp_path / "killed")
  np.testing.assert_array_equal(resumed.weights, whole.weights)
  steps = [row["step"] for row in curve]
  assert steps == sorted(set(steps)) and steps[-1] == 20


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(tmp_path):
  with pytest.raises(training_run.Stopped):
    _learn(_Trainer(_at(5, signal.SIGTERM)), tmp_path)
  before = (tmp_path / training_run.CHECKPOINT).read_bytes()

  def poison(trainer):
    if trainer.step == 8:
      trainer.weights = trainer.weights * np.nan

  with pytest.raises(errors.InputError, match="step 8.*places 7.*checkpoint"):
    _learn(_Trainer(poison), tmp_path)
  assert (tmp_path / training_run.CHECKPOINT).read_bytes() == before


def test_time_is_a_budget_too(tmp_path):
  trainer = _Trainer()
  curve = _learn(trainer, tmp_path, steps=None, seconds=0.05)
  assert trainer.seconds >= 0.05 and trainer.step > 1
  assert curve[-1]["step"] == trainer.step
  more = _Trainer()
  _learn(more, tmp_path, steps=None, seconds=0.05)
  assert more.step == trainer.step  # It was spent.


def test_errors_of_batches_are_raised(tmp_path):
  def draw(step):
    raise errors.InputError("a batch", "none")

  budget = training_run.Budget(steps=3)
  with pytest.raises(errors.InputError, match="a batch"):
    training_run.learn(_Trainer(), _TERMS, draw, budget, tmp_path, lambda: 0.5)


def test_the_curve_has_held_out_photos_from_the_start(tmp_path):
  curve = _learn(_Trainer(), tmp_path)
  assert [curve[0][k] for k in ("step", "held_out")] == [0, 0.5]
  assert "local" not in curve[0] and np.isfinite(curve[-1]["local"])
