import numpy as np
import pytest

from delf.python import errors, nearest_words, word_scores


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
  found = nearest_words.Words(centers).nearest(descriptors, number)
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
  found = nearest_words.Words(centers).nearest(descriptors, number)
  np.testing.assert_array_equal(found, _nearest(centers, descriptors, number))


@pytest.mark.parametrize("few", [0, 4096])
@pytest.mark.parametrize("offset", [0, 100, 1e4])
def test_near_ties_are_settled_by_the_distance(monkeypatch, offset, few):
  monkeypatch.setattr(word_scores, "_FEW", few)
  # Each word comes 40 times, apart by a few units of rounding; far from the
  # origin a product alone says nothing of which is nearer.
  centers = np.repeat(_noise(20, 16), 40, axis=0) + np.float32(offset)
  steps = np.random.default_rng(3).integers(-3, 4, centers.shape)
  centers += steps * np.spacing(np.abs(centers))
  descriptors = centers[::7] + 0.01 * _noise(len(centers[::7]), 16, seed=4)
  found = nearest_words.Words(centers).nearest(descriptors, 2)
  np.testing.assert_array_equal(found, _nearest(centers, descriptors, 2))


def test_a_word_far_from_all_others_changes_nothing():
  centers, descriptors = _noise(600, 5), _noise(30, 5, seed=1)
  centers[70] = 1e6
  found = nearest_words.Words(centers).nearest(descriptors, 3)
  np.testing.assert_array_equal(found, _nearest(centers, descriptors, 3))


@pytest.fixture
def many_words(monkeypatch):
  """Every codebook that has the groups for it is searched by groups."""
  monkeypatch.setattr(word_scores, "_FEW", 0)


def test_equal_words_take_no_more_memory(monkeypatch, many_words):
  monkeypatch.setattr(word_scores, "_CANDIDATES", 1000)
  monkeypatch.setattr(word_scores, "_AGAIN", 100)
  sizes = []
  again = word_scores.Scores._again

  def spy(self, centred, group, *rest):
    sizes.append(len(group) * word_scores._GROUP)
    return again(self, centred, group, *rest)

  monkeypatch.setattr(word_scores.Scores, "_again", spy)
  words = nearest_words.Words(np.ones([512, 3], np.float32))
  found = words.nearest(_noise(50, 3), 2)
  np.testing.assert_array_equal(found, np.tile([0, 1], [50, 1]))
  assert len(sizes) > 20 and max(sizes) <= 1000


@pytest.mark.parametrize("number", [1, 2, 5])
def test_groups_of_words_change_nothing(many_words, number):
  centers, descriptors = _noise(1301, 7), _noise(45, 7, seed=1)
  centers[400:420] = centers[7]
  found = nearest_words.Words(centers).nearest(descriptors, number)
  expected = _nearest(centers, descriptors, number)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("held", ["_TABLE", "_MAXIMA", "_BLOCK"])
def test_steps_do_not_change_the_result(monkeypatch, held):
  if held != "_TABLE":
    monkeypatch.setattr(word_scores, "_FEW", 0)
  centers, descriptors = _noise(5000, 6), _noise(70, 6, seed=1)
  whole = nearest_words.Words(centers).nearest(descriptors, 2)
  monkeypatch.setattr(word_scores, held, 3000)
  np.testing.assert_array_equal(
    nearest_words.Words(centers).nearest(descriptors, 2), whole
  )


def test_every_word_is_asked_for():
  centers, descriptors = _noise(100, 4), _noise(3, 4, seed=1)
  found = nearest_words.Words(centers).nearest(descriptors, 100)
  expected = _nearest(centers, descriptors, 100)
  np.testing.assert_array_equal(found, expected)


def test_no_descriptors_have_no_words():
  words = nearest_words.Words(_noise(20, 3))
  for none in ([], np.zeros([0, 3]), np.zeros([0, 0])):
    assert words.nearest(none, 4).shape == (0, 4)


def test_bad_input_is_refused():
  words = nearest_words.Words(_noise(20, 3))
  with pytest.raises(errors.InputError, match="dimension 3.*dimension 4"):
    words.nearest(_noise(5, 4))
  with pytest.raises(errors.InputError, match=r"1 of 5 rows \(first: 2\)"):
    words.nearest(np.where(np.arange(15).reshape(5, 3) == 7, np.nan, 0))
  with pytest.raises(errors.InputError, match="1e.*15"):
    words.nearest(np.full([2, 3], 1e200))
  for number in (0, 21):
    with pytest.raises(errors.InputError, match=f"1 to 20 .*{number}"):
      words.nearest(_noise(5, 3), number)
  with pytest.raises(errors.InputError, match=r"\[N, D\]"):
    words.nearest(np.array([["a"]]))
  with pytest.raises(errors.InputError, match="codebook"):
    nearest_words.Words(np.zeros([0, 4]))
  with pytest.raises(errors.InputError, match="codebook of finite"):
    nearest_words.Words(np.full([4, 2], np.inf))
