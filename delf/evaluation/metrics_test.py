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
    ([list(range(1, 13))] * 2, "12 images, received image 12"),
    ([[0] * 12] * 2, "one twice"),
    ([list(range(12))], "1 queries"),
    ([[0, 1, 2]] * 2, "ranks up to 3"),
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
  with pytest.raises(errors.InputError, match="of 1 queries"):
    metrics.mean_curve([[1]], [])
  with pytest.raises(errors.InputError, match="once"):
    metrics.mean_curve([[1, 1]], [[1]])


def test_average_precision_of_known_rankings():
  assert metrics.average_precision([5, 4], [3, 2]) == 1.0
  # Ranked: true, false, true.
  assert metrics.average_precision([5, 3], [4]) == pytest.approx(
    (1 + 2 / 3) / 2
  )
  # Equal scores share one threshold.
  assert metrics.average_precision([1, 1], [1, 1]) == 0.5


def test_homography_agreement_is_two_percent_of_the_longer_side():
  truth = {"type": "homography", "H": np.diag([2.0, 2.0, 1.0])}
  one = np.array([[10.0, 10.0]] * 3)
  two = np.array([[20.0, 20.0], [39.9, 20.0], [40.1, 20.0]])
  good = metrics.agreeing(truth, one, two, (1000, 500))
  assert good.tolist() == [True, True, False]


@pytest.mark.parametrize("kind", ["pose", "points"])
def test_epipolar_agreement_is_one_percent_of_the_longer_side(kind):
  random = np.random.default_rng(0)
  camera = np.array([[800.0, 0, 500], [0, 800, 250], [0, 0, 1]])
  space = random.uniform([-2, -1, 4], [2, 1, 9], (40, 3))
  shift = np.array([1.0, 0, 0])
  one, two = (x @ camera.T for x in (space, space + shift))
  one, two = one[:, :2] / one[:, 2:], two[:, :2] / two[:, 2:]
  truth = {
    "type": kind,
    "K0": camera,
    "K1": camera,
    "R": np.eye(3),
    "t": shift,
    "points": np.hstack([one, two])[:12],
  }
  # Moved along x alone: epipolar lines are rows.
  for offset, expected in ((0.0, True), (9.8, True), (10.2, False)):
    good = metrics.agreeing(truth, one, two + [33, offset], (1000, 500))
    assert good.all() == expected and good.any() == expected


def test_solved_needs_enough_inliers_that_agree():
  truth = {"type": "homography", "H": np.eye(3)}
  points = np.random.default_rng(0).uniform(0, 500, (20, 2))
  off = points.copy()
  off[:6] += 50
  assert metrics.is_solved(truth, points, off, (1000, 500))
  assert not metrics.is_solved(truth, points[:14], points[:14], (1000, 500))
  off[:7] += 50
  assert not metrics.is_solved(truth, points, off, (1000, 500))


def test_area_under_recall_is_that_of_the_curve():
  # Recall is 0 at 0, a quarter at 1 and a half from 3 on; one never is.
  errors = [3.0, 1.0, 8.0, np.inf]
  area = 1 * 0.25 / 2 + 2 * (0.25 + 0.5) / 2 + 2 * 0.5
  assert metrics.area_under_recall(errors, 5) == pytest.approx(area / 5)
  assert metrics.area_under_recall([np.inf], 5) == 0
  assert metrics.area_under_recall([0.0, 0.0], 5) == 1


def _two_views(rotation, shift, number=60):
  camera = np.array([[800.0, 0, 500], [0, 800, 250], [0, 0, 1]])
  random = np.random.default_rng(0)
  space = random.uniform([-2, -1, 4], [2, 1, 9], (number, 3))
  views = [x @ camera.T for x in (space, space @ rotation.T + shift)]
  return camera, [view[:, :2] / view[:, 2:] for view in views]


def _cross(shift):
  x, y, z = shift
  return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _turn(degrees):
  cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])


@pytest.mark.parametrize(
  "turned, moved, expected", [(0, 0, 0), (7, 0, 7), (0, 12, 12), (3, 12, 12)]
)
def test_pose_error_is_the_larger_angle(turned, moved, expected):
  rotation, shift = _turn(10), np.array([1.0, 0.2, 0.1])
  camera, points = _two_views(rotation, shift)
  truth = {"K0": camera, "K1": camera}
  truth |= {"R": _turn(turned) @ rotation, "t": 3 * shift}
  if moved:
    axis = np.cross(shift, [0, 0, 1.0])
    axis /= np.linalg.norm(axis)
    angle = np.radians(moved)
    truth["t"] = np.cos(angle) * shift + np.sin(angle) * np.cross(axis, shift)
  essential = _cross(shift) @ rotation
  error = metrics.pose_error(essential, *points, truth)
  assert error == pytest.approx(expected, abs=1e-3)
  # The sign of the translation is open.
  truth["t"] = -truth["t"]
  error = metrics.pose_error(essential, *points, truth)
  assert error == pytest.approx(expected, abs=1e-3)


def test_pose_error_of_candidates_is_that_of_what_is_seen():
  rotation, shift = _turn(10), np.array([1.0, 0.2, 0.1])
  camera, points = _two_views(rotation, shift)
  truth = {"K0": camera, "K1": camera, "R": rotation, "t": shift}
  good = _cross(shift) @ rotation
  other = _cross([0.0, 0.1, 1.0]) @ _turn(80)
  error = metrics.pose_error(np.vstack([other, good]), *points, truth)
  assert error == pytest.approx(0, abs=1e-3)


def test_pose_error_without_a_pose_is_infinite():
  truth = {"K0": np.eye(3), "K1": np.eye(3), "R": np.eye(3), "t": [1, 0, 0]}
  nothing = np.zeros([0, 2])
  assert metrics.pose_error(None, nothing, nothing, truth) == np.inf
  assert metrics.pose_error(np.eye(3), nothing, nothing, truth) == np.inf


def test_transfer_error_is_the_mean_distance_where_both_are():
  truth = np.diag([2.0, 2.0, 1.0])
  sizes = (100, 80), (100, 100)
  assert metrics.transfer_error(truth, truth, *sizes) == 0
  moved = truth + np.array([[0, 0, 3.0], [0, 0, 4], [0, 0, 0]])
  error = metrics.transfer_error(moved, truth, *sizes)
  assert error == pytest.approx(5, abs=1e-5)
  # An affine map is a homography too.
  error = metrics.transfer_error(moved[:2], truth, *sizes)
  assert error == pytest.approx(5, abs=1e-5)
  assert metrics.transfer_error(None, truth, *sizes) == np.inf
  away = truth + np.array([[0, 0, 1000.0], [0, 0, 0], [0, 0, 0]])
  assert metrics.transfer_error(truth, away, *sizes) == np.inf
