"""Runs: what they write, how they go on, what ends them."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf

from delf.base import errors
from delf.learning import delg, delg_settings, delg_steps, loop
from delf.networks import backbones, exporting
from tests.stand_ins import full_disk, tiny_training
from tests.stand_ins.tiny_training import tiny  # noqa: F401

_COUNTER = "save_counter/.ATTRIBUTES/VARIABLE_VALUE"

_BATCHES = tiny_training.NoiseBatches()


def _settings(folder, max_iters=4, delg=True, **options):
  return delg_settings.Settings(
    str(folder),
    delg_settings.Data(num_classes=3, batch_size=4, image_size=65),
    delg_settings.Network(backbone="tiny", delg=delg, embedding_layer_dim=16),
    delg_settings.Learning(max_iters=max_iters, **options),
    delg_settings.Reporting(report_every=2, save_every=2, validate_every=3),
  )


def _eager(given):
  """Returns settings of a run that starts at once."""
  execution = delg_settings.Execution(eager=True)
  return dataclasses.replace(given, execution=execution)


class _Watch(loop.Observer):
  """Remembers what it was told."""

  def __init__(self):
    self.told = []

  def needs_details(self, step):
    return step == 2

  def on_step(self, step, metrics, batch):
    self.told.append(("step", step, metrics, batch))

  def on_measure(self, step, metrics):
    self.told.append(("validation", step, metrics))

  def on_save(self, step, path):
    self.told.append(("save", step, path))

  def of(self, kind):
    return [entry[1:] for entry in self.told if entry[0] == kind]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that was not stopped: folder, report, and what was told."""
  folder = tmp_path_factory.mktemp("whole")
  watch = _Watch()
  report = delg.fit(_settings(folder), [watch], _BATCHES)
  return folder, report, watch


def test_a_run_tells_how_it_goes(whole):
  folder, report, watch = whole
  assert (report.step, report.signal) == (4, None)
  assert [step for step, *_ in watch.of("step")] == [1, 2, 3, 4]
  rates = [m["learning_rate"] for _, m, _ in watch.of("step")]
  assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])
  ((step, metrics),) = watch.of("validation")
  assert step == 3
  assert set(metrics) == {"validation/desc", "validation/attn"}
  # 9 photos: the last batch is not a whole one.
  assert all((9 * value) % 1 < 1e-9 for value in metrics.values())
  assert [step for step, _ in watch.of("save")] == [2, 4]
  batches = [batch for *_, batch in watch.of("step")]
  assert [batch is not None for batch in batches] == [False, True, False, False]
  assert batches[1].images.shape == (4, 65, 65, 3)
  assert batches[1].attention.shape == (4, 5, 5, 1)
  assert list(batches[1].sparsity) == ["sparsity/block3"]
  assert (folder / "delf_weights.index").exists()


def _arrays(folder, step):
  """Returns all that a checkpoint holds, by key."""
  reader = tf.train.load_checkpoint(f"{folder}/delf_tf2-ckpt/ckpt-{step}")
  keys = set(reader.get_variable_to_shape_map())
  keys -= {"_CHECKPOINTABLE_OBJECT_GRAPH", _COUNTER}
  return {key: reader.get_tensor(key) for key in keys}


def _same(first, second):
  assert first.keys() == second.keys()
  for key, value in first.items():
    np.testing.assert_array_equal(value, second[key], err_msg=key)


class _Ends(loop.Observer):
  """Ends a run after a step."""

  def __init__(self, step, how):
    self._step, self._how = step, how

  def on_step(self, step, metrics, batch):
    if step == self._step:
      self._how()


class _Closed(loop.Observer):
  """Counts how often it is closed; may fail as a run starts."""

  def __init__(self, fails=False):
    self.times, self._fails = 0, fails

  def start(self, run):
    if self._fails:
      _fail()

  def close(self):
    self.times += 1


def _terminate():
  os.kill(os.getpid(), signal.SIGTERM)


def _fail():
  raise ZeroDivisionError


@pytest.mark.slow
def test_stopped_and_gone_on_with_is_never_stopped(whole, tmp_path):
  watch = _Watch()
  stopped = delg.fit(
    _settings(tmp_path), [watch, _Ends(1, _terminate)], _BATCHES
  )
  assert (stopped.step, stopped.signal) == (1, signal.SIGTERM)
  assert stopped.checkpoint.endswith("ckpt-1")
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  report = delg.fit(_settings(tmp_path), [watch], _BATCHES)
  assert (report.step, report.signal) == (4, None)
  assert [s for s, *_ in watch.of("step")] == [1, 2, 3, 4]
  for (_, expected, _), (_, metrics, _) in zip(
    whole[2].of("step"), watch.of("step"), strict=True
  ):
    assert metrics == expected
  _same(_arrays(whole[0], 4), _arrays(tmp_path, 4))


