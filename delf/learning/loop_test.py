import json
import logging
import os
import signal

import keras
import numpy as np
import pytest

from delf.base import arrays, errors
from delf.learning import loop


class _Weights(loop.Learner):
  """Numbers that all batches have had a part in, in their order."""

  def __init__(self, folder, hook=None):
    self._path, self._hook = folder / "state.json", hook
    self.weights, self.seen, self.saved, self.closed = 0.0, [], [], 0

  def resume(self):
    if self._path.exists():
      self.step, self.seconds, self.weights = json.loads(self._path.read_text())
      self.checkpoint = self._path

  def batches(self):
    try:
      yield from range(self.step, 10**9)
    finally:
      self.closed += 1

  def learn(self, batch, spent):
    self.seen.append(batch)
    self.step += 1
    self.weights = 0.9 * self.weights + (1 - spent) * (batch + 1)
    if self._hook is not None:
      self._hook(self)
    return {"loss": self.weights, "other": 1.0}

  def save(self):
    self.saved.append(self.step)
    self._path.write_text(json.dumps([self.step, self.seconds, self.weights]))
    return self._path

  def measure(self):
    return {"held_out": 1 / (1 + self.step)}


def _at(step, act):
  def hook(learner):
    if learner.step == step:
      act(learner)

  return hook


def _kill(number):
  return lambda learner: os.kill(os.getpid(), number)


class _Watch(loop.Observer):
  def __init__(self):
    self.events = []

  def start(self, learner):
    self.events.append(("start", learner.step))

  def on_step(self, step, metrics, details):
    self.events.append(("step", step))

  def on_measure(self, step, metrics):
    self.events.append(("measure", step))

  def on_save(self, step, path):
    self.events.append(("save", step))

  def close(self):
    self.events.append(("close",))


def _run(learner, observers=(), steps=10, save=4, measure=3):
  return loop.run(
    learner,
    loop.Budget(steps=steps),
    observers,
    loop.Every(steps=save),
    loop.Every(steps=measure),
  )


def test_observers_see_steps_checkpoints_and_measurements(tmp_path):
  watch = _Watch()
  learner = _Weights(tmp_path)
  assert _run(learner, [watch], steps=6, save=3) is None
  assert watch.events == [
    ("start", 0),
    *(("step", 1), ("step", 2)),
    *(("step", 3), ("save", 3), ("measure", 3)),
    *(("step", 4), ("step", 5)),
    *(("step", 6), ("save", 6), ("measure", 6)),
    ("close",),
  ]
  assert (learner.saved, learner.closed) == ([3, 6], 1)
  assert learner.seconds > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_resumes_as_if_it_had_not_stopped(tmp_path, number):
  (tmp_path / "parts").mkdir()
  whole = _Weights(tmp_path)
  _run(whole)
  stopped = _Weights(tmp_path / "parts", _at(7, _kill(number)))
  handler = signal.getsignal(number)
  assert _run(stopped) == number
  assert signal.getsignal(number) is handler
  assert stopped.saved == [4, 7]
  resumed = _Weights(tmp_path / "parts")
  assert _run(resumed) is None
  assert stopped.seen + resumed.seen == whole.seen == list(range(10))
  assert resumed.weights == whole.weights


def test_a_second_signal_ends_the_program_at_once(tmp_path):
  def twice(learner):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)

  learner = _Weights(tmp_path, _at(2, twice))
  with pytest.raises(KeyboardInterrupt):
    _run(learner)
  assert learner.saved == []


def test_a_signal_while_a_batch_is_made_skips_its_step(tmp_path):
  class Interrupted(_Weights):
    def batches(self):
      for batch in super().batches():
        if batch == 5:
          signal.raise_signal(signal.SIGTERM)
        yield batch

  learner = Interrupted(tmp_path)
  assert _run(learner) == signal.SIGTERM
  assert (learner.step, learner.saved) == (5, [4, 5])


def test_a_finished_run_is_saved_and_makes_no_step(tmp_path):
  _run(_Weights(tmp_path))
  again = _Weights(tmp_path)
  _run(again)
  assert (again.seen, again.saved) == ([], [10])


def test_a_metric_that_is_not_finite_ends_the_run_unsaved(tmp_path):
  def spoil(learner):
    learner.weights = float("nan")

  learner = _Weights(tmp_path, _at(6, spoil))
  message = (
    r"loss in step 6 must be finite, not nan in batch 5 \(a lower --rate may "
    r"help\); the last good checkpoint is .*state.json"
  )
  with pytest.raises(errors.InputError, match=message):
    _run(learner)
  assert learner.saved == [4]
  fresh = _Weights(tmp_path / "none", _at(1, spoil))
  with pytest.raises(errors.InputError, match="no checkpoint yet"):
    _run(fresh)
  fresh.checked, fresh.weights = ["other"], 0.0
  assert not loop._check_finite({"loss": np.nan, "other": 1.0}, 0, fresh)


