import numpy as np
import pytest

from delf.aggregation import aggregate
from delf.base import errors
from delf.protos import aggregation_config_pb2
from delf.python import datum_io


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
  words = aggregate.Words(centers)
  sums = _vlad(centers, descriptors, number)
  if regional:
    sums = _rvlad(centers, descriptors, number, _REGIONS)
  expected = {
    aggregate.VLAD: sums.reshape(-1),
    aggregate.ASMK: _unit(sums[np.any(sums, axis=1)]),
    aggregate.ASMK_STAR: np.packbits(sums[np.any(sums, axis=1)] > 0, axis=1),
  }
  for kind, descriptors_ in expected.items():
    found = aggregate.aggregate(
      words,
      descriptors,
      aggregate.AggregateOptions(kind, number, regional, normalize=False),
      _REGIONS,
    )
    np.testing.assert_allclose(found.descriptors, descriptors_, atol=1e-5)
    if kind == aggregate.VLAD:
      assert found.words is None
    else:
      assert found.words.dtype == np.int32
      np.testing.assert_array_equal(
        found.words, np.flatnonzero(np.any(sums, axis=1))
      )


@pytest.mark.parametrize("regional", [False, True])
def test_a_normalised_vlad_has_length_one(regional):
  words = aggregate.Words(_noise(50, 11))
  found = aggregate.aggregate(
    words,
    _noise(60, 11, seed=1),
    aggregate.AggregateOptions(aggregate.VLAD, regional=regional),
    _REGIONS,
  )
  assert np.linalg.norm(found.descriptors) == pytest.approx(1, abs=1e-5)


def test_words_whose_residuals_cancel_are_left_out():
  centers = np.array([[0, 0], [4, 0], [0, 4]], np.float32)
  descriptors = [[0.5, 0.25], [-0.5, -0.25], [4, 0], [0, 3]]
  found = aggregate.aggregate(aggregate.Words(centers), descriptors)
  np.testing.assert_array_equal(found.words, [2])
  np.testing.assert_array_equal(found.descriptors, [[0]])


def test_no_features_have_no_words():
  words = aggregate.Words(_noise(20, 12))
  shapes = {"vlad": (240,), "asmk": (0, 12), "asmk_star": (0, 2)}
  for kind, shape in shapes.items():
    for regional in (False, True):
      options = aggregate.AggregateOptions(kind, regional=regional)
      found = aggregate.aggregate(words, [], options)
      assert found.descriptors.shape == shape
      assert not found.descriptors.any()
      assert kind == "vlad" or found.words.shape == (0,)


def test_what_is_given_is_not_changed():
  centers, descriptors = _noise(20, 4), _noise(9, 4, seed=1)
  centers.flags.writeable = descriptors.flags.writeable = False
  for kind in aggregate.KINDS:
    options = aggregate.AggregateOptions(kind, regional=True)
    aggregate.aggregate(aggregate.Words(centers), descriptors, options, [4, 5])


def test_bad_input_is_refused():
  words, descriptors = aggregate.Words(_noise(20, 4)), _noise(9, 4)
  overflow = np.array([2**63, 2**63, 9], np.uint64)  # Their sum is 9.
  for regions in ([4, 4], [10, -1], [[9]], [9.0], overflow):
    with pytest.raises(errors.InputError):
      aggregate.aggregate(words, descriptors, None, regions)
  with pytest.raises(errors.InputError, match="vlad, asmk, asmk_star.*bow"):
    aggregate.AggregateOptions("bow")
  with pytest.raises(errors.InputError, match="num_assignments.*2.5"):
    aggregate.AggregateOptions(num_assignments=2.5)


_DESCRIPTORS = {
  "vlad": np.arange(12, dtype=np.float32),
  "asmk": np.arange(8, dtype=np.float32).reshape(2, 4),
  "asmk_star": np.array([[1], [255]], np.uint8),
}


def _aggregated(kind):
  words = None if kind == "vlad" else np.array([1, 2], np.int32)
  return aggregate.Aggregated(_DESCRIPTORS[kind], words)


