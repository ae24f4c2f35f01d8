import numpy as np
import pytest

from delf.protos import aggregation_config_pb2
from delf.python import aggregate_io, aggregation, datum_io, errors

_DESCRIPTORS = {
  "vlad": np.arange(12, dtype=np.float32),
  "asmk": np.arange(8, dtype=np.float32).reshape(2, 4),
  "asmk_star": np.array([[1], [255]], np.uint8),
}


def _aggregated(kind):
  words = None if kind == "vlad" else np.array([1, 2], np.int32)
  return aggregation.Aggregated(_DESCRIPTORS[kind], words)


@pytest.mark.parametrize("prefix", ["", "r"])
@pytest.mark.parametrize("kind", aggregation.KINDS)
def test_what_is_written_is_read(kind, prefix, tmp_path):
  path = tmp_path / f"a.{prefix}{kind}"
  aggregate_io.write(path, _aggregated(kind))
  for limits in ({}, {"dimension": 4, "size": 3}):
    found = aggregate_io.read(path, **limits)
    assert found.descriptors.dtype == _DESCRIPTORS[kind].dtype
    np.testing.assert_array_equal(found.descriptors, _DESCRIPTORS[kind])
    if kind == "vlad":
      assert found.words is None
    else:
      assert found.words.dtype == np.int32
      np.testing.assert_array_equal(found.words, [1, 2])


def test_files_are_those_of_the_original(tmp_path):
  aggregate_io.write(tmp_path / "a.asmk_star", _aggregated("asmk_star"))
  first, second = datum_io.ReadPairFromFile(tmp_path / "a.asmk_star")
  assert (first.dtype, second.dtype) == (np.uint32, np.uint32)
  np.testing.assert_array_equal(first, [1, 255])
  np.testing.assert_array_equal(second, [1, 2])
  aggregate_io.write(tmp_path / "a.vlad", _aggregated("vlad"))
  assert datum_io.ReadFromFile(tmp_path / "a.vlad").shape == (12,)


def test_an_aggregate_without_words_is_read(tmp_path):
  for kind, width in (("asmk", 12), ("asmk_star", 2)):
    dtype = _DESCRIPTORS[kind].dtype
    none = aggregation.Aggregated(
      np.zeros([0, width], dtype), np.zeros([0], np.int32)
    )
    path = tmp_path / f"a.{kind}"
    aggregate_io.write(path, none)
    found = aggregate_io.read(path, dimension=12)
    assert found.descriptors.shape == (0, width)
    assert found.descriptors.dtype == dtype
    assert aggregate_io.read(path).descriptors.shape == (0, 0)


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
    aggregate_io.read(path, dimension=4, size=3)
  assert str(path) in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path):
  path = tmp_path / "a.rasmk_star"
  aggregate_io.write(path, _aggregated("asmk_star"))
  data = path.read_bytes()
  for cut in range(len(data)):
    path.write_bytes(data[:cut])
    with pytest.raises(errors.InputError):
      aggregate_io.read(path, dimension=4, size=3)


def test_a_configuration_says_extension_and_options():
  config = aggregation_config_pb2.AggregationConfig(num_assignments=3)
  assert aggregate_io.extension(config) == ".asmk_star"
  config.aggregation_type = config.VLAD
  config.use_regional_aggregation = True
  config.use_l2_normalization = False
  assert aggregate_io.extension(config) == ".rvlad"
  assert aggregate_io.options(config) == aggregation.AggregateOptions(
    "vlad", 3, regional=True, normalize=False
  )
  config.aggregation_type = config.INVALID
  with pytest.raises(errors.InputError, match="VLAD, ASMK or ASMK_STAR"):
    aggregate_io.extension(config)
