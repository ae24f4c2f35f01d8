"""Observers write and draw what they should, and warn of what is wrong."""

import dataclasses
import logging
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf.base import errors
from delf.learning import delg, delg_settings, delg_steps, watchers
from delf.pictures import figures
from delf.records import photo_list
from tests.stand_ins import tiny_training

_TAGS = (
  *("image_range/min", "image_range/max", "batch_images", "batch_attention"),
  *("attention/max", "attention/min", "attention/mean"),
  *(f"attention/percent_{percent}" for percent in (25, 50, 75)),
  *("loss/desc/crossentropy", "loss/attn/crossentropy", "loss/recon/mse"),
  *("train_accuracy/desc", "train_accuracy/attn", "sparsity/block3"),
  *("validation/desc", "validation/attn", "learning_rate"),
  "global_steps_per_sec",
  "desc/scale_factor",
)

tiny = tiny_training.tiny


def _settings(folder, batch_size=4, classes=3, **learning):
  learning = {"max_iters": 4, "initial_lr": 0.001} | learning
  return delg_settings.Settings(
    str(folder),
    delg_settings.Data(
      num_classes=classes, batch_size=batch_size, image_size=65
    ),
    delg_settings.Network(backbone="tiny", delg=True, embedding_layer_dim=8),
    delg_settings.Learning(**learning),
    delg_settings.Reporting(report_every=2, save_every=2, validate_every=4),
  )


def _metrics(**changes):
  names = ["desc/crossentropy", "attn/crossentropy", "recon/mse"]
  found = {f"loss/{name}": 1.0 for name in names}
  found |= {"train_accuracy/desc": 0.0, "train_accuracy/attn": 0.0}
  return found | {"learning_rate": 0.1} | changes


def _run(folder, step=0, **options):
  """Returns what observers read of a learner."""
  return types.SimpleNamespace(
    settings=_settings(folder, **options),
    step=step,
    train_logs=str(folder / "train_logs"),
  )


def _batch(labels):
  return delg_steps.Batch(
    images=np.zeros([2, 8, 8, 3], np.float32),
    labels=np.array(labels),
    guesses={},
    attention=np.arange(32, dtype=np.float32).reshape([2, 4, 4, 1]),
    sparsity={},
  )


def _events(folder):
  """Yields (tag, step, value) of all files of TensorBoard in a folder."""
  for path in sorted(folder.glob("events*")):
    for record in tf.data.TFRecordDataset(str(path)):
      event = tf.compat.v1.Event.FromString(record.numpy())
      for value in event.summary.value:
        yield value.tag, event.step, tf.make_ndarray(value.tensor)


@pytest.mark.slow
def test_a_run_writes_all_tags(tmp_path):
  watching = [watchers.Summaries(2), watchers.Measurements(2)]
  batches = tiny_training.NoiseBatches()
  delg.fit(_settings(tmp_path), watching, batches)
  events = list(_events(tmp_path / "train_logs"))
  assert set(_TAGS) <= {tag for tag, *_ in events}
  steps = {step for tag, step, _ in events if tag == "learning_rate"}
  assert steps == {2, 4}
  rows = watchers.read_metrics(tmp_path / watchers.METRICS)
  assert [row["step"] for row in rows] == [2, 4, 4]


def test_a_run_that_goes_on_writes_each_line_once(tmp_path):
  path = tmp_path / watchers.METRICS
  path.write_text("".join(f'{{"step": {step}}}\n' for step in (2, 3, 4)))
  measured = watchers.Measurements(2)
  measured.start(_run(tmp_path, step=2))
  for step in (3, 4):
    measured.on_step(step, {"loss/total": 1.0}, None)
  rows = watchers.read_metrics(path)
  assert rows == [{"step": 2}, {"step": 4, "loss/total": 1.0}] == measured.rows
  measured.close()


def test_half_a_line_of_a_run_that_was_killed_is_dropped(tmp_path):
  path = tmp_path / watchers.METRICS
  path.write_text('{"step": 2}\n{"step": 4, "loss')
  assert watchers.read_metrics(path) == [{"step": 2}]
  measured = watchers.Measurements(2)
  measured.start(_run(tmp_path, step=4))
  measured.on_measure(4, {"validation/desc": 0.5})
  measured.close()
  assert path.read_text() == (
    '{"step": 2}\n{"step": 4, "validation/desc": 0.5}\n'
  )


def test_lines_that_are_there_are_not_written_again(tmp_path):
  path = tmp_path / watchers.METRICS
  measured = watchers.Measurements(1)
  measured.start(_run(tmp_path))
  measured.on_measure(1, {"a": 0.0})
  # A mark in the file stays where it is only appended to.
  path.write_bytes(path.read_bytes().replace(b"1", b"7"))
  measured.on_measure(2, {"a": 0.0})
  measured.close()
  assert [row["step"] for row in watchers.read_metrics(path)] == [7, 2]


