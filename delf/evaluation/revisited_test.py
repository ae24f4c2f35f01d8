import ast
import json

import numpy as np
import pytest

from delf.base import errors
from delf.python.datasets.revisited_op import dataset
from tests.stand_ins import npz


@pytest.fixture(scope="module")
def recorded(goldens):
  text = (goldens / "metrics_revisited.json").read_text()
  return json.loads(text), npz.read(goldens / "metrics_revisited.npz")


def _ground_truth(arrays):
  return [
    {label: arrays[f"gt{i}_{label}"] for label in ("easy", "hard", "junk")}
    for i in range(len(arrays["ranks"]))
  ]


def test_protocols_are_as_the_original_parses_them(recorded):
  arrays = recorded[1]
  parsed = dataset.ParseEasyMediumHardGroundTruth(_ground_truth(arrays))
  for protocol, truth in zip(("easy", "medium", "hard"), parsed, strict=True):
    for i, found in enumerate(truth):
      for key in ("ok", "junk"):
        np.testing.assert_array_equal(
          found[key], arrays[f"{protocol}{i}_{key}"]
        )


@pytest.mark.parametrize("ranks", ["1,5,10", "10,1,80", "1"])
@pytest.mark.parametrize("protocol", ["easy", "medium", "hard"])
def test_metrics_are_the_original_s(recorded, protocol, ranks):
  arrays = recorded[1]
  truth = [
    {key: arrays[f"{protocol}{i}_{key}"] for key in ("ok", "junk")}
    for i in range(len(arrays["ranks"]))
  ]
  found = dataset.ComputeMetrics(
    arrays["ranks"], truth, [int(rank) for rank in ranks.split(",")]
  )
  names = ("mAP", "mP", "mR", "AP", "P", "R")
  for name, value in zip(names, found, strict=True):
    np.testing.assert_allclose(
      value, arrays[f"metrics|{protocol}|{ranks}|{name}"], rtol=1e-12
    )


def test_average_precision_is_the_original_s(recorded):
  for ranks, expected in recorded[0]["ComputeAveragePrecision"].items():
    found = dataset.ComputeAveragePrecision(ast.literal_eval(ranks))
    assert found == pytest.approx(expected, rel=1e-14)


def test_precision_and_recall_are_the_original_s(recorded):
  for case, expected in recorded[0]["ComputePRAtRanks"].items():
    ranks, desired = map(ast.literal_eval, case.split("@"))
    found = dataset.ComputePRAtRanks(ranks, desired)
    np.testing.assert_array_equal(found, expected)


def test_adjusted_ranks_are_the_original_s_and_the_argument_stays(recorded):
  for case, expected in recorded[0]["AdjustPositiveRanks"].items():
    positive, junk = map(ast.literal_eval, case.split("/"))
    given = np.array(positive)
    found = dataset.AdjustPositiveRanks(given, junk)
    np.testing.assert_array_equal(found, expected["out"])
    np.testing.assert_array_equal(given, positive)


@pytest.mark.parametrize(
  "name", ["random", "oracle_noised", "junk_first", "perfect", "worst"]
)
def test_metrics_agree_with_the_benchmark_s_own(shared_data, name):
  expected = json.loads((shared_data / "eval_golden/expected.json").read_text())
  expected = expected["arrays"][name]
  folder = shared_data / "mini_roxford5k"
  truth = json.loads((folder / "gnd_roxford5k.json").read_text())["gnd"]
  ids = np.load(shared_data / "eval_golden" / expected["file"]).T
  for protocol, truth_of in zip(
    "EMH", dataset.ParseEasyMediumHardGroundTruth(truth), strict=True
  ):
    found = dataset.ComputeMetrics(ids, truth_of, [1, 5, 10])
    wanted = expected[protocol]
    assert found[0] == pytest.approx(wanted["mAP"], abs=1e-6)
    np.testing.assert_allclose(
      found[1], [wanted["mP"][k] for k in ("1", "5", "10")], atol=1e-6
    )
    np.testing.assert_allclose(
      found[3], np.array(wanted["AP"], float), atol=1e-6
    )


def test_ground_truth_without_positives_has_no_mean():
  truth = [{"ok": [], "junk": [1]}] * 2
  found = dataset.ComputeMetrics([[0, 1], [1, 0]], truth, [1, 2])
  for values in found:
    assert np.isnan(values).all()
  assert [np.shape(values) for values in found] == [
    (), (2,), (2,), (2,), (2, 2), (2, 2)
  ]  # fmt: skip


def test_a_positive_that_is_not_ranked_is_never_found():
  truth = [{"ok": [3, 9], "junk": [5]}]
  whole = dataset.ComputeMetrics([[5, 3, 0, 1, 2, 4, 6, 7, 8, 9]], truth, [2])
  cut = dataset.ComputeMetrics([[5, 3, 0, -1]], truth, [2])
  # The last positive adds to the whole ranking what it has at rank 8.
  assert cut[0] == 0.5
  assert whole[0] == pytest.approx(0.5 + (1 / 8 + 2 / 9) / 4)
  assert cut[5] == 0.5


