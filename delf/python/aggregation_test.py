import numpy as np
import pytest

from delf.python import aggregation, errors


def _noise(*shape, seed=0):
  generator = np.random.default_rng(seed)
  return generator.standard_normal(shape).astype(np.float32)


def _unit(array):
  length = np.sqrt(np.sum(array**2, axis=-1, keepdims=True))
  return array / np.maximum(length, 1e-6)


def _vlad(centers, descriptors, number):
  """Sums residuals one feature and one word after the other."""
  vlad = np.zeros(centers.shape)
  for descriptor in descriptors:
    distances = np.sum((centers - descriptor) ** 2, axis=1)
    for word in np.argsort(distances, kind="stable")[:number]:
      vlad[word] += descriptor - centers[word]
  return vlad


def _rvlad(centers, descriptors, number, regions):
  total = np.zeros(centers.shape)
  for part in np.split(descriptors, np.cumsum(regions)[:-1]):
    total += _unit(_vlad(centers, part, number).reshape(-1)).reshape(
      centers.shape
    )
  return total / len(regions)


_REGIONS = [20, 0, 31, 9]


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("regional", [False, True])
def test_each_kind_is_what_a_loop_gives(number, regional):
  centers, descriptors = _noise(50, 11), _noise(60, 11, seed=1)
  words = aggregation.Words(centers)
  sums = _vlad(centers, descriptors, number)
  if regional:
    sums = _rvlad(centers, descriptors, number, _REGIONS)
  expected = {
    aggregation.VLAD: sums.reshape(-1),
    aggregation.ASMK: _unit(sums[np.any(sums, axis=1)]),
    aggregation.ASMK_STAR: np.packbits(sums[np.any(sums, axis=1)] > 0, axis=1),
  }
  for kind, descriptors_ in expected.items():
    found = aggregation.aggregate(
      words,
      descriptors,
      aggregation.AggregateOptions(kind, number, regional, normalize=False),
      _REGIONS,
    )
    np.testing.assert_allclose(found.descriptors, descriptors_, atol=1e-5)
    if kind == aggregation.VLAD:
      assert found.words is None
    else:
      assert found.words.dtype == np.int32
      np.testing.assert_array_equal(
        found.words, np.flatnonzero(np.any(sums, axis=1))
      )


@pytest.mark.parametrize("regional", [False, True])
def test_a_normalised_vlad_has_length_one(regional):
  words = aggregation.Words(_noise(50, 11))
  found = aggregation.aggregate(
    words,
    _noise(60, 11, seed=1),
    aggregation.AggregateOptions(aggregation.VLAD, regional=regional),
    _REGIONS,
  )
  assert np.linalg.norm(found.descriptors) == pytest.approx(1, abs=1e-5)


def test_words_whose_residuals_cancel_are_left_out():
  centers = np.array([[0, 0], [4, 0], [0, 4]], np.float32)
  descriptors = [[0.5, 0.25], [-0.5, -0.25], [4, 0], [0, 3]]
  found = aggregation.aggregate(aggregation.Words(centers), descriptors)
  np.testing.assert_array_equal(found.words, [2])
  np.testing.assert_array_equal(found.descriptors, [[0]])


def test_no_features_have_no_words():
  words = aggregation.Words(_noise(20, 12))
  shapes = {"vlad": (240,), "asmk": (0, 12), "asmk_star": (0, 2)}
  for kind, shape in shapes.items():
    for regional in (False, True):
      options = aggregation.AggregateOptions(kind, regional=regional)
      found = aggregation.aggregate(words, [], options)
      assert found.descriptors.shape == shape
      assert not found.descriptors.any()
      assert kind == "vlad" or found.words.shape == (0,)


def test_what_is_given_is_not_changed():
  centers, descriptors = _noise(20, 4), _noise(9, 4, seed=1)
  centers.flags.writeable = descriptors.flags.writeable = False
  for kind in aggregation.KINDS:
    options = aggregation.AggregateOptions(kind, regional=True)
    aggregation.aggregate(
      aggregation.Words(centers), descriptors, options, [4, 5]
    )


def test_bad_input_is_refused():
  words, descriptors = aggregation.Words(_noise(20, 4)), _noise(9, 4)
  overflow = np.array([2**63, 2**63, 9], np.uint64)  # Their sum is 9.
  for regions in ([4, 4], [10, -1], [[9]], [9.0], overflow):
    with pytest.raises(errors.InputError):
      aggregation.aggregate(words, descriptors, None, regions)
  with pytest.raises(errors.InputError, match="vlad, asmk, asmk_star.*bow"):
    aggregation.AggregateOptions("bow")
  with pytest.raises(errors.InputError, match="num_assignments.*2.5"):
    aggregation.AggregateOptions(num_assignments=2.5)