def test_measurements_on_a_full_disk_name_their_file(tmp_path):
  measured = watchers.Measurements(1)
  measured.start(_run(tmp_path))
  measured.close()
  measured._file = open("/dev/full", "wb")  # noqa: SIM115 (closed below)
  with pytest.raises(OSError, match=watchers.METRICS):
    measured.on_measure(1, {"a": 0.0})
  measured.close()


def test_measurements_are_means_since_the_line_before(tmp_path):
  measured = watchers.Measurements(2)
  measured.start(_run(tmp_path))
  for step, (loss, rate) in enumerate([(1, 4), (3, 2), (7, 1), (9, 0)], 1):
    metrics = {"loss/total": float(loss), "learning_rate": float(rate)}
    measured.on_step(step, metrics, None)
  measured.on_measure(4, {"validation/desc": 0.5})
  expected = [
    {"step": 2, "loss/total": 2.0, "learning_rate": 2.0},
    {"step": 4, "loss/total": 8.0, "learning_rate": 0.0},
    {"step": 4, "validation/desc": 0.5},
  ]
  measured.close()
  assert watchers.read_metrics(tmp_path / watchers.METRICS) == expected
  assert watchers.curve(expected, "loss/total") == ([2, 4], [2.0, 8.0])


@pytest.mark.parametrize(
  "text", ["not JSON", "[1]", '{"step": "a"}', "\xff", '{"step": 1}\n{']
)
def test_measurements_of_something_else_are_written_anew(tmp_path, text):
  path = tmp_path / watchers.METRICS
  path.write_text(f"{text}\n", encoding="latin-1")
  assert watchers.read_metrics(path) == []


def test_summaries_of_a_batch(tmp_path):
  written = watchers.Summaries(5)
  written.start(_run(tmp_path))
  assert [step for step in range(12) if written.needs_details(step)] == [
    0,
    5,
    10,
  ]
  written.on_step(5, {"desc/scale_factor": 2.0}, _batch([0, 1]))
  written.close()
  found = {tag: value for tag, _, value in _events(tmp_path / "train_logs")}
  assert found["attention/percent_25"] == 8  # The nearest to 7.75.
  assert found["attention/mean"] == 15.5
  assert found["image_range/max"] == 0
  assert found["desc/scale_factor"] == 2


def test_lines_of_a_log(tmp_path, caplog):
  shown = watchers.Live(2)
  run = _run(tmp_path, max_iters=10)
  shown.start(run)
  with caplog.at_level(logging.INFO, "absl"):
    for step in range(1, 5):
      run.step = step
      shown.on_step(step, _metrics(**{"train_accuracy/desc": step / 4}), None)
    shown.on_measure(4, {"validation/desc": 0.25})
  lines = [record.getMessage() for record in caplog.records]
  assert len(lines) == 3
  assert lines[1].startswith("step 4 of 10: loss desc 1, attn 1, recon 1")
  assert "accuracy 62.5% and 0.0%" in lines[1] and "left" in lines[1]
  assert lines[2] == "validation at step 4: accuracy desc 25.0%"


def _diagnose(folder, caplog, steps, labels, **changes):
  watch = watchers.Diagnosis()
  with caplog.at_level(logging.WARNING, "absl"):
    watch.start(_run(folder, **changes))
    for step in range(1, steps + 1):
      metrics = _metrics(**{"train_accuracy/desc": 1.0})
      batch = _batch(labels(step)) if watch.needs_details(step) else None
      watch.on_step(step, metrics, batch)
  return "\n".join(record.getMessage() for record in caplog.records)


def test_labels_that_are_all_the_same(tmp_path, caplog):
  assert not _diagnose(tmp_path, caplog, 10, lambda step: [step % 3, 1])
  said = _diagnose(tmp_path, caplog, 10, lambda step: [2, 2])
  assert "all 20 photos of the first 10 batches are of class 2 of 3" in said


def test_accuracy_of_chance_is_told(tmp_path, caplog):
  said = _diagnose(tmp_path, caplog, 500, lambda step: [0, 1])
  assert "step 500: the accuracy of attn is that of chance" in said
  assert "--overfit_one_batch" in said


def test_learning_that_begins_late_is_no_chance(tmp_path, caplog):
  watch = watchers.Diagnosis()
  with caplog.at_level(logging.WARNING, "absl"):
    watch.start(_run(tmp_path))
    caplog.clear()
    for step in range(1, 501):
      right = 0.5 if step > 250 else 0.0
      accuracies = {f"train_accuracy/{k}": right for k in ("desc", "attn")}
      watch.on_step(step, _metrics(**accuracies), None)
  assert "chance" not in caplog.text


