"""Runs on TFRecords, one of them killed by the system; and their problems."""

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from delf.base import errors
from delf.learning import delg, delg_settings, loop
from tests.stand_ins import tiny_training
from tests.stand_ins.tiny_training import tiny  # noqa: F401

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _settings(logdir, pattern, **data):
  options = {"num_classes": 3, "batch_size": 2, "image_size": 33} | data
  return delg_settings.Settings(
    str(logdir),
    delg_settings.Data(pattern, **options),
    delg_settings.Network(backbone="tiny", use_autoencoder=False),
    delg_settings.Learning(max_iters=7),
    delg_settings.Reporting(save_every=2),
  )


class _Kill(loop.Observer):
  """Ends the program as kill -9 does, after step 5."""

  def on_step(self, step, metrics, batch):
    if step == 5:
      os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_and_gone_on_with_is_never_killed(tmp_path):
  pattern = tiny_training.write_records(tmp_path)
  command = [sys.executable, "-m", __name__, str(tmp_path / "a"), pattern]
  environment = os.environ | {"PYTHONPATH": str(_ROOT)}
  result = subprocess.run(
    command, cwd=_ROOT, env=environment, capture_output=True, text=True
  )
  assert result.returncode == -signal.SIGKILL, result.stderr[-3000:]
  state = tf.train.latest_checkpoint(str(tmp_path / "a" / "delf_tf2-ckpt"))
  assert state.endswith("ckpt-4")
  for name in "ab":
    report = delg.fit(_settings(tmp_path / name, pattern), [])
    assert report.step == 7
  # In two epochs of nine photos, so that order counts.
  readers = [
    tf.train.load_checkpoint(str(tmp_path / name / "delf_tf2-ckpt/ckpt-7"))
    for name in "ab"
  ]
  shapes = [reader.get_variable_to_shape_map() for reader in readers]
  assert shapes[0] == shapes[1]
  for key in set(shapes[0]) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}:
    if not key.startswith("save_counter"):
      values = [reader.get_tensor(key) for reader in readers]
      np.testing.assert_array_equal(*values, err_msg=key)


def test_source(tmp_path):
  pattern = tiny_training.write_records(tmp_path)
  tiny_training.write_records(tmp_path, 5, name="validation")
  data = _settings("", pattern).data
  source = delg.Source(data, seed=4)
  assert source.validation() is None
  batches = list(source.training().take(4))
  images, labels = next(iter(source.training(start_batch=3)))
  np.testing.assert_array_equal(images, batches[3][0])
  np.testing.assert_array_equal(labels, batches[3][1])
  names = [f"photo{i}" for i in range(9)]
  identities = [source.identities(i) for i in range(4)]
  assert len({*sum(identities, [])} & {*names}) == 8
  for (_, labels), ids in zip(batches, identities, strict=True):
    assert [int(each[5:]) % 3 for each in ids] == labels.numpy().tolist()
  data = _settings(
    "", pattern, validation_file_pattern=str(tmp_path / "validation*")
  ).data
  validation = list(delg.Source(data, seed=4).validation())
  assert [len(labels) for _, labels in validation] == [2, 2, 1]


def test_records_of_another_label_space(tmp_path):
  pattern = tiny_training.write_records(tmp_path)
  assert delg.classes_beside(pattern) == 3
  with pytest.raises(errors.InputError, match="has 3 classes, not 5: .* or 0"):
    delg.fit(_settings(tmp_path / "run", pattern, num_classes=5), [])
  (tmp_path / "labels.json").unlink()
  with pytest.raises(errors.InputError, match="no labels.json beside"):
    delg.classes_beside(pattern)
  # Without it, the first record that cannot be ends the run.
  with pytest.raises(errors.InputError) as caught:
    delg.fit(_settings(tmp_path / "run", pattern, num_classes=2), [])
  assert "record 'photo" in str(caught.value)
  assert "-of-00002" in str(caught.value)


def test_records_that_are_not_there(tmp_path):
  pattern = tiny_training.write_records(tmp_path)
  nowhere = str(tmp_path / "validation*")
  with pytest.raises(errors.InputError, match="to train without validation"):
    data = _settings("", pattern, validation_file_pattern=nowhere).data
    delg.Source(data, 0)
  with pytest.raises(errors.InputError, match="TFRecords for training"):
    delg.Source(_settings("", nowhere).data, 0)
  (tmp_path / "labels.json").write_text("[1]")
  with pytest.raises(
    errors.InputError, match="labels.json: .*names and counts"
  ):
    delg.Source(_settings("", pattern).data, 0)


def test_a_loss_that_is_no_number_names_the_photos(tmp_path):
  pattern = tiny_training.write_records(tmp_path)
  given = _settings(tmp_path / "run", pattern)

  class Spoilt(delg.Source):
    def training(self, start_batch=0):
      return (
        super()
        .training(start_batch)
        .map(lambda images, labels: (images * np.nan, labels))
      )

  source = Spoilt(given.data, 0)
  with pytest.raises(errors.InputError) as caught:
    delg.fit(given, [], source)
  first, second = source.identities(0)
  assert f"batch 0 of seed 0 (photos {first}, {second}), " in str(caught.value)
  assert str(caught.value).endswith("no checkpoint yet")


if __name__ == "__main__":
  with tiny_training.registered():
    delg.fit(_settings(*sys.argv[1:]), [_Kill()])
