"""Checkpoints that are replaced while somebody may want them."""

import os

import numpy as np
import pytest
import tensorflow as tf

from delf.formats import checkpoints


def _write(prefix, value):
  variables = {
    "a": tf.Variable(tf.fill([3], value)),
    "b": tf.Variable(tf.fill([2, 2], value)),
  }
  return checkpoints.write(prefix, model=variables)


def _read(prefix):
  """Returns the one value that all variables of a checkpoint have."""
  reader = tf.train.load_checkpoint(str(prefix))
  values = {
    float(value)
    for name in "ab"
    for value in np.ravel(
      reader.get_tensor(f"model/{name}{checkpoints.SUFFIX}")
    )
  }
  (value,) = values
  return value


def test_replaced_again_and_again(tmp_path):
  prefix = tmp_path / "folder" / "w"
  other = tmp_path / "folder" / "w.datab.data-00000-of-00001"
  for i in range(4):
    _write(prefix, float(i))
    other.touch()
    assert _read(prefix) == i
    names = {path.name for path in prefix.parent.iterdir()} - {other.name}
    if i % 2 == 0:
      assert names == {"w.index", "w.data-00000-of-00001"}
    else:
      parts = {f"w.data-0000{j}-of-00002" for j in range(2)}
      assert names == {"w.index"} | parts


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_whole_wherever_it_is_killed(tmp_path, monkeypatch, kept, step):
  prefix = tmp_path / "w"
  for i in range(kept + 1):
    _write(prefix, float(i))
  replace, calls = os.replace, []

  def killed(source, target):
    calls.append(target)
    if len(calls) > step:
      raise KeyboardInterrupt
    replace(source, target)

  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", killed)
    try:
      _write(prefix, 7.0)
    except KeyboardInterrupt:
      assert _read(prefix) == kept
    else:
      assert _read(prefix) == 7
  # What it left is no trouble to the next one.
  _write(prefix, 8.0)
  assert _read(prefix) == 8
  data = [path.name for path in tmp_path.iterdir() if ".data-" in path.name]
  assert len({name.rpartition("-of-")[2] for name in data}) == 1


def test_damaged_one_is_replaced(tmp_path):
  (tmp_path / "w.index").write_bytes(b"\0\0")
  _write(tmp_path / "w", 1.0)
  assert _read(tmp_path / "w") == 1