def test_what_is_chance():
  assert watchers.is_chance(1000, 10_000, 0.1)
  assert watchers.is_chance(1060, 10_000, 0.1)
  assert not watchers.is_chance(1200, 10_000, 0.1)
  assert not watchers.is_chance(20, 10_000, 1e-5)


def test_the_rate_is_in_proportion_to_the_batch(tmp_path, caplog):
  assert watchers.advised_rate(128) == pytest.approx(0.005)
  watch = watchers.Diagnosis()
  with caplog.at_level(logging.INFO, "absl"):
    watch.start(_run(tmp_path, batch_size=32, initial_lr=0.01))
  (record,) = caplog.records
  assert record.levelname == "INFO"
  assert "--initial_lr=0.00125" in record.getMessage()
  caplog.clear()
  watch.start(_run(tmp_path, batch_size=32, initial_lr=0.1))
  (record,) = caplog.records
  assert record.levelname == "WARNING" and "warm_up" in record.getMessage()


def test_one_batch_is_learnt_by_heart(tmp_path):
  # Attention has nothing to learn from two random layers.
  learning = {"initial_lr": 0.1, "attention_loss_weight": 0.0}
  options = _settings(tmp_path, max_iters=10**6, **learning)
  verdict = watchers.overfit(options, tiny_training.NoiseBatches())
  assert verdict.learns, str(verdict)
  assert verdict.steps <= watchers.STEPS
  assert not list(tmp_path.iterdir())


def test_one_batch_that_is_not_learnt(tmp_path):
  options = _settings(tmp_path, initial_lr=0.0, max_iters=3)
  verdict = watchers.overfit(options, tiny_training.NoiseBatches())
  assert not verdict.learns
  assert "3 steps" in str(verdict) and "does not learn" in str(verdict)


def test_one_batch_of_nothing(tmp_path):
  class Empty(tiny_training.NoiseBatches):
    def training(self, start_batch=0):
      return super().training().take(0)

  with pytest.raises(errors.InputError, match="needs endless batches"):
    watchers.overfit(_settings(tmp_path), Empty())


def test_classes_without_photos(tmp_path, caplog):
  classes = photo_list.Labels(["a", "b", "c"], {"train": [4, 0, 1]})
  photo_list.write_labels(tmp_path, classes)
  run = _run(tmp_path)
  data = dataclasses.replace(
    run.settings.data, train_file_pattern=str(tmp_path / "train*")
  )
  run.settings = dataclasses.replace(run.settings, data=data)
  watch = watchers.Diagnosis()
  with caplog.at_level(logging.WARNING, "absl"):
    watch.start(run)
  (record,) = caplog.records
  assert "1 of 3 classes have no training photo (the first is b)" in (
    record.getMessage()
  )


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
  """The folder of a run."""
  folder = tmp_path_factory.mktemp("run")
  options = delg_settings.Settings(
    str(folder),
    delg_settings.Data(num_classes=3, batch_size=4, image_size=65),
    delg_settings.Network(backbone="tiny"),
    delg_settings.Learning(max_iters=4),
    delg_settings.Reporting(report_every=2, save_every=2, validate_every=2),
  )
  observers = watchers.standard(options)
  with tiny_training.registered():
    delg.fit(options, observers, tiny_training.NoiseBatches())
  return folder


def _read(path):
  with Image.open(path) as image:
    return np.asarray(image.convert("RGB"), np.int16)


@pytest.mark.slow
def test_a_run_leaves_its_pictures(pictured):
  names = {path.name for path in pictured.glob("*.png")}
  assert names == {"curves.png", "attention.png", "attention_before.png"}
  for name in names:
    assert _read(pictured / name).std() > 10
  assert (pictured / "metrics.jsonl").read_text().count("\n") == 4
  # What it looks at stays, what it finds does not.
  before, after = (
    _read(pictured / n) for n in ("attention_before.png", "attention.png")
  )
  half = len(before) // 2
  assert np.abs(before - after)[100:half].max() == 0
  assert np.abs(before - after)[half:-100].max() > 10


def test_attention_is_where_the_colour_is():
  photos = np.full([1, 8, 8, 3], 128, np.uint8)
  attention = np.zeros([1, 2, 2])
  attention[0, 0, 1] = 5.0
  found = figures.attention_over(photos, attention)[0].astype(int)
  colour = np.abs(found - 128).sum(axis=2)
  assert colour[:2, 6:].min() > colour[4:].max() > 0
  # No attention anywhere is no error.
  figures.attention_over(photos, np.zeros([1, 2, 2]))


def test_curves_of_one_point_and_of_none(tmp_path):
  panels = {"loss": {"a": ([1], [2.0]), "b": ([1, 2], [np.nan, np.inf])}}
  figures.draw_curves(tmp_path / "a.png", panels, "title")
  assert _read(tmp_path / "a.png").std() > 10