@pytest.mark.slow
def test_lost_steps_are_made_again(whole, tmp_path):
  with pytest.raises(ZeroDivisionError):
    delg.fit(_settings(tmp_path), [_Ends(3, _fail)], _BATCHES)
  # As a program leaves it that is killed while it writes.
  folder = tmp_path / "delf_tf2-ckpt"
  (folder / "ckpt-4_temp").mkdir()
  (folder / "ckpt-4.data-00000-of-00001").write_bytes(b"half")
  watch = _Watch()
  delg.fit(_settings(tmp_path), [watch], _BATCHES)
  assert [s for s, *_ in watch.of("step")] == [3, 4]
  _same(_arrays(whole[0], 4), _arrays(tmp_path, 4))
  assert not (folder / "ckpt-4_temp").exists()


def test_observers_are_closed_however_a_run_ends(tmp_path):
  options = _eager(_settings(tmp_path, max_iters=1))
  closed = [_Closed(), _Closed()]
  delg.fit(options, closed, _BATCHES)
  assert [each.times for each in closed] == [1, 1]
  options = _eager(_settings(tmp_path, max_iters=2))
  closed = [_Closed(), _Closed()]
  with pytest.raises(ZeroDivisionError):
    delg.fit(options, [*closed, _Ends(2, _fail)], _BATCHES)
  assert [each.times for each in closed] == [1, 1]
  # As one starts; of the others, those that have not are not closed.
  closed = [_Closed(), _Closed(fails=True), _Closed()]
  with pytest.raises(ZeroDivisionError):
    delg.fit(options, closed, _BATCHES)
  assert [each.times for each in closed] == [1, 1, 0]


def test_a_finished_run_makes_no_step_but_has_its_weights(whole, tmp_path):
  shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
  # As a program leaves it that is killed before it has written them.
  (tmp_path / "delf_weights.index").unlink()
  watch = _Watch()
  report = delg.fit(_settings(tmp_path), [watch], _BATCHES)
  assert (report.step, watch.of("step")) == (4, [])
  weights, state = (
    tf.train.load_checkpoint(path)
    for path in (report.weights, report.checkpoint)
  )
  kernel = "attention/conv1/kernel/.ATTRIBUTES/VARIABLE_VALUE"
  np.testing.assert_array_equal(
    weights.get_tensor(kernel), state.get_tensor(f"model/{kernel}")
  )


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(whole, tmp_path):
  shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
  data = tmp_path / "delf_tf2-ckpt" / "ckpt-4.data-00000-of-00001"
  whole_size = data.stat().st_size
  data.write_bytes(data.read_bytes()[:-1])
  watch = _Watch()
  report = delg.fit(_settings(tmp_path), [watch], _BATCHES)
  assert (report.step, [s for s, *_ in watch.of("step")]) == (4, [3, 4])
  _same(_arrays(whole[0], 4), _arrays(tmp_path, 4))
  # And is written anew.
  assert data.stat().st_size == whole_size


def test_weights_are_those_of_exporters(whole):
  folder, report, _ = whole
  model = exporting.load_model(
    report.weights,
    delg=True,
    backbone="tiny",
    use_autoencoder=True,
    embedding_layer_dim=16,
  )
  expected = _arrays(folder, 4)
  for path, variable in backbones.variables_by_path(model).items():
    if path != "scale_factor":
      key = f"model/{path}/.ATTRIBUTES/VARIABLE_VALUE"
      np.testing.assert_array_equal(variable, expected[key])


def test_another_architecture_is_refused(whole):
  with pytest.raises(errors.InputError) as caught:
    delg.fit(_settings(whole[0], delg=False), [], _BATCHES)
  assert "ckpt-4: the weights do not match DELF: " in str(caught.value)
  assert "cosine_weights" in str(caught.value)