@pytest.mark.parametrize("dtype", [list, np.uint8, np.int64, np.float64])
def test_ids_may_be_of_any_type_that_has_whole_numbers(dtype):
  ids = [[3, 0, 1, 2], [1, 2, 3, 0]]
  given = ids if dtype is list else np.array(ids, dtype)
  truth = [{"ok": np.array([0.0]), "junk": np.array([3.0])}] * 2
  found = dataset.ComputeMetrics(given, truth, (1, 2))
  np.testing.assert_array_equal(found[3], [1, (0 + 1 / 3) / 2])
  np.testing.assert_array_equal(found[4], [[1, 1], [0, 0]])


@pytest.mark.parametrize("wrong", [0.5, np.nan, np.inf])
def test_ids_that_are_not_whole_are_refused(wrong):
  with pytest.raises(errors.InputError, match="ids of images"):
    dataset.ComputeMetrics([[0, wrong]], [{"ok": [0], "junk": []}], [1])


@pytest.mark.parametrize(
  ("ids", "truth", "ranks", "words"),
  [
    ([[0, 1]], [{"ok": [0], "junk": []}], [3], "rank 3 exceeds the 2 images"),
    (
      [[0, 1]],
      [{"ok": [0], "junk": []}],
      [0],
      "ranks must be from 1 up, not [0]",
    ),
    ([[0, 0]], [{"ok": [0], "junk": []}], [1], "query 0"),
    ([[0, 1]], [{"ok": [-1], "junk": []}], [1], "query 0 has an id of -1"),
    ([[0, 1]], [{"ok": [0.5], "junk": []}], [1], "query 0 has an id of 0.5"),
    ([[0, 1]], [], [1], "1 queries"),
    ([0, 1], [], [1], "[2]"),
  ],
)
def test_what_cannot_be_measured_is_refused(ids, truth, ranks, words):
  with pytest.raises(errors.InputError) as error:
    dataset.ComputeMetrics(np.array(ids), truth, ranks)
  assert words in str(error.value)


_WHOLE = ("emh", "tuple_ranks", "one_rank", "nan", "np_scalars")
_WRAPPED = "many_ranks_wraps"
_BAD = {
  "read_bad_lines": "Malformed input: 2 lines",
  "read_dup": "the protocol .* occurs twice",
  "read_badprefix": "mX@k",
  "read_incons": r"the ranks differ, \[1\] and \[2\]",
  "read_wrongcount": "2 ranks, but 1 values",
}


@pytest.fixture(scope="module")
def recorded_metrics_file(goldens):
  text = (goldens / "metrics_revisited.json").read_text()
  return json.loads(text)["metrics_files"]


def _arguments(recorded_metrics_file, name):
  *values, ranks = recorded_metrics_file[name]["args"]
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
def test_text_is_the_original_s(recorded_metrics_file, name, tmp_path):
  path = tmp_path / "new" / "metrics.txt"
  with np.printoptions(precision=2, linewidth=20, threshold=3):
    dataset.SaveMetricsFile(*_arguments(recorded_metrics_file, name), path)
  assert path.read_bytes() == recorded_metrics_file[name]["text"].encode()


@pytest.mark.parametrize("name", _WHOLE)
def test_the_original_s_files_are_read_as_it_reads_them(
  recorded_metrics_file, name, tmp_path
):
  path = tmp_path / "metrics.txt"
  path.write_text(recorded_metrics_file[name]["text"])
  found = dataset.ReadMetricsFile(path)
  for value, expected in zip(
    found, recorded_metrics_file[name]["read"], strict=True
  ):
    _same(value, expected)


def test_long_lists_stay_on_a_line_and_are_read(
  recorded_metrics_file, tmp_path
):
  path = tmp_path / "metrics.txt"
  given = _arguments(recorded_metrics_file, _WRAPPED)
  dataset.SaveMetricsFile(*given, path)
  assert len(path.read_text().splitlines()) == 4
  found = dataset.ReadMetricsFile(path)
  np.testing.assert_array_equal(found[1], given[3])
  np.testing.assert_allclose(found[2]["m"], given[1]["m"], atol=5.1e-5)
  # The original wraps the same text, and then cannot read it.
  wrapped = recorded_metrics_file[_WRAPPED]["text"]
  path.write_text(wrapped)
  for i in (2, 3):
    again = dataset.ReadMetricsFile(path)[i]
    np.testing.assert_array_equal(found[i]["m"], again["m"])


def test_long_lists_of_the_original_are_read_where_they_wrap(
  recorded_metrics_file, tmp_path
):
  path = tmp_path / "metrics.txt"
  ranks = np.arange(1, 2001)
  values = {"hard": np.linspace(0, 1, 2000)}
  dataset.SaveMetricsFile({"hard": 0.5}, values, values, ranks, path)
  np.testing.assert_array_equal(dataset.ReadMetricsFile(path)[1], ranks)


@pytest.mark.parametrize("name", _BAD)
def test_malformed_files_are_refused(recorded_metrics_file, name, tmp_path):
  path = tmp_path / "metrics.txt"
  path.write_text(recorded_metrics_file[name]["text"])
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
