import os

import numpy as np
import pytest
import tensorflow as tf

from delf.python import checkpoint_io, codebook_io, errors
from tests import npz


def _centers(words=6, dimension=3, seed=0):
  generator = np.random.default_rng(seed)
  return generator.standard_normal([words, dimension]).astype(np.float32)


def test_what_is_written_is_read_also_by_the_original_s_recipe(tmp_path):
  prefix = tmp_path / "new" / "codebook"
  codebook_io.write_codebook(prefix, _centers())
  read = codebook_io.read_codebook(prefix, 6, 3)
  assert read.dtype == np.float32
  np.testing.assert_array_equal(read, _centers())
  variable = tf.Variable(tf.zeros([6, 3]), name="clusters")
  checkpoint = tf.train.Checkpoint(codebook=variable)
  checkpoint.restore(str(prefix)).expect_partial()
  np.testing.assert_array_equal(variable.numpy(), _centers())
  assert sorted(os.listdir(prefix.parent)) == [
    "codebook.data-00000-of-00001",
    "codebook.index",
  ]


def test_a_codebook_is_read_once_and_shared(tmp_path, monkeypatch):
  prefix = tmp_path / "codebook"
  codebook_io.write_codebook(prefix, _centers())
  first = codebook_io.read_codebook(prefix)
  assert codebook_io.read_codebook(str(prefix)) is first
  assert codebook_io.read_codebook(tmp_path) is first
  assert not first.flags.writeable
  codebook_io.write_codebook(prefix, _centers(seed=1))
  second = codebook_io.read_codebook(prefix)
  np.testing.assert_array_equal(second, _centers(seed=1))
  np.testing.assert_array_equal(first, _centers())
  # As where files are copied, one of which looks as before.
  for data in tmp_path.glob("codebook.data-*"):
    data.write_bytes(data.read_bytes()[:20])
  with pytest.raises(errors.InputError, match="bytes"):
    codebook_io.read_codebook(prefix)


def test_few_codebooks_are_kept(tmp_path):
  for seed in range(6):
    codebook_io.write_codebook(tmp_path / str(seed), _centers(seed=seed))
  first = codebook_io.read_codebook(tmp_path / "0")
  for seed in range(1, 6):
    codebook_io.read_codebook(tmp_path / str(seed))
  assert codebook_io.read_codebook(tmp_path / "0") is not first


def test_both_kinds_of_the_original_are_read(goldens, tmp_path):
  found = npz.read(goldens / "inventory_tf_checkpoints.npz")
  expected = found.pop("codebook")
  for name, data in found.items():
    (tmp_path / name).write_bytes(data.tobytes())
  for prefix in ("object_ckpt", "name_ckpt"):
    read = codebook_io.read_codebook(tmp_path / prefix, 64, 16)
    np.testing.assert_array_equal(read, expected)


def test_a_folder_of_the_original_s_k_means_is_read(tmp_path):
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    tf.compat.v1.get_variable("clusters", initializer=_centers())
    session.run(tf.compat.v1.global_variables_initializer())
    saver = tf.compat.v1.train.Saver()
    saver.save(session, str(tmp_path / "model.ckpt"), global_step=7)
  np.testing.assert_array_equal(
    codebook_io.read_codebook(tmp_path, 6, 3), _centers()
  )


def test_a_missing_codebook_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere.index"):
    codebook_io.read_codebook(tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match="checkpoint"):
    codebook_io.read_codebook(tmp_path)


def test_a_codebook_of_another_shape_is_refused(tmp_path):
  prefix = tmp_path / "codebook"
  codebook_io.write_codebook(prefix, _centers())
  with pytest.raises(errors.InputError, match=r"\[7, D\].*\[6, 3\]"):
    codebook_io.read_codebook(prefix, size=7)
  codebook_io.read_codebook(prefix, size=6)
  with pytest.raises(errors.InputError, match=r"\[6, 4\].*\[6, 3\]"):
    codebook_io.read_codebook(prefix, 6, 4)


def _write(path, value):
  checkpoint_io.write(path, codebook=tf.Variable(value))
  return path


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
  centers = _centers()
  centers[4, 1] = value
  with pytest.raises(errors.InputError, match="first: 4"):
    codebook_io.write_codebook(tmp_path / "codebook", centers)
  with pytest.raises(errors.InputError, match="1 of 6 words"):
    codebook_io.read_codebook(_write(tmp_path / "codebook", centers))


def test_other_checkpoints_are_refused(tmp_path):
  with pytest.raises(errors.InputError, match=r"\[K, D\].*\[3\]"):
    codebook_io.read_codebook(_write(tmp_path / "flat", [1.0, 2.0, 3.0]))
  with pytest.raises(errors.InputError, match="floats.*int32"):
    codebook_io.read_codebook(_write(tmp_path / "int", [[1], [2]]))
  checkpoint_io.write(tmp_path / "model", kernel=tf.Variable([1.0]))
  with pytest.raises(errors.InputError, match="clusters.*kernel"):
    codebook_io.read_codebook(tmp_path / "model")
  with pytest.raises(errors.InputError, match=r"\[K, D\]"):
    codebook_io.write_codebook(tmp_path / "none", np.zeros([0, 3]))


def test_files_that_are_cut_are_refused(tmp_path):
  prefix = tmp_path / "codebook"
  codebook_io.write_codebook(prefix, _centers())
  data = tmp_path / "codebook.data-00000-of-00001"
  data.write_bytes(data.read_bytes()[:40])
  with pytest.raises(errors.InputError, match="72 bytes.*received 40"):
    codebook_io.read_codebook(prefix)
  index = tmp_path / "codebook.index"
  index.write_bytes(index.read_bytes()[:40])
  with pytest.raises(errors.InputError, match="whole TensorFlow checkpoint"):
    codebook_io.read_codebook(prefix)