@dataclasses.dataclass(frozen=True)
class _Spoilt(tiny_training.NoiseBatches):
  """Noise whose batch 3 has no numbers in it."""

  def training(self, start_batch=0):
    dataset = tf.data.Dataset.counter(start_batch).map(
      lambda i: (i, *self._make(i))
    )
    return dataset.map(
      lambda i, images, labels: (tf.where(i == 3, np.nan, images), labels)
    )


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
  with pytest.raises(errors.InputError) as caught:
    delg.fit(_eager(_settings(tmp_path)), [], _Spoilt())
  text = str(caught.value)
  assert "loss/total, gradient_norm in step 4 must be finite" in text
  assert "not nan, nan in batch 3 of seed 0, after loss/desc" in text
  assert text.endswith("delf_tf2-ckpt/ckpt-2")
  arrays = _arrays(tmp_path, 2)
  assert all(np.isfinite(array).all() for array in arrays.values())
  weights = tf.train.load_checkpoint(str(tmp_path / "delf_weights"))
  kernel = "attention/conv1/kernel/.ATTRIBUTES/VARIABLE_VALUE"
  np.testing.assert_array_equal(
    weights.get_tensor(kernel), arrays[f"model/{kernel}"]
  )


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(tmp_path):
  with contextlib.ExitStack() as stack:
    ends = _Ends(3, lambda: stack.enter_context(full_disk.limit(1 << 14)))
    with pytest.raises(OSError, match="cannot be written") as caught:
      delg.fit(_eager(_settings(tmp_path)), [ends], _BATCHES)
  assert str(tmp_path) in str(caught.value)
  # Half of one is not left to fill the disk.
  names = {path.name for path in (tmp_path / "delf_tf2-ckpt").iterdir()}
  assert all(name.startswith(("ckpt-2.", "checkpoint")) for name in names)
  watch = _Watch()
  delg.fit(_eager(_settings(tmp_path)), [watch], _BATCHES)
  assert [s for s, *_ in watch.of("step")] == [3, 4]


@pytest.mark.slow
def test_original_run_goes_on(whole, tmp_path):
  # Keys of the original's optimiser; those of the model are tested elsewhere.
  arrays = _arrays(whole[0], 2)
  names = [k.split("/") for k in arrays if k.startswith("optimizer/")]
  assert {n[1] for n in names} == {
    "_iterations", "_learning_rate", "_variables",
  }  # fmt: skip
  numbers = sorted(int(n[2]) for n in names if n[1] == "_variables")
  assert numbers == list(range(1, len(numbers) + 1))
  tree = {}
  for key, array in arrays.items():
    *parents, leaf = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = tf.Variable(array)
  manager = tf.train.CheckpointManager(
    tf.train.Checkpoint(**tree), str(tmp_path / "delf_tf2-ckpt"), 10
  )
  manager.save()
  watch = _Watch()
  report = delg.fit(_settings(tmp_path), [watch], _BATCHES)
  assert [s for s, *_ in watch.of("step")] == [3, 4]
  _same(_arrays(whole[0], 4), _arrays(tmp_path, 4))
  assert report.checkpoint.endswith("ckpt-4")


_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_CLASSES, _STEP = 5, 3000


def _value(key, shape):
  """Returns an array that tells which key it is of."""
  if key.startswith("optimizer/_iterations"):
    return np.int64(_STEP)
  number = sum(map(ord, key)) % 1000
  return np.full(shape, number, np.float32)


@pytest.mark.slow
def test_momenta_of_the_original_are_read(goldens, tmp_path):
  inventory = json.loads((goldens / "inventory_variables.json").read_text())
  run = inventory["train.py CheckpointManager(optimizer SGD, model=Delg)"]
  tree = {}
  for key, shape in run["keys"].items():
    if not key.endswith(_SUFFIX) or key.startswith("save_counter"):
      continue
    shape = [_CLASSES if size == 14951 else size for size in shape]
    *parents, leaf = key.removesuffix(_SUFFIX).split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = tf.Variable(_value(key, shape))
  tf.train.CheckpointManager(
    tf.train.Checkpoint(**tree), str(tmp_path / "delf_tf2-ckpt"), 10
  ).save()
  model = delg_steps.make_model(delg_settings.Network(delg=True), _CLASSES)
  trained = [variable.value for variable in model.trainable_variables]
  optimizer = delg_steps.Momentum(trained, 0.9)
  files = delg.RunFiles(tmp_path, model, optimizer)
  assert files.resume().endswith("ckpt-1")
  assert int(optimizer.iterations) == _STEP
  held = optimizer.by_key()
  written = {k.removesuffix(_SUFFIX) for k in run["keys"]}
  assert {k for k in written if k.startswith("optimizer/")} == set(held)
  for path, variable in held.items():
    expected = _value(path + _SUFFIX, variable.shape)
    np.testing.assert_array_equal(variable, expected, err_msg=path)
  # The momentum of each variable is of its shape, in the original's order.
  momenta = [held[f"optimizer/_variables/{i}"] for i in range(1, 228)]
  assert [m.shape for m in momenta] == [v.shape for v in trained]
  kernel = model.backbone.l5c.conv2c.kernel
  key = f"model/backbone/l5c/conv2c/kernel{_SUFFIX}"
  np.testing.assert_array_equal(kernel, _value(key, kernel.shape))
