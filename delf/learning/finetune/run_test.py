import json
import os
import signal

import numpy as np
import pytest

from delf.base import errors
from delf.learning import loop
from delf.learning.finetune import run


class _Batch:
  def __init__(self, step):
    self.values = np.random.default_rng((7, step)).random(4)
    self.pools = np.array([step])


class _Learner(loop.FileLearner):
  """Weights that all batches have had a part in, in their order."""

  terms = ("local", "attention", "found", "score")

  def __init__(self, folder, hook=None, draw=_Batch):
    super().__init__(draw, folder / run.CHECKPOINT)
    self.weights, self.drawn, self._hook = np.zeros(4), [], hook

  def learn(self, batch, spent):
    self.weights = 0.9 * self.weights + (1 - spent) * batch.values
    self.drawn.append(int(batch.pools[0]))
    self.step += 1
    if self._hook:
      self._hook(self)
    return dict(zip(self.terms, self.weights.tolist(), strict=True))

  def measure(self):
    return {"held_out": 0.5}

  def save(self):
    state = [self.step, self.seconds, self.weights.tolist()]
    self.path.parent.mkdir(exist_ok=True)
    self.path.write_text(json.dumps(state))
    return self.path

  def resume(self):
    if self.path.exists():
      text = self.path.read_text()
      self.step, self.seconds, weights = json.loads(text)
      self.weights, self.checkpoint = np.array(weights), self.path


def _learn(learner, steps=20, seconds=None):
  return run.learn(learner, loop.Budget(steps, seconds), learner.path.parent)


def _learner(folder, hook=None, draw=_Batch):
  folder.mkdir(exist_ok=True)
  return _Learner(folder, hook, draw)


def _at(step, number):
  def hook(learner):
    if learner.step == step:
      os.kill(os.getpid(), number)

  return hook


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_and_resumed_is_as_never_stopped(tmp_path, number):
  whole = _learner(tmp_path / "whole")
  stopped = _learner(tmp_path / "stopped", _at(7, number))
  curve = _learn(whole)
  handler = signal.getsignal(number)
  with pytest.raises(run.Stopped, match="step 7") as caught:
    _learn(stopped)
  assert caught.value.number == number
  assert signal.getsignal(number) is handler
  resumed = _learner(tmp_path / "stopped")
  again = _learn(resumed)
  assert stopped.drawn + resumed.drawn == whole.drawn == list(range(20))
  np.testing.assert_array_equal(resumed.weights, whole.weights)
  rows = [[row["step"] for row in rows] for rows in (curve, again)]
  assert rows[0] == rows[1]


def test_what_a_killed_run_did_after_its_checkpoint_is_done_again(tmp_path):
  whole = _learner(tmp_path / "whole")
  killed = _learner(tmp_path / "killed", _at(7, signal.SIGTERM))
  _learn(whole)
  with pytest.raises(run.Stopped):
    _learn(killed)
  # Rows of the curve that are newer than the checkpoint.
  rows = json.loads((tmp_path / "killed" / run.CURVE).read_text())
  rows.append(rows[-1] | {"step": 9, "spent": 0.45})
  (tmp_path / "killed" / run.CURVE).write_text(json.dumps(rows))
  resumed = _learner(tmp_path / "killed")
  curve = _learn(resumed)
  np.testing.assert_array_equal(resumed.weights, whole.weights)
  steps = [row["step"] for row in curve]
  assert steps == sorted(set(steps)) and steps[-1] == 20


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(tmp_path):
  with pytest.raises(run.Stopped):
    _learn(_learner(tmp_path, _at(5, signal.SIGTERM)))
  before = (tmp_path / run.CHECKPOINT).read_bytes()

  def poison(learner):
    if learner.step == 8:
      learner.weights = learner.weights * np.nan

  with pytest.raises(errors.InputError, match="step 8.*places 7.*checkpoint"):
    _learn(_learner(tmp_path, poison))
  assert (tmp_path / run.CHECKPOINT).read_bytes() == before


def test_time_is_a_budget_too(tmp_path):
  learner = _learner(tmp_path)
  curve = _learn(learner, steps=None, seconds=0.3)
  assert learner.seconds >= 0.3 and learner.step > 1
  assert curve[-1]["step"] == learner.step
  more = _learner(tmp_path)
  _learn(more, steps=None, seconds=0.3)
  assert more.step == learner.step  # It was spent.


def test_errors_of_batches_are_raised(tmp_path):
  def draw(step):
    raise errors.InputError("no batch is left")

  with pytest.raises(errors.InputError, match="no batch is left"):
    _learn(_learner(tmp_path, draw=draw), steps=3)


def test_the_curve_has_held_out_photos_from_the_start(tmp_path):
  curve = _learn(_learner(tmp_path))
  assert [curve[0][k] for k in ("step", "held_out")] == [0, 0.5]
  assert "local" not in curve[0] and np.isfinite(curve[-1]["local"])