def test_observers_are_closed_however_a_run_ends(tmp_path):
  def fail(learner):
    raise ZeroDivisionError

  watch = _Watch()
  learner = _Weights(tmp_path, _at(2, fail))
  with pytest.raises(ZeroDivisionError):
    _run(learner, [watch])
  assert watch.events[-1] == ("close",)
  assert learner.closed == 1


class _Epochs(_Weights):
  """Three steps in an epoch."""

  place = 0

  def batches(self):
    yield from range(self.place, 3)

  def learn(self, batch, spent):
    self.place = batch + 1
    return super().learn(batch, spent)

  def measure(self):
    self.epoch, self.place = self.epoch + 1, 0
    return {"epoch": self.epoch}


def test_an_epoch_ends_with_a_measurement(tmp_path):
  watch = _Watch()
  learner = _Epochs(tmp_path)
  loop.run(learner, loop.Budget(epochs=2), [watch])
  assert learner.seen == [0, 1, 2] * 2
  measured = [event for event in watch.events if event[0] == "measure"]
  assert measured == [("measure", 3), ("measure", 6)]
  # A run that was stopped after the last step of an epoch measures first.
  learner = _Epochs(tmp_path / "other", _at(3, _kill(signal.SIGTERM)))
  (tmp_path / "other").mkdir()
  loop.run(learner, loop.Budget(epochs=1))
  assert (learner.place, learner.epoch) == (3, 0)
  loop.run(learner, loop.Budget(epochs=1))
  assert (learner.seen, learner.epoch) == ([0, 1, 2], 1)


def test_batches_that_end_are_an_error_without_epochs(tmp_path):
  with pytest.raises(
    errors.InputError,
    match="the batches end after step .* needs endless batches",
  ):
    _run(_Epochs(tmp_path))


def test_time_is_a_budget(tmp_path):
  learner = _Weights(tmp_path)
  budget = loop.Budget(seconds=0.05)
  loop.run(learner, budget)
  assert learner.seconds >= 0.05 and learner.step > 1
  more = _Weights(tmp_path)
  loop.run(more, budget)
  assert more.step == learner.step  # It was spent.


def test_when_something_is_due(tmp_path, monkeypatch):
  learner = _Weights(tmp_path)
  parts = loop.Every(parts=4)
  shares = [i / 10 for i in range(11)]
  due = [parts(learner, a, b) for a, b in zip(shares, shares[1:], strict=False)]
  assert [i + 1 for i, now in enumerate(due) if now] == [3, 5, 8, 10]
  now = [100.0]
  monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
  minute = loop.Every(seconds=60)
  assert not minute(learner, 0, 0)
  now[0] += 61
  assert minute(learner, 0, 0) and not minute(learner, 0, 0)


def test_live_lines_of_a_log(tmp_path, caplog):
  with caplog.at_level(logging.INFO, "absl"):
    live = loop.Live(loop.Budget(steps=10), every=5)
    _run(_Weights(tmp_path), [live])
  lines = [record.getMessage() for record in caplog.records]
  assert len(lines) == 2
  assert lines[0].startswith("step 5 of 10: loss ")
  assert "other 1, " in lines[0] and lines[0].endswith("left")


def test_the_rate_rises_and_falls():
  rates = [loop.cosine_rate(i / 100, i, 10) for i in range(101)]
  assert rates[0] == pytest.approx(0.1)
  assert max(rates) == rates[9] < 1
  assert rates[-1] == pytest.approx(0.01)


def _variables(shapes=((2, 3), (4,))):
  return [
    keras.Variable(np.full(shape, i + 1.0), name=f"v{i}")
    for i, shape in enumerate(shapes)
  ]


def test_states_come_back(tmp_path):
  path = tmp_path / "a.npz"
  loop.write_state(path, _variables(), step=np.int64(7))
  stored = arrays.read_npz(path, "a state", ["step"])
  assert stored["step"] == 7 and "000/v0" in stored
  others = _variables()
  for variable in others:
    variable.assign(variable * 0)
  loop.assign_state(others, stored, path)
  assert float(others[1].value[0]) == 2.0
  loop.assign_state(others[:1], stored, path)


def test_other_states_are_refused_whole(tmp_path):
  path = tmp_path / "a.npz"
  loop.write_state(path, _variables(), digits=4)
  stored = arrays.read_npz(path, "a state", [])
  others = _variables(((2, 3), (5,)))
  others[0].assign(np.zeros([2, 3]))
  message = r"a.npz: variable 1 must be v1 \(5,\), not 0001/v1 \(4,\)"
  with pytest.raises(errors.InputError, match=message):
    loop.assign_state(others, stored, path)
  assert not np.any(others[0].numpy())
  renamed = [_variables()[0], keras.Variable(np.zeros(4), name="other")]
  with pytest.raises(errors.InputError, match="other.*0001/v1"):
    loop.assign_state(renamed, stored, path)
  loop.assign_state(renamed, stored, path, named=1)
  assert float(renamed[1].value[0]) == 2.0
  with pytest.raises(errors.InputError, match="not nothing"):
    loop.assign_state([*_variables(), renamed[1]], stored, path)
  with pytest.raises(errors.InputError, match="a state"):
    arrays.read_npz(path, "a state", ["step"])
