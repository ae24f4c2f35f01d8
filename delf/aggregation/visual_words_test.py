import os

import numpy as np
import pytest
import tensorflow as tf

from delf.aggregation import visual_words
from delf.base import errors
from delf.formats import checkpoints
from tests.stand_ins import npz


def _nearest(centers, descriptors, number):
  """Nearest words by the distance itself, lower index first in ties."""
  difference = descriptors[:, None].astype(np.float64) - centers[None]
  distances = np.einsum("nkd,nkd->nk", difference, difference)
  indices = np.broadcast_to(np.arange(len(centers)), distances.shape)
  return np.lexsort([indices, distances], axis=1)[:, :number]


def _noise(*shape, seed=0):
  generator = np.random.default_rng(seed)
  return generator.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("words", [1, 6, 15, 16, 17, 300, 1285, 5003])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_nearest_words_are_nearest(words, number):
  number = min(number, words)
  centers, descriptors = _noise(words, 7), _noise(45, 7, seed=1)
  found = visual_words.Words(centers).nearest(descriptors, number)
  assert found.dtype == np.int32
  expected = _nearest(centers, descriptors, number)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("words", [20, 900])
@pytest.mark.parametrize("number", [1, 3])
def test_words_at_one_distance_go_by_their_index(words, number):
  # On a lattice distances are exact, and many are the same.
  generator = np.random.default_rng(2)
  centers = generator.integers(0, 3, [words, 4]).astype(np.float32)
  descriptors = generator.integers(0, 5, [100, 4]).astype(np.float32) / 2
  found = visual_words.Words(centers).nearest(descriptors, number)
  np.testing.assert_array_equal(found, _nearest(centers, descriptors, number))


@pytest.mark.parametrize("few", [0, 4096])
@pytest.mark.parametrize("offset", [0, 100, 1e4])
def test_near_ties_are_settled_by_the_distance(monkeypatch, offset, few):
  monkeypatch.setattr(visual_words, "_FEW", few)
  # Each word comes 40 times, apart by a few units of rounding; far from the
  # origin a product alone says nothing of which is nearer.
  centers = np.repeat(_noise(20, 16), 40, axis=0) + np.float32(offset)
  steps = np.random.default_rng(3).integers(-3, 4, centers.shape)
  centers += steps * np.spacing(np.abs(centers))
  descriptors = centers[::7] + 0.01 * _noise(len(centers[::7]), 16, seed=4)
  found = visual_words.Words(centers).nearest(descriptors, 2)
  np.testing.assert_array_equal(found, _nearest(centers, descriptors, 2))


def test_a_word_far_from_all_others_changes_nothing():
  centers, descriptors = _noise(600, 5), _noise(30, 5, seed=1)
  centers[70] = 1e6
  found = visual_words.Words(centers).nearest(descriptors, 3)
  np.testing.assert_array_equal(found, _nearest(centers, descriptors, 3))


@pytest.fixture
def many_words(monkeypatch):
  """Every codebook that has the groups for it is searched by groups."""
  monkeypatch.setattr(visual_words, "_FEW", 0)


def test_equal_words_take_no_more_memory(monkeypatch, many_words):
  monkeypatch.setattr(visual_words, "_CANDIDATES", 1000)
  monkeypatch.setattr(visual_words, "_AGAIN", 100)
  sizes = []
  again = visual_words.Scores._again

  def spy(self, centred, group, *rest):
    sizes.append(len(group) * visual_words._GROUP)
    return again(self, centred, group, *rest)

  monkeypatch.setattr(visual_words.Scores, "_again", spy)
  words = visual_words.Words(np.ones([512, 3], np.float32))
  found = words.nearest(_noise(50, 3), 2)
  np.testing.assert_array_equal(found, np.tile([0, 1], [50, 1]))
  assert len(sizes) > 20 and max(sizes) <= 1000


@pytest.mark.parametrize("number", [1, 2, 5])
def test_groups_of_words_change_nothing(many_words, number):
  centers, descriptors = _noise(1301, 7), _noise(45, 7, seed=1)
  centers[400:420] = centers[7]
  found = visual_words.Words(centers).nearest(descriptors, number)
  expected = _nearest(centers, descriptors, number)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("held", ["_TABLE", "_MAXIMA", "_BLOCK"])
def test_steps_do_not_change_the_result(monkeypatch, held):
  if held != "_TABLE":
    monkeypatch.setattr(visual_words, "_FEW", 0)
  centers, descriptors = _noise(5000, 6), _noise(70, 6, seed=1)
  whole = visual_words.Words(centers).nearest(descriptors, 2)
  monkeypatch.setattr(visual_words, held, 3000)
  np.testing.assert_array_equal(
    visual_words.Words(centers).nearest(descriptors, 2), whole
  )


def test_every_word_is_asked_for():
  centers, descriptors = _noise(100, 4), _noise(3, 4, seed=1)
  found = visual_words.Words(centers).nearest(descriptors, 100)
  expected = _nearest(centers, descriptors, 100)
  np.testing.assert_array_equal(found, expected)


def test_no_descriptors_have_no_words():
  words = visual_words.Words(_noise(20, 3))
  for none in ([], np.zeros([0, 3]), np.zeros([0, 0])):
    assert words.nearest(none, 4).shape == (0, 4)