@pytest.mark.parametrize("prefix", ["", "r"])
@pytest.mark.parametrize("kind", aggregate.KINDS)
def test_what_is_written_is_read(kind, prefix, tmp_path):
  path = tmp_path / f"a.{prefix}{kind}"
  aggregate.write(path, _aggregated(kind))
  for limits in ({}, {"dimension": 4, "size": 3}):
    found = aggregate.read(path, **limits)
    assert found.descriptors.dtype == _DESCRIPTORS[kind].dtype
    np.testing.assert_array_equal(found.descriptors, _DESCRIPTORS[kind])
    if kind == "vlad":
      assert found.words is None
    else:
      assert found.words.dtype == np.int32
      np.testing.assert_array_equal(found.words, [1, 2])


def test_files_are_those_of_the_original(tmp_path):
  aggregate.write(tmp_path / "a.asmk_star", _aggregated("asmk_star"))
  first, second = datum_io.ReadPairFromFile(tmp_path / "a.asmk_star")
  assert (first.dtype, second.dtype) == (np.uint32, np.uint32)
  np.testing.assert_array_equal(first, [1, 255])
  np.testing.assert_array_equal(second, [1, 2])
  aggregate.write(tmp_path / "a.vlad", _aggregated("vlad"))
  assert datum_io.ReadFromFile(tmp_path / "a.vlad").shape == (12,)


def test_an_aggregate_without_words_is_read(tmp_path):
  for kind, width in (("asmk", 12), ("asmk_star", 2)):
    dtype = _DESCRIPTORS[kind].dtype
    none = aggregate.Aggregated(
      np.zeros([0, width], dtype), np.zeros([0], np.int32)
    )
    path = tmp_path / f"a.{kind}"
    aggregate.write(path, none)
    found = aggregate.read(path, dimension=12)
    assert found.descriptors.shape == (0, width)
    assert found.descriptors.dtype == dtype
    assert aggregate.read(path).descriptors.shape == (0, 0)


_FLOATS = np.ones([8], np.float32)
_WORDS = np.array([1, 2], np.uint32)


@pytest.mark.parametrize(
  "name, pair, words",
  [
    ("a.asmk", (_FLOATS, _WORDS[::-1]), "ascending"),
    ("a.asmk", (_FLOATS, _WORDS * 2), "under 3"),
    ("a.asmk", (_FLOATS[:7], _WORDS), "2 words of 4 values"),
    ("a.asmk", (_FLOATS * np.nan, _WORDS), "finite"),
    ("a.asmk", (_FLOATS.astype(np.uint32), _WORDS), "floats"),
    ("a.asmk", (_FLOATS, _WORDS.astype(np.float32)), "uint32"),
    ("a.asmk_star", (_WORDS * 200, _WORDS), "bytes"),
    ("a.asmk_star", (_FLOATS[:2], _WORDS), "bytes"),
    ("a.vlad", (_FLOATS,), "3 words of dimension 4"),
    ("a.vlad", (np.full([12], np.inf, np.float32),), "finite"),
    ("a.vlad", (np.ones([3, 4], np.float32),), r"\[K \* D\]"),
    ("a.bow", (_FLOATS,), ".asmk_star.*.bow"),
  ],
)
def test_other_files_are_refused(name, pair, words, tmp_path):
  path = tmp_path / name
  if len(pair) == 1:
    datum_io.WriteToFile(pair[0], path)
  else:
    datum_io.WritePairToFile(*pair, path)
  with pytest.raises(errors.InputError, match=words) as caught:
    aggregate.read(path, dimension=4, size=3)
  assert str(path) in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path):
  path = tmp_path / "a.rasmk_star"
  aggregate.write(path, _aggregated("asmk_star"))
  data = path.read_bytes()
  for cut in range(len(data)):
    path.write_bytes(data[:cut])
    with pytest.raises(errors.InputError):
      aggregate.read(path, dimension=4, size=3)


def test_a_configuration_says_extension_and_options():
  config = aggregation_config_pb2.AggregationConfig(num_assignments=3)
  assert aggregate.extension(config) == ".asmk_star"
  config.aggregation_type = config.VLAD
  config.use_regional_aggregation = True
  config.use_l2_normalization = False
  assert aggregate.extension(config) == ".rvlad"
  assert aggregate.options(config) == aggregate.AggregateOptions(
    "vlad", 3, regional=True, normalize=False
  )
  config.aggregation_type = config.INVALID
  with pytest.raises(
    errors.InputError, match="Invalid aggregation type: 0; use VLAD, A"
  ):
    aggregate.extension(config)
