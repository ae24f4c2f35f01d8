import json

import numpy as np
import pytest

from delf.base import errors
from delf.evaluation import ground_truth, metrics
from delf.python.datasets.revisited_op import dataset


def _ids(*lists):
  return tuple(np.array(ids, np.int64) for ids in lists)


def _truth(**changes):
  """Two queries on twelve images; the second has no easy one."""
  values = {
    "dataset": "mine",
    "index_names": tuple(f"i{i}" for i in range(12)),
    "query_names": ("q0", "q1"),
    "easy": _ids([0, 3], []),
    "hard": _ids([5], [1]),
    "junk": _ids([7], []),
    "boxes": (None, None),
  }
  return ground_truth.GroundTruth(**(values | changes))


def _rankings():
  generator = np.random.default_rng(2)
  return np.array([generator.permutation(12) for _ in range(2)], np.int32)


def test_metrics_are_those_of_each_protocol():
  truth, ids = _truth(), _rankings()
  found = metrics.evaluate(ids, truth)
  assert list(found.protocols) == ["easy", "medium", "hard"]
  for protocol, measured in found.protocols.items():
    expected = dataset.ComputeMetrics(
      ids, truth.protocols()[protocol], [1, 5, 10]
    )
    for value, wanted in zip(
      [
        measured.mean_average_precision,
        measured.mean_precisions,
        measured.mean_recalls,
        measured.average_precisions,
        measured.precisions,
        measured.recalls,
      ],
      expected,
      strict=True,
    ):
      np.testing.assert_array_equal(value, wanted)
    assert measured.curve_recalls.shape == measured.curve_precisions.shape
  assert found.protocols["easy"].left_out == ("q1",)
  assert found.protocols["hard"].left_out == ()
  assert (found.num_images, found.depth, found.ranks) == (12, 12, (1, 5, 10))


def test_rankings_may_differ_by_protocol():
  truth = _truth()
  best = np.array([[5, 0, 3] + [-1] * 7, [1] + [-1] * 9])
  found = metrics.evaluate({"hard": best, "medium": best[:, ::-1]}, truth)
  assert list(found.protocols) == ["hard", "medium"]
  assert found.protocols["hard"].mean_average_precision == 1
  assert found.protocols["medium"].mean_average_precision == 1
  assert found.depth == 10


def test_ranks_beyond_the_collection_are_left_out():
  truth = _truth(index_names=tuple("abcdefgh"))
  ids = np.array([np.arange(8)] * 2)
  assert metrics.evaluate(ids, truth).ranks == (1, 5)


def test_metrics_are_saved_as_the_original_saves_them(tmp_path):
  found = metrics.evaluate(_rankings(), _truth())
  metrics.save(found, tmp_path / "metrics.txt")
  means, ranks, precisions, _ = dataset.ReadMetricsFile(
    tmp_path / "metrics.txt"
  )
  assert ranks.tolist() == [1, 5, 10]
  for name, measured in found.protocols.items():
    assert means[name] == pytest.approx(
      measured.mean_average_precision, abs=5.1e-5
    )
    np.testing.assert_allclose(
      precisions[name], measured.mean_precisions, atol=5.1e-5
    )


@pytest.mark.parametrize("name", ["oracle_noised", "random"])
def test_metrics_agree_with_the_benchmark_s_own(shared_data, name):
  expected = json.loads((shared_data / "eval_golden/expected.json").read_text())
  expected = expected["arrays"][name]
  truth = ground_truth.read(shared_data / "mini_roxford5k/gnd_roxford5k.json")
  ids = np.load(shared_data / "eval_golden" / expected["file"]).T
  found = metrics.evaluate(ids, truth)
  assert truth.dataset == "roxford5k"
  for protocol, measured in found.protocols.items():
    wanted = expected[protocol[0].upper()]
    assert measured.mean_average_precision == pytest.approx(
      wanted["mAP"], abs=1e-6
    )
    np.testing.assert_allclose(
      measured.average_precisions, np.array(wanted["AP"], float), atol=1e-6
    )
  assert len(found.protocols["easy"].left_out) == 2


def test_a_small_collection_is_measured_as_by_others(shared_data):
  folder = shared_data / "mini_roxford5k"
  expected = json.loads((folder / "baseline.json").read_text())["sift_ransac"]
  truth = ground_truth.read(folder / "gnd_mini_roxford5k.mat")
  scores = np.load(folder / "baseline_inliers.npy").T
  ids = np.argsort(-scores, axis=1, kind="stable")
  for protocol, measured in metrics.evaluate(ids, truth).protocols.items():
    wanted = expected[protocol[0].upper()]
    assert measured.mean_average_precision == pytest.approx(
      wanted["mAP"], abs=1e-9
    )
    np.testing.assert_allclose(
      measured.mean_precisions, list(wanted["mP"].values()), atol=1e-9
    )


@pytest.mark.parametrize(
  ("ids", "words"),
  [
    ([list(range(1, 13))] * 2, "id 12, but the index has 12 images"),
    ([[0] * 12] * 2, "query 0 has an image more than once"),
    ([list(range(12))], "1 queries"),
    ([[0, 1, 2]] * 2, "rank 10 exceeds the 3 images"),
    ({"all": [list(range(12))] * 2}, "easy, medium, hard"),
    ([list(range(12))] * 2 + [[1.5] * 12], "float64"),
  ],
)
def test_what_cannot_be_measured_is_refused(ids, words):
  with pytest.raises(errors.InputError) as error:
    metrics.evaluate(ids, _truth())
  assert words in str(error.value)


def _curve(*arguments, **options):
  recalls, precisions = metrics.mean_curve(*arguments, **options)
  return dict(zip(recalls.round(3), precisions.round(4), strict=True))


def test_precision_is_the_highest_from_a_recall_on():
  # Hits at ranks 1, 4 and 5 of 4 positives: precisions 1, 1/2, 3/5.
  curve = _curve([[7, 1, 2, 8, 9]], [[7, 8, 9, 5]], levels=5)
  assert curve == {0: 1, 0.25: 1, 0.5: 0.6, 0.75: 0.6, 1: 0}


def test_junk_and_padding_count_as_not_there():
  with_junk = _curve([[3, 7, -1, 4, 8]], [[7, 8]], [[3, 4]], levels=3)
  assert with_junk == {0: 1, 0.5: 1, 1: 1}


def test_queries_without_positives_are_left_out_of_the_mean():
  curve = _curve([[1, 2], [2, 1], [1, 2]], [[1], [1], []], levels=2)
  assert curve == {0: 0.75, 1: 0.75}
  assert np.isnan(list(_curve([[1]], [[]], levels=3).values())).all()


def test_an_empty_ranking_has_no_precision():
  assert _curve([[]], [[1]], levels=2) == {0: 0, 1: 0}


def test_what_cannot_be_right_is_refused():
  with pytest.raises(
    errors.InputError, match="of 0 and junk of 1 .* of 1 queries"
  ):
    metrics.mean_curve([[1]], [])
  with pytest.raises(errors.InputError, match="more than once"):
    metrics.mean_curve([[1, 1]], [[1]])