def test_bad_input_is_refused():
  words = visual_words.Words(_noise(20, 3))
  with pytest.raises(errors.InputError, match="dimension 3, not 4"):
    words.nearest(_noise(5, 4))
  with pytest.raises(errors.InputError, match=r"1 of 5 \(first: 2\)"):
    words.nearest(np.where(np.arange(15).reshape(5, 3) == 7, np.nan, 0))
  with pytest.raises(errors.InputError, match="1e.*15"):
    words.nearest(np.full([2, 3], 1e200))
  for number in (0, 21):
    with pytest.raises(errors.InputError, match=f"1 to 20, .* not {number}"):
      words.nearest(_noise(5, 3), number)
  with pytest.raises(errors.InputError, match=r"\[N, D\]"):
    words.nearest(np.array([["a"]]))
  with pytest.raises(errors.InputError, match="codebook"):
    visual_words.Words(np.zeros([0, 4]))
  with pytest.raises(errors.InputError, match="visual words must be finite"):
    visual_words.Words(np.full([4, 2], np.inf))


def _centers(words=6, dimension=3, seed=0):
  generator = np.random.default_rng(seed)
  return generator.standard_normal([words, dimension]).astype(np.float32)


def test_what_is_written_is_read_also_by_the_original_s_recipe(tmp_path):
  prefix = tmp_path / "new" / "codebook"
  visual_words.write_codebook(prefix, _centers())
  read = visual_words.read_codebook(prefix, 6, 3)
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
  visual_words.write_codebook(prefix, _centers())
  first = visual_words.read_codebook(prefix)
  assert visual_words.read_codebook(str(prefix)) is first
  assert visual_words.read_codebook(tmp_path) is first
  assert not first.flags.writeable
  visual_words.write_codebook(prefix, _centers(seed=1))
  second = visual_words.read_codebook(prefix)
  np.testing.assert_array_equal(second, _centers(seed=1))
  np.testing.assert_array_equal(first, _centers())
  # As where files are copied, one of which looks as before.
  for data in tmp_path.glob("codebook.data-*"):
    data.write_bytes(data.read_bytes()[:20])
  with pytest.raises(errors.InputError, match="bytes"):
    visual_words.read_codebook(prefix)


def test_few_codebooks_are_kept(tmp_path):
  for seed in range(6):
    visual_words.write_codebook(tmp_path / str(seed), _centers(seed=seed))
  first = visual_words.read_codebook(tmp_path / "0")
  for seed in range(1, 6):
    visual_words.read_codebook(tmp_path / str(seed))
  assert visual_words.read_codebook(tmp_path / "0") is not first


def test_both_kinds_of_the_original_are_read(goldens, tmp_path):
  found = npz.read(goldens / "inventory_tf_checkpoints.npz")
  expected = found.pop("codebook")
  for name, data in found.items():
    (tmp_path / name).write_bytes(data.tobytes())
  for prefix in ("object_ckpt", "name_ckpt"):
    read = visual_words.read_codebook(tmp_path / prefix, 64, 16)
    np.testing.assert_array_equal(read, expected)


def test_a_folder_of_the_original_s_k_means_is_read(tmp_path):
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    tf.compat.v1.get_variable("clusters", initializer=_centers())
    session.run(tf.compat.v1.global_variables_initializer())
    saver = tf.compat.v1.train.Saver()
    saver.save(session, str(tmp_path / "model.ckpt"), global_step=7)
  np.testing.assert_array_equal(
    visual_words.read_codebook(tmp_path, 6, 3), _centers()
  )


def test_a_missing_codebook_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere.index"):
    visual_words.read_codebook(tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match="checkpoint"):
    visual_words.read_codebook(tmp_path)


def test_a_codebook_of_another_shape_is_refused(tmp_path):
  prefix = tmp_path / "codebook"
  visual_words.write_codebook(prefix, _centers())
  with pytest.raises(errors.InputError, match=r"\[7, D\].*\[6, 3\]"):
    visual_words.read_codebook(prefix, size=7)
  visual_words.read_codebook(prefix, size=6)
  with pytest.raises(errors.InputError, match=r"\[6, 4\].*\[6, 3\]"):
    visual_words.read_codebook(prefix, 6, 4)


def _write(path, value):
  checkpoints.write(path, codebook=tf.Variable(value))
  return path


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
  centers = _centers()
  centers[4, 1] = value
  with pytest.raises(errors.InputError, match="first: 4"):
    visual_words.write_codebook(tmp_path / "codebook", centers)
  with pytest.raises(errors.InputError, match="visual words.* 1 of 6"):
    visual_words.read_codebook(_write(tmp_path / "codebook", centers))


def test_other_checkpoints_are_refused(tmp_path):
  with pytest.raises(errors.InputError, match=r"\[K, D\].*\[3\]"):
    visual_words.read_codebook(_write(tmp_path / "flat", [1.0, 2.0, 3.0]))
  with pytest.raises(errors.InputError, match="floats.*int32"):
    visual_words.read_codebook(_write(tmp_path / "int", [[1], [2]]))
  checkpoints.write(tmp_path / "model", kernel=tf.Variable([1.0]))
  with pytest.raises(errors.InputError, match="clusters.*kernel"):
    visual_words.read_codebook(tmp_path / "model")
  with pytest.raises(errors.InputError, match=r"\[K, D\]"):
    visual_words.write_codebook(tmp_path / "none", np.zeros([0, 3]))


def test_files_that_are_cut_are_refused(tmp_path):
  prefix = tmp_path / "codebook"
  visual_words.write_codebook(prefix, _centers())
  data = tmp_path / "codebook.data-00000-of-00001"
  data.write_bytes(data.read_bytes()[:40])
  with pytest.raises(errors.InputError, match="72 bytes.* has 40"):
    visual_words.read_codebook(prefix)
  index = tmp_path / "codebook.index"
  index.write_bytes(index.read_bytes()[:40])
  with pytest.raises(errors.InputError, match="whole TensorFlow checkpoint"):
    visual_words.read_codebook(prefix)
