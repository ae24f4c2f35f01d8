import json

import numpy as np
import pytest

from delf.python import errors
from delf.python.datasets.revisited_op import dataset

_WHOLE = ("emh", "tuple_ranks", "one_rank", "nan", "np_scalars")
_WRAPPED = "many_ranks_wraps"
_BAD = {
  "read_bad_lines": "2 lines",
  "read_dup": "each protocol once",
  "read_badprefix": "mX@k",
  "read_incons": "the same ranks",
  "read_wrongcount": "2 values",
}


@pytest.fixture(scope="module")
def recorded(goldens):
  text = (goldens / "metrics_revisited.json").read_text()
  return json.loads(text)["metrics_files"]


def _arguments(recorded, name):
  *values, ranks = recorded[name]["args"]
  values = [
    {key: np.array(value, float) for key, value in by_protocol.items()}
    for by_protocol in values
  ]
  return *values, ranks


def _same(found, expected):
  if isinstance(expected, dict):
    assert set(found) == set(expected)
    for key in expected:
      _same(found[key], np.array(expected[key], float))
  else:
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", _WHOLE)
def test_text_is_the_original_s(recorded, name, tmp_path):
  path = tmp_path / "new" / "metrics.txt"
  with np.printoptions(precision=2, linewidth=20, threshold=3):
    dataset.SaveMetricsFile(*_arguments(recorded, name), path)
  assert path.read_bytes() == recorded[name]["text"].encode()


@pytest.mark.parametrize("name", _WHOLE)
def test_the_original_s_files_are_read_as_it_reads_them(
  recorded, name, tmp_path
):
  path = tmp_path / "metrics.txt"
  path.write_text(recorded[name]["text"])
  found = dataset.ReadMetricsFile(path)
  for value, expected in zip(found, recorded[name]["read"], strict=True):
    _same(value, expected)


def test_long_lists_stay_on_a_line_and_are_read(recorded, tmp_path):
  path = tmp_path / "metrics.txt"
  given = _arguments(recorded, _WRAPPED)
  dataset.SaveMetricsFile(*given, path)
  assert len(path.read_text().splitlines()) == 4
  found = dataset.ReadMetricsFile(path)
  np.testing.assert_array_equal(found[1], given[3])
  np.testing.assert_allclose(found[2]["m"], given[1]["m"], atol=5.1e-5)
  # The original wraps the same text, and then cannot read it.
  wrapped = recorded[_WRAPPED]["text"]
  path.write_text(wrapped)
  for i in (2, 3):
    again = dataset.ReadMetricsFile(path)[i]
    np.testing.assert_array_equal(found[i]["m"], again["m"])


def test_long_lists_of_the_original_are_read_where_they_wrap(
  recorded, tmp_path
):
  path = tmp_path / "metrics.txt"
  ranks = np.arange(1, 2001)
  values = {"hard": np.linspace(0, 1, 2000)}
  dataset.SaveMetricsFile({"hard": 0.5}, values, values, ranks, path)
  np.testing.assert_array_equal(dataset.ReadMetricsFile(path)[1], ranks)


@pytest.mark.parametrize("name", _BAD)
def test_malformed_files_are_refused(recorded, name, tmp_path):
  path = tmp_path / "metrics.txt"
  path.write_text(recorded[name]["text"])
  with pytest.raises(errors.InputError, match=_BAD[name]) as error:
    dataset.ReadMetricsFile(path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"\xff\xfe\0",
    b"m\n  mAP=?\n  mP@k[1] [1]\n  mR@k[1] [1]\n",
    b"m\n  mAP=1\n  mP@k[%s] [1]\n  mR@k[1] [1]\n" % (b"9" * 30),
    b"m\n  mAP=1\n  mP@k[%s] [1]\n  mR@k[1] [1]\n" % (b"9" * 5000),
    # Lines that are to be joined, more than can be looked at again for each.
    b"m\n  mAP=1\n  mP@k[%s" % (b"1\n" * 1_000_000),
  ],
  ids=["empty", "binary", "no number", "large", "larger", "many lines"],
)
def test_what_is_no_metrics_file_is_refused(data, tmp_path):
  path = tmp_path / "metrics.txt"
  path.write_bytes(data)
  with pytest.raises(errors.InputError):
    dataset.ReadMetricsFile(path)


def test_a_protocol_that_one_list_lacks_is_refused(tmp_path):
  path = tmp_path / "metrics.txt"
  with pytest.raises(errors.InputError, match="mR of hard"):
    dataset.SaveMetricsFile({"hard": 1}, {"hard": [1]}, {}, [1], path)
  assert not path.exists()
